"""JSON as other programs write it: a line's value, by a faster parser where there is one, and numbers.

orjson, which comes with gradio, takes less than half the time. NaN, which it refuses and the standard library reads, is
read by the latter; half of a character (a lone surrogate, which no text file can hold) is refused by both. Whole
numbers beyond 64 bits are floats to orjson: where they matter, as in an id, the line is read `exactly`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

try:
    from orjson import loads as _fast
except ImportError:  # a nicety, not a need
    _fast = None  # type: ignore[assignment]


_SAID = {  # how the standard library's messages begin -> what is wrong there
    "Expecting value": "a value is missing",
    "Expecting property name": "a name in double quotes is missing",
    "Expecting ',' delimiter": "a comma is missing",
    "Expecting ':' delimiter": "a colon is missing",
    "Extra data": "there is more behind its end",
    "Illegal trailing comma": "a comma is too many",
    "Invalid control character": "a line break or the like stands within a text",
    "Invalid \\": "a backslash begins no escape",
}
_LONG = re.compile(rb"\d{19}")  # digits: as many as a whole number of 64 bits has


def loads(line: bytes) -> Any:
    """The line's value, fast. Raises ValueError where it is not JSON, RecursionError where it is nested too deeply."""
    if _fast is not None:
        try:
            return _fast(line)
        except ValueError:
            pass  # the standard library reads more, and says more plainly what is wrong
    return _by_standard_library(line)


def why(error: Exception) -> str:
    """What is wrong with a text that is not JSON, in plain words; nothing of how it was read."""
    if isinstance(error, json.JSONDecodeError):
        where = f"at character {error.pos + 1}"
        if error.doc and (error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")):
            return f"not JSON: it ends in the middle of a value, as if cut off ({where})"
        if error.doc[error.pos : error.pos + 1] == "'":
            return f"not JSON but Python's notation, with single quotes: write it with `json.dump` ({where})"
        said = next((words for begin, words in _SAID.items() if error.msg.startswith(begin)), "something is wrong")
        return f"not JSON ({said} {where})"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeEncodeError):
        return "a text that holds half of a character (one of two surrogates)"
    if isinstance(error, UnicodeDecodeError):
        return not_utf8(error)
    return "not JSON that can be read"


def not_utf8(error: UnicodeDecodeError) -> str:
    """What a text is that is not UTF-8: the byte that is none, and what it means in the likeliest other encoding."""
    byte = error.object[error.start]
    if error.object[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "text in UTF-16, not in UTF-8: save the file as UTF-8"
    if b"\0" in error.object[:200]:
        return "not text in UTF-8 but binary data"
    if byte >= 0xA0:
        what = f"{bytes([byte]).decode('latin-1')!r} in Latin-1 (Windows-1252)"
    else:
        what = "none of Latin-1 either, as of Windows-1252 or an Asian encoding"
    return f"not text in UTF-8 (byte {byte:02X} at character {error.start + 1} is {what}): save the file as UTF-8"


def each_line(file: BinaryIO, most: int) -> Iterator[tuple[int, int, bytes | None]]:
    """(number, offset, line) of every line; None in place of one of more than `most` bytes, which is passed over."""
    number = offset = 0
    while line := file.readline(most + 1):
        number += 1
        start, offset = offset, offset + len(line)
        if len(line) <= most:
            yield number, start, line
            continue
        while not line.endswith(b"\n") and (line := file.readline(most)):
            offset += len(line)
        yield number, start, None


def exactly(line: bytes) -> Any:
    """The same with whole numbers of any length; by the faster parser where the line has none too long for it."""
    if _fast is not None and not _LONG.search(line):
        with suppress(ValueError):
            return _fast(line)
    return _by_standard_library(line)


def whole(data: bytes) -> Any:
    """A whole file's value; halves of characters and numbers of any length are kept as they are."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if _fast is not None and not _LONG.search(data):
        with suppress(ValueError):
            return _fast(data)
    return json.loads(data.decode())


def _by_standard_library(line: bytes) -> Any:
    """A byte order mark in front is not part of the value."""
    value = json.loads(line.decode("utf-8-sig"))
    if b"\\ud" in line or b"\\uD" in line:  # an escaped surrogate: a pair is one character, one alone is invalid
        json.dumps(value, ensure_ascii=False).encode()
    return value


def finite(value: Any) -> float | None:
    """A number as a finite float; None for any other value, for true and false, and for numbers beyond a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
