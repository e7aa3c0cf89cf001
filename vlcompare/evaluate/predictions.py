"""Prediction rows from a file: one JSON object a line with at least `id` and `text` (or `boxes`), optionally `side`.

Knows nothing of samples or scores. Lines that cannot be used are counted and named, never guessed at: a broken line, a
row without an id, and a second row for the same sample and side (the first one counts: an answer is given once).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError

NO_SIDE = ""


@dataclass(slots=True)
class Predictions:
    """Rows by side and sample id, and what was wrong with the file (sentences with line numbers)."""

    sides: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    duplicates: int = 0


def read_predictions(path: Path | str) -> Predictions:
    """Read a predictions file: JSON lines, or one JSON array.

    Raises SampleError where the file cannot be read, or where only some of its rows name a side.
    """
    path = Path(path)
    found = Predictions()
    try:
        for number, row in _rows(path, found.problems):
            _take(found, number, row)
    except (OSError, UnicodeDecodeError) as error:
        raise SampleError(f"The predictions file {path} cannot be read: {error}.") from error
    if NO_SIDE in found.sides and len(found.sides) > 1:
        count = len(found.sides[NO_SIDE])
        raise SampleError(f"{count} rows of {path} name no side and others do: give every row a `side`, or none.")
    return found


def _rows(path: Path, problems: list[str]) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        if file.read(1).strip() == "[":
            file.seek(0)
            try:
                yield from enumerate(json.load(file), 1)
            except ValueError as error:
                raise SampleError(f"{path} begins like a JSON array and is not one: {error}.") from error
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                problems.append(f"line {number}: not JSON ({error})")


def _take(found: Predictions, number: int, row: Any) -> None:
    if not isinstance(row, dict) or not isinstance(row.get("id"), (str, int)) or isinstance(row.get("id"), bool):
        found.problems.append(f"line {number}: not an object with an `id`")
        return
    if "text" not in row and "boxes" not in row and "error" not in row:
        found.problems.append(f"line {number}: neither `text` nor `boxes`")
        return
    side = row.get("side")
    rows = found.sides.setdefault(NO_SIDE if side is None else str(side), {})
    key = str(row["id"])
    if key in rows:
        found.duplicates += 1
        found.problems.append(f"line {number}: a second answer to {key!r}; the first one counts")
        return
    rows[key] = row
