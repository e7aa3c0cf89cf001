"""Figures of a run as the page's tables take them: from its summary, and of slices of a selection.

Knows the evaluation's shapes; draws nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vlcompare.evaluate.results.slices import SliceRow
from vlcompare.evaluate.results.slices import slice_figures as evaluated
from vlcompare.evaluate.results.table import Rows, RunTable
from vlcompare.ui.inspect.views import Figures


def of_summary(summary: Mapping[str, Any], roles: Mapping[str, str]) -> list[Figures]:
    """Every task's main metric over all rows, as summary.json has it."""
    sides = summary.get("sides") or {}
    found = []
    for task, metric in (summary.get("main") or {}).items():
        own = {role: ((sides.get(side) or {}).get("tasks") or {}).get(task) or {} for role, side in roles.items()}
        counts = [int(figures.get("n") or 0) for figures in own.values()]
        paired = ((summary.get("paired") or {}).get(task) or {}).get(metric) or {}
        low, high = paired.get("ci95") or (None, None)
        found.append(
            Figures(
                name=task.replace("_", " "),
                n=max(counts, default=0),
                n_images=int((summary.get("n_images") or {}).get(task) or 0),
                values={role: _number(figures.get(metric)) for role, figures in own.items()},
                difference=None if paired.get("difference") is None else _number(paired["difference"]),
                low=_number(low),
                high=_number(high),
                intervals={role: _pair((figures.get("ci95") or {}).get(metric)) for role, figures in own.items()},
                metric=str(metric),
            )
        )
    return found


def of_slices(table: RunTable, aspect: str, rows: Rows) -> list[Figures]:
    """Each value of an aspect: the share of rows that are right, and the paired difference."""
    if aspect not in table.aspects:
        return []
    return [_slice(row) for row in evaluated(table, aspect, rows)]


def _slice(row: SliceRow) -> Figures:
    values, intervals = {"left": row.left}, {"left": tuple(row.left_ci95)}
    if row.right is not None and row.right_ci95 is not None:
        values["right"], intervals["right"] = row.right, tuple(row.right_ci95)
    if row.paired is None:
        return Figures(row.value, row.n, row.n_images, values, intervals=intervals)
    low, high = row.paired.ci95
    return Figures(row.value, row.n, row.n_images, values, row.paired.difference, low, high, intervals)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _pair(value: Any) -> tuple[float, float]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return _number(value[0]), _number(value[1])
    return math.nan, math.nan
