"""Regular expressions from a visitor, kept from running forever. Knows nothing of what they are searched in.

Python's matcher tries ways back without end where a repetition that has no bound holds another one, or where several
stand in a row. Such patterns are refused with a sentence; what is left ends in time on a few hundred characters.
"""

from __future__ import annotations

import re
from re import _parser as sre  # type: ignore[attr-defined]
from typing import Any

from vlcompare.errors import RequestError

MAX_PATTERN = 200
MAX_UNBOUNDED = 3
_REPEATS = {"MAX_REPEAT", "MIN_REPEAT"}


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a pattern, in any case. Raises RequestError where it is none, too long, or could take too long."""
    if len(pattern) > MAX_PATTERN:
        raise RequestError(f"A pattern has {MAX_PATTERN} characters at most; this one has {len(pattern)}.")
    try:
        compiled = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
        parsed = sre.parse(pattern, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise RequestError(f"This is no regular expression: {error}.") from error
    if _unbounded(parsed, inside=False) > MAX_UNBOUNDED:
        raise RequestError(
            f"A pattern may hold {MAX_UNBOUNDED} of *, + and {{n,}} at most, so that searching ends in time."
        )
    return compiled


def _unbounded(node: Any, inside: bool) -> int:
    """Counts repetitions that are long; refuses one inside another, and references back."""
    count = 0
    for kind, argument in node if isinstance(node, sre.SubPattern) else ():
        name = str(kind)
        if name == "GROUPREF":
            raise RequestError("References back (\\1) cannot be searched for.")
        long = name in _REPEATS and argument[1] > 10
        if long and inside:
            raise RequestError("A repetition inside a repetition could search forever: write it without, please.")
        count += long
        for part in _parts(argument):
            count += _unbounded(part, inside or long)
    return count


def _parts(argument: Any) -> list[Any]:
    """The sub-patterns of a node's argument, however deep they lie in tuples and lists."""
    if isinstance(argument, sre.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [part for item in argument for part in _parts(item)]
    return []
