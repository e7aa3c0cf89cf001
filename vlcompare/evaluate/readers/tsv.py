"""VLMEvalKit's TSV: index, image (base64), question, answer, A, B, C, D, hint, category, split.

As VLMEvalKit documents it ("Develop new Benchmark": the data fields). Rows are read one at a time; a picture is
read again from its place in the file when it is wanted. An `image` that is short names the row whose picture it shares,
an earlier one or a later one. Lists of answers stand in Python's notation there: they are read as literals, never
evaluated.
"""

from __future__ import annotations

import ast
import csv
import io
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.base import (
    MAX_ROW_CHARACTERS,
    DatasetSource,
    Issue,
    Located,
    RowError,
    decode_picture,
    each,
    hashed,
)
from vlcompare.types import Sample

MAX_LITERAL = 20_000  # characters of a list of answers
_SHARED = 64  # an `image` shorter than this names another row


@dataclass(frozen=True, slots=True)
class TsvPicture:
    """The picture of one row, by the row's place in the file."""

    path: Path
    offset: int
    length: int
    column: int

    def __call__(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            fields = _fields(file.read(self.length).decode("utf-8"))
        return decode_picture(fields[self.column])


def read(source: DatasetSource) -> Iterator[Located | Issue]:
    """Samples of a TSV: multiple choice where it has columns A, B, ..; else of the declared task."""
    return each(source, _rows(source), _sample)


class _Pictures:
    """The pictures of a file by their row's index; a row that names a later one's has the whole file read once."""

    def __init__(self, source: DatasetSource) -> None:
        self._source = source
        self._known: dict[str, tuple[TsvPicture, str]] = {}
        self._complete = False

    def take(self, row: dict[str, str], picture: TsvPicture) -> None:
        if len(row["image"]) > _SHARED:
            self._known.setdefault(row["index"], (picture, hashed(row["image"])))

    def find(self, row: dict[str, str]) -> tuple[TsvPicture | None, str]:
        """(picture, its key) of a row. Raises RowError where it has none, or it is no base64."""
        own = len(row["image"]) > _SHARED
        name = row["index"] if own else row["image"].strip()
        if own and self._source.need_pictures:
            decode_picture(row["image"])
        if name not in self._known and not self._complete:
            for _, value in _table(self._source.path):
                if not isinstance(value, RowError):
                    self.take(*value)
            self._complete = True
        if name not in self._known and self._source.need_pictures:
            raise RowError(f"there is no picture here, and none in a row {name[:20]!r}")
        return self._known.get(name, (None, ""))


def _rows(source: DatasetSource) -> Iterator[tuple[str, Any]]:
    pictures = _Pictures(source)
    for location, value in _table(source.path):
        if isinstance(value, RowError):
            yield location, value
            continue
        pictures.take(*value)
        yield location, (value[0], pictures)


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    """(location, (row, its picture)) of each row, or a RowError in its place."""
    header: list[str] = []
    for number, offset, length, text in _records(path):
        try:
            fields = _fields(text)
        except (csv.Error, ValueError, StopIteration) as error:
            yield f"line {number}", RowError(f"not a TSV row ({error})")
            continue
        if not header:
            header = fields
            if "index" not in header or "image" not in header:
                raise SampleError(f"{path} is no VLMEvalKit TSV: it has no columns index and image.")
            continue
        if len(fields) != len(header):
            yield f"line {number}", RowError(f"{len(fields)} fields, not {len(header)}")
            continue
        row = dict(zip(header, fields, strict=True))
        yield f"line {number}", (row, TsvPicture(path, offset, length, header.index("image")))


def _records(path: Path) -> Iterator[tuple[int, int, int, str]]:
    """(first line, byte offset, byte length, text) of each record; a quoted field may hold line breaks."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise SampleError(f"{path} cannot be read: {error.strerror or error}.") from error
    with file:
        start = length = first = quotes = 0
        parts: list[bytes] = []
        for number, line in enumerate(file, 1):
            if not parts:
                start, first, length, quotes = start + length, number, 0, 0
            parts.append(line)
            length += len(line)
            quotes += line.count(b'"')
            if quotes % 2 and length < MAX_ROW_CHARACTERS:
                continue
            text = b"".join(parts).decode("utf-8-sig" if start == 0 else "utf-8", errors="replace")
            parts = []
            if text.strip():
                yield first, start, length, text.rstrip("\r\n")
        if parts:
            raise SampleError(f"{path} ends inside a quoted field that began in line {first}.")


def _fields(text: str) -> list[str]:
    csv.field_size_limit(MAX_ROW_CHARACTERS)
    return next(csv.reader(io.StringIO(text.rstrip("\r\n"), newline=""), delimiter="\t", strict=True))


def _sample(source: DatasetSource, location: str, value: tuple[dict[str, str], _Pictures]) -> Sample:
    row, pictures = value
    picture, key = pictures.find(row)
    choices = lettered(row)
    task = source.task or ("multiple_choice" if choices else None)
    if task is None:
        if "A" in row:
            raise RowError("no choices A, B, ..")
        raise SampleError(f"{source.path.name} has no choices A, B, ..: say what its rows are with --task.")
    answer = row.get("answer", "")
    if task == "multiple_choice":
        references: tuple[str, ...] = (letter_among(choices, answer),) if answer else ()
    else:
        references = literal_texts(answer)
    return Sample(
        id=row["index"],
        image=picture,
        task=task,
        text=asked(row),
        choices=tuple(choices.values()) or None if task == "multiple_choice" else None,
        references=references,
        split=row.get("split") or source.split,
        tags={name: row[name] for name in ("category", "l2-category") if row.get(name)},
        image_key=key,
    )


def asked(row: Mapping[str, Any]) -> str:
    """A row's question, behind its hint where it has one."""
    question = row.get("question") or ""
    return f"{row['hint'].strip()}\n{question}" if _filled(row.get("hint")) else question


def lettered(row: Mapping[str, Any]) -> dict[str, str]:
    """A row's choices by the letters of their columns; a column may be empty between others."""
    return {letter: row[letter] for letter in string.ascii_uppercase if _filled(row.get(letter))}


def letter_among(choices: Mapping[str, str], answer: Any) -> str:
    """The letter that the answer's column has once the choices are lettered anew, without gaps."""
    letter = str(answer).strip().upper()
    if letter not in choices:
        raise RowError(f"the answer {answer!r} is none of the choices {', '.join(choices)}")
    return string.ascii_uppercase[list(choices).index(letter)]


def _filled(cell: Any) -> bool:
    """Whether there is something in a cell; "nan" is what an empty one becomes on its way through pandas."""
    return isinstance(cell, str) and cell.strip() not in ("", "nan")


def literal_texts(value: str) -> tuple[str, ...]:
    """The texts of `['a', 'b']`, or the value itself where it is no list in Python's notation."""
    text = value.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return (text,) if text else ()
    if len(text) > MAX_LITERAL:
        raise RowError(f"the list of answers is longer than {MAX_LITERAL} characters")
    try:
        items = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return (text,)
    return tuple(str(item) for item in items if isinstance(item, (str, int, float)))
