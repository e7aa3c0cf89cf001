"""The lines of a file of rows: which of them are whole, and what is said of those that are left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from vlcompare.evaluate.readers.json_lines import why

_MAX_TOLD = 10  # damaged lines of a file, on the terminal
_LONGEST_CAUSE = 200


def whole_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines of a file of rows with their numbers, without empty ones and a last one that was cut off in writing."""
    *lines, last = data.split(b"\n")
    for number, line in enumerate([*lines, last] if is_whole(last) else lines, 1):
        if line.strip():
            yield number, line


def is_whole(line: bytes) -> bool:
    """Whether the line is JSON: it was not cut off in writing."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def value_of(line: bytes) -> Any:
    """What a line holds. Raises ValueError, in plain words, where it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(why(error)) from error


def cause(error: Exception) -> str:
    """What is wrong with a line, to stand within a sentence; a line may hold any text."""
    return str(error)[:_LONGEST_CAUSE].rstrip(".")


def version_of(row: dict[str, Any]) -> str:
    """What a row says about its version, in words."""
    return f"version {str(row['version'])[:20]}" if "version" in row else "no version"


def plain(sentence: str) -> str:
    """A sentence without control characters and line breaks, which a line of a file may hold."""
    return "".join(letter if letter.isprintable() else "�" for letter in sentence)


def left_out(problems: Sequence[str]) -> list[str]:
    """Lines of a report about what it leaves out: every sentence about a file's lines."""
    if not problems:
        return []
    count = "1 line is" if len(problems) == 1 else f"{len(problems):,} lines are"
    return [f"**Left out: {count} damaged or of another kind.**", "", *(f"- {one}" for one in problems), ""]


def told(done: str, problems: Sequence[str]) -> str:
    """What a report says on the terminal: what is done, and the first lines that it leaves out."""
    more = len(problems) - _MAX_TOLD
    rest = [f"{more:,} more lines are left out; the report names them."] if more > 0 else []
    return "\n".join([done, *(f"Left out: {one}" for one in problems[:_MAX_TOLD]), *rest])
