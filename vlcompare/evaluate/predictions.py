"""Prediction rows from a file: one JSON object a line with at least `id` and `text` (or `boxes`), optionally `side`.

Knows nothing of samples or scores. Lines that cannot be used are counted and named, never guessed at: a broken line, a
row without an id, and a second row for the same sample and side (the first one counts: an answer is given once).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.fields import FieldError, described
from vlcompare.evaluate.readers.json_lines import each_line, exactly, why
from vlcompare.evaluate.schema import MOST_LINE, MOST_SIDES, prediction

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
    except OSError as error:
        raise SampleError(f"The predictions file {path} cannot be read: {error.strerror or error}.") from error
    if NO_SIDE in found.sides and len(found.sides) > 1:
        count = len(found.sides[NO_SIDE])
        raise SampleError(f"{count} rows of {path} name no side and others do: give every row a `side`, or none.")
    return found


def _rows(path: Path, problems: list[str]) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        if file.read(4).removeprefix(b"\xef\xbb\xbf")[:1] == b"[":
            file.seek(0)
            try:
                value = exactly(file.read())
                yield from enumerate(value if isinstance(value, list) else [value], 1)
            except (ValueError, RecursionError) as error:
                raise SampleError(f"{path} begins like a JSON array and is not one: {why(error)}.") from error
            return
        file.seek(0)
        for number, _, line in each_line(file, MOST_LINE):
            if line is None:
                problems.append(f"line {number}: more than {MOST_LINE:,} bytes")
                continue
            if not line.strip():
                continue
            try:
                yield number, exactly(line)
            except (ValueError, RecursionError) as error:
                problems.append(f"line {number}: {why(error)}")


def _take(found: Predictions, number: int, row: Any) -> None:
    try:
        key, side, row = prediction(row)
    except FieldError as error:
        found.problems.append(f"line {number}: {error}")
        return
    if "text" not in row and "boxes" not in row and "error" not in row:
        found.problems.append(f"line {number}: neither `text` nor `boxes`")
        return
    name = NO_SIDE if side is None else side
    if name not in found.sides and len(found.sides) >= MOST_SIDES:
        raise SampleError(f"The predictions name more than {MOST_SIDES} sides: {described(name)} in line {number}.")
    rows = found.sides.setdefault(name, {})
    if key in rows:
        found.duplicates += 1
        found.problems.append(f"line {number}: a second answer to {key!r}; the first one counts")
        return
    rows[key] = row
