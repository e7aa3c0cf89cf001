"""Regular expressions from a visitor, kept from running forever. Knows nothing of what they are searched in.

Python's matcher tries one way after the other to fit a pattern to a text, and holds everybody up meanwhile. In how many
ways a pattern can fit from one place is counted before it is used: one repetition without a bound fits in as many as
the text has characters, two in a row in the square of that, a choice within a repetition in numbers without end.
"""

from __future__ import annotations

import math
import re
from re import _parser as sre  # type: ignore[attr-defined]
from typing import Any

from vlcompare.errors import RequestError

MAX_PATTERN = 200
SEARCHED = 600  # characters of a text that patterns are searched in
LONG = 250  # what a repetition without a bound counts for: two fit in SEARCHED ** 2 / 6 ways, the mean over all places
MAX_WAYS = 4 * (LONG + 1) ** 2  # two repetitions without a bound, and a few choices beside them
_REPEATS = {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a pattern, in any case. Raises RequestError where it is none, too long, or could take too long."""
    if len(pattern) > MAX_PATTERN:
        raise RequestError(f"A pattern has {MAX_PATTERN} characters at most; this one has {len(pattern)}.")
    try:
        compiled = re.compile(pattern, re.IGNORECASE | re.MULTILINE)
        parsed = sre.parse(pattern, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise RequestError(f"This is no regular expression: {error}.") from error
    if _ways(parsed) > MAX_WAYS:
        raise RequestError(
            "This pattern could search for very long: use two of *, + and {n,} at most, few choices beside them, and "
            "neither a choice nor a repetition within another repetition."
        )
    return compiled


def _ways(node: Any) -> float:
    """In how many ways a sub-pattern can fit from one place, at most; infinite where they are too many to count."""
    ways = 1.0
    for kind, argument in node:
        name = str(kind)
        if name == "GROUPREF":
            raise RequestError("References back (\\1) cannot be searched for.")
        parts = [_ways(part) for part in _parts(argument)]
        if name in _REPEATS:
            least, most = min(argument[0], LONG), min(argument[1], LONG)
            inside = math.prod(parts)
            ways *= (most - least + 1) * (1.0 if inside == 1 else _power(inside, most))
        elif name in ("BRANCH", "GROUPREF_EXISTS"):
            ways *= max(1.0, sum(parts))
        else:
            ways *= math.prod(parts)
    return ways


def _power(base: float, exponent: int) -> float:
    return math.inf if exponent * math.log(max(base, 1.0)) > 100 else base**exponent


def _parts(argument: Any) -> list[Any]:
    """The sub-patterns of a node's argument, however deep they lie in tuples and lists."""
    if isinstance(argument, sre.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [part for item in argument for part in _parts(item)]
    return []
