"""Tables with tabs (TSV), record by record, read as pandas reads them.

A quote opens a quoted field only where the field begins with it; anywhere else it is a character like any other. A
quoted field may hold tabs and line breaks, and a doubled quote in it is one quote.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.json_lines import not_utf8
from vlcompare.evaluate.readers.opening import MAX_ROW_CHARACTERS, RowError


def records(path: Path) -> Iterator[tuple[int, int, int, str]]:
    """(first line, byte offset, byte length, text) of each record; a quoted field may hold line breaks."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise SampleError(f"{path} cannot be read: {error.strerror or error}.") from error
    with file:
        start = length = first = number = 0
        quoted = False
        parts: list[bytes] = []
        while line := file.readline(MAX_ROW_CHARACTERS):
            number += 1
            if not parts:
                start, first, length, quoted = start + length, number, 0, False
            parts.append(line)
            length += len(line)
            quoted = _open_at_end(line, quoted)
            if quoted and length < MAX_ROW_CHARACTERS:
                continue
            try:
                text = b"".join(parts).decode("utf-8-sig" if start == 0 else "utf-8")
            except UnicodeDecodeError as error:
                raise SampleError(f"{path} line {first} is {not_utf8(error)}.") from error
            parts = []
            if text.strip():
                yield first, start, length, text.rstrip("\r\n")
        if parts:
            raise SampleError(
                f'{path} ends inside a quoted field that began in line {first}: a quote "'
                "that opens a field has to be closed, and one that is a character of it to be doubled."
            )


def _open_at_end(line: bytes, quoted: bool) -> bool:
    """Whether a quoted field goes on after this line; `quoted`: whether one goes on into it."""
    if b'"' not in line and not quoted:
        return False
    location = 3 if line.startswith(b'\xef\xbb\xbf"') else 0
    while True:
        if not quoted and line[location : location + 1] == b'"':
            quoted, location = True, location + 1
        while quoted:
            location = line.find(b'"', location)
            if location < 0:
                return True
            if line[location + 1 : location + 2] == b'"':
                location += 2
            else:
                quoted, location = False, location + 1
        location = line.find(b"\t", location) + 1
        if not location:
            return False


def fields_of(text: str) -> list[str]:
    """The fields of one record."""
    csv.field_size_limit(MAX_ROW_CHARACTERS)
    return next(csv.reader(io.StringIO(text.rstrip("\r\n"), newline=""), delimiter="\t"))


def header_of(path: Path) -> list[str]:
    """The names of a table's columns; none where there is no record."""
    first = next(records(path), None)
    return fields_of(first[3]) if first else []


def table_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(location, row or RowError) of each record after the header; what a cell holds is text."""
    for location, _, _, row in placed_rows(path):
        yield location, row


def placed_rows(path: Path) -> Iterator[tuple[str, int, int, Any]]:
    """(location, byte offset, byte length, row or RowError) of each record after the header."""
    header: list[str] = []
    for number, offset, length, text in records(path):
        try:
            fields = fields_of(text)
        except (csv.Error, ValueError, StopIteration) as error:
            yield f"line {number}", offset, length, RowError(f"not a row of a table ({error})")
            continue
        if not header:
            header = fields
            continue
        if len(fields) != len(header):
            row: Any = RowError(f"{len(fields)} fields, not {len(header)}")
        else:
            row = dict(zip(header, fields, strict=True))
        yield f"line {number}", offset, length, row
