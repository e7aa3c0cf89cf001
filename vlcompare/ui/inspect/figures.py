"""Tables of figures on the inspect page: every task's metric over all samples, and each slice of the selection."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlcompare.evaluate.results.slices import slice_figures
from vlcompare.evaluate.results.table import Rows, RunTable
from vlcompare.evaluate.statistics import Interval
from vlcompare.render.charts import interval
from vlcompare.render.markup import Safe, el
from vlcompare.ui.inspect.query import Query
from vlcompare.ui.inspect.selection import Names

MOST_SLICES = 60
UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Figures:
    """A set of samples under one metric: each side's mean, and left - right where there are two; nan where unknown."""

    name: str
    n: int
    n_images: int
    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    difference: float = math.nan
    ci95: Interval = UNKNOWN  # of the difference
    metric: str = ""


def of_summary(summary: Mapping[str, Any], roles: Mapping[str, str]) -> list[Figures]:
    """Every task's main metric over all rows, as summary.json has it. roles: "left" or "right" -> the run's side."""
    sides, paired = summary.get("sides") or {}, summary.get("paired") or {}
    figures = []
    for task, metric in (summary.get("main") or {}).items():
        own = {role: ((sides.get(side) or {}).get("tasks") or {}).get(task) or {} for role, side in roles.items()}
        pair = (paired.get(task) or {}).get(metric) or {}
        figures.append(
            Figures(
                name=task.replace("_", " "),
                n=max((int(recorded.get("n") or 0) for recorded in own.values()), default=0),
                n_images=int((summary.get("n_images") or {}).get(task) or 0),
                values={role: _number(recorded.get(metric)) for role, recorded in own.items()},
                intervals={role: _interval((recorded.get("ci95") or {}).get(metric)) for role, recorded in own.items()},
                difference=_number(pair.get("difference")),
                ci95=_interval(pair.get("ci95")),
                metric=str(metric),
            )
        )
    return figures


def of_slices(table: RunTable, aspect: str, rows: Rows) -> list[Figures]:
    """Each value of an aspect: the share of rows that are right, and the paired difference."""
    figures = []
    for row in slice_figures(table, aspect, rows) if aspect in table.aspects else ():
        values, intervals = {"left": row.left}, {"left": row.left_ci95}
        if row.right is not None and row.right_ci95 is not None:
            values["right"], intervals["right"] = row.right, row.right_ci95
        pair = (row.paired.difference, row.paired.ci95) if row.paired else ()
        figures.append(Figures(row.value, row.n, row.n_images, values, intervals, *pair))
    return figures


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _interval(value: Any) -> Interval:
    return Interval(*map(_number, value)) if isinstance(value, (list, tuple)) and len(value) == 2 else UNKNOWN


def figures_table(rows: Sequence[Figures], names: Names) -> Safe:
    """Every task's main metric: each side with its interval, and the paired difference."""
    return _table(rows, names, "Task", lambda row: el("th", row.name, el("small", row.metric), scope="row"))


def slices_table(rows: Sequence[Figures], names: Names, dimension: str, title: str, query: Query) -> Safe:
    """Each slice of a dimension as a button that filters, with its figures."""
    if not rows:
        return el("p", "No sample here says anything about this.", class_="vl-empty")

    def first(row: Figures) -> Safe:
        pressed = (dimension, row.name) in query.slices
        button = el(
            "button",
            row.name.replace("_", " ") if dimension == "task" else row.name,
            type="button",
            data_pick=f"slice:{dimension}|{row.name}",
            aria_pressed="true" if pressed else "false",
            class_="vi-link",
        )
        return el("th", button, scope="row")

    more = len(rows) - MOST_SLICES
    rest = el("p", f"{more} smaller slices are not shown.", class_="vl-note") if more > 0 else None
    return el("div", _table(rows[:MOST_SLICES], names, title, first), rest)


def _table(rows: Sequence[Figures], names: Names, title: str, first: Callable[[Figures], Safe]) -> Safe:
    differences = [value for row in rows for value in (row.difference, *row.ci95) if math.isfinite(value)]
    reach = max(map(abs, differences), default=1.0)
    head_cells = [el("th", title, scope="col"), el("th", "samples", scope="col", class_="vi-number")]
    head_cells += [el("th", side, scope="col", data_side=side, class_="vi-number") for side in names.sides]
    if names.both:
        head_cells += [
            el("th", "left − right", scope="col", class_="vi-number"),
            el("th", "95 % interval", scope="col"),
        ]
    body = []
    for row in rows:
        pictures = f"{row.n:,} samples of {row.n_images:,} pictures"
        cells = [first(row), el("td", f"{row.n:,}", class_="vi-number", title=pictures)]
        for side in names.sides:
            mean, (low, high) = row.values.get(side, math.nan), row.intervals.get(side, UNKNOWN)
            span = f"95 % interval {low:.3f} to {high:.3f}" if math.isfinite(low) else None
            cells.append(el("td", f"{mean:.3f}" if math.isfinite(mean) else "–", class_="vi-number", title=span))
        if names.both:
            cells += _difference(row, reach)
        body.append(el("tr", *cells))
    table = el("table", el("thead", el("tr", *head_cells)), el("tbody", *body), class_="vl-table vi-table")
    return el("div", table, class_="vl-scroll")


def _difference(row: Figures, reach: float) -> list[Safe]:
    if not math.isfinite(row.difference):
        return [el("td", "–", class_="vi-number"), el("td")]
    number = el("td", f"{row.difference:+.3f}", class_="vi-number")
    if not all(map(math.isfinite, row.ci95)):
        return [number, el("td", "one picture", class_="vl-muted")]
    span = el("span", f"{row.ci95.low:+.2f} to {row.ci95.high:+.2f}", class_="vi-span")
    return [number, el("td", interval(row.difference, *row.ci95, reach), span, class_="vi-whiskers")]
