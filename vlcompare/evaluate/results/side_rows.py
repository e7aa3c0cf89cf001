"""What the sides of a run answered: slim rows in memory, and the place of each whole row in its file.

A line that cannot be used is named and left out; the first row of a sample and side counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate import run_files
from vlcompare.evaluate.fields import MAX_NUMBER, described
from vlcompare.evaluate.predictions import ByteSpan, read_lines
from vlcompare.evaluate.schema import MAX_SIDES, NO_SIDE, refused
from vlcompare.types import SIDES

PROBLEMS_KEPT = 100
_NUMBERS = frozenset((int, float))


@dataclass(slots=True)
class SideRows:
    """What one side answered, in the samples' order; None where it did not."""

    rows: list[dict[str, Any] | None]  # slim: text, boxes, phrases, error, confidence, rests_on_target
    spans: list[ByteSpan | None]


def read_sides(
    folder: Path, record: Mapping[str, Any], index: Mapping[str, int], problems: list[str]
) -> dict[str, SideRows]:
    """Every side's rows, "left" and "right" first. `index`: sample id -> row; `problems` gets what was left out.

    Raises SampleError where there are no answers, or a file is not one of a run's.
    """
    sides = {side: _empty(index) for side in (record.get("identity") or {}).get("sides") or ()}
    for path in run_files.parts(folder):
        if path.exists():
            _read_part(run_files.member(folder, path.name), index, sides, problems)
    if not sides:
        raise SampleError(f"{folder.name} holds no answers: it has no {run_files.PREDICTIONS}.")
    if set(sides) == {NO_SIDE}:
        sides = {"left": sides[NO_SIDE]}
    return dict(sorted(sides.items(), key=lambda item: (*(item[0] != side for side in SIDES), item[0])))


def _empty(index: Mapping[str, int]) -> SideRows:
    return SideRows([None] * len(index), [None] * len(index))


def _read_part(path: Path, index: Mapping[str, int], sides: dict[str, SideRows], problems: list[str]) -> None:
    try:
        for number, span, row in read_lines(path):
            if isinstance(row, str):
                if len(problems) < PROBLEMS_KEPT:
                    problems.append(f"{path.name} line {number} is damaged: {row}")
                continue
            key, side, values = row
            i = index.get(key)
            if i is not None:
                rows = _side(side, index, sides, path.name)
                if rows.rows[i] is None:
                    rows.rows[i], rows.spans[i] = slim(values), span
    except OSError as error:
        raise SampleError(f"{path.name} cannot be read: {error.strerror or error}.") from error


def _side(side: str, index: Mapping[str, int], sides: dict[str, SideRows], file: str) -> SideRows:
    rows = sides.get(side)
    if rows is None:
        if len(sides) >= MAX_SIDES:
            raise refused(file, f"it has more than {MAX_SIDES} sides, the last one {described(side)}")
        rows = sides[side] = _empty(index)
    return rows


def slim(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a row in memory: what scoring and the table need."""
    kept: dict[str, Any] = {"text": row.get("text"), "boxes": row.get("boxes")}
    for name in ("error", "phrases"):
        if row.get(name):
            kept[name] = row[name]
    place = (row.get("evidence_map") or {}).get("true_place")
    if place:
        kept["rests_on_target"] = place["largest_inside"]
    confidence = _confidence(row.get("tokens"))
    if confidence is not None:
        kept["confidence"] = confidence
    return kept


def _confidence(tokens: Any) -> float | None:
    """Mean log-probability of the tokens, as the models' own; None where a row has none, or something else."""
    try:
        values = [token["logprob"] for token in tokens]
        total = float(sum(values))
    except (TypeError, KeyError, OverflowError):
        return None
    if not values or not _NUMBERS.issuperset(map(type, values)) or not math.isfinite(total):
        return None
    return max(-MAX_NUMBER, min(MAX_NUMBER, total / len(values)))
