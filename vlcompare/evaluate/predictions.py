"""Prediction rows from a file: one JSON object a line with at least `id` and `text` (or `boxes`), optionally `side`.

Scoring, the inspect page and a run's log all parse rows here. A line that cannot be used is reported and skipped:
broken JSON, a row without an id, or a second row for the same sample and side (the first one counts).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vlcompare.errors import SampleError
from vlcompare.evaluate.fields import FieldError, described
from vlcompare.evaluate.readers.json_lines import each_line, exactly, loads, why
from vlcompare.evaluate.schema import MAX_LINE, MAX_SIDES, NO_SIDE, prediction

Key = tuple[str, str]  # (side, sample id)
PredictionRow = tuple[str, str, dict[str, Any]]  # (sample id, side or NO_SIDE, the typed row)


class ByteSpan(NamedTuple):
    """The position of a row in a file, in bytes."""

    path: Path
    offset: int
    length: int


@dataclass(slots=True)
class Predictions:
    """Rows by side and sample id, and what was wrong with the file (sentences with line numbers)."""

    sides: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    duplicates: int = 0
    contradicting: int = 0  # duplicates whose answer differs from the first one

    def add(self, number: int, row: PredictionRow | str) -> None:
        """Add the row of line `number`, or the sentence that says what is wrong with it."""
        if isinstance(row, str):
            self.problems.append(f"line {number}: {row}")
            return
        key, side, values = row
        if "text" not in values and "boxes" not in values and "error" not in values:
            self.problems.append(f"line {number}: neither `text` nor `boxes`")
            return
        if side not in self.sides and len(self.sides) >= MAX_SIDES:
            raise SampleError(f"The predictions name more than {MAX_SIDES} sides: {described(side)} in line {number}.")
        first = self.sides.setdefault(side, {}).setdefault(key, values)
        if first is not values:
            self.duplicates += 1
            self.contradicting += not same_answer(first, values)
            self.problems.append(f"line {number}: a second answer to {key!r}; the first one counts")


def same_answer(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two rows answer alike: the same text and the same boxes."""
    return all(first.get(name) == second.get(name) for name in ("text", "boxes"))


def read_predictions(path: Path | str) -> Predictions:
    """Read a predictions file: JSON lines, or one JSON array.

    Raises SampleError where the file cannot be read, or where only some of its rows name a side.
    """
    path, predictions = Path(path), Predictions()
    try:
        with path.open("rb") as file:
            is_array = file.read(4).removeprefix(b"\xef\xbb\xbf")[:1] == b"["
        for number, row in _read_array(path) if is_array else ((n, row) for n, _, row in read_lines(path)):
            predictions.add(number, row)
    except OSError as error:
        raise SampleError(f"The predictions file {path} cannot be read: {error.strerror or error}.") from error
    if NO_SIDE in predictions.sides and len(predictions.sides) > 1:
        count = len(predictions.sides[NO_SIDE])
        raise SampleError(f"{count} rows of {path} name no side and others do: give every row a `side`, or none.")
    return predictions


def _read_array(path: Path) -> Iterator[tuple[int, PredictionRow | str]]:
    try:
        value = exactly(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{path} begins like a JSON array and is not one: {why(error)}.") from error
    for number, item in enumerate(value, 1):
        try:
            yield number, prediction(item)
        except FieldError as error:
            yield number, str(error)


def read_lines(path: Path) -> Iterator[tuple[int, ByteSpan, PredictionRow | str]]:
    """(line number, span, row) of every line that is not blank; for an unusable line the row is the reason, a text.

    Raises OSError where the file cannot be read.
    """
    row: PredictionRow | str
    with path.open("rb") as file:
        for number, start, line in each_line(file, MAX_LINE):
            if line is None:
                error = FieldError("", f"a line of more than {MAX_LINE:,} bytes", "a row")
                yield number, ByteSpan(path, start, 0), str(error)
                continue
            try:
                row = read_row(line)
            except (ValueError, RecursionError) as error:
                if not line.strip():
                    continue
                row = str(error) if isinstance(error, FieldError) else why(error)
            yield number, ByteSpan(path, start, len(line)), row


def read_row(line: bytes) -> PredictionRow:
    """The typed row of a line. Raises ValueError (FieldError) or RecursionError if the line is not a row."""
    return prediction(line_value(line))


def line_value(line: bytes) -> Any:
    """A line's JSON value; whole numbers of any length stay exact in `id`, `side` and `text`."""
    value = loads(line)
    if type(value) is dict and float in (type(value.get("id")), type(value.get("side")), type(value.get("text"))):
        return exactly(line)
    return value
