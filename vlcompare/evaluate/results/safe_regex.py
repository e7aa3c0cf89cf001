"""Regular expressions that a visitor enters, searched for with a time limit.

`re` checks the syntax and `regex` searches: it can stop after some time, and other threads go on meanwhile. Both bounds
below are needed besides: `regex` writes out a counted repetition, which takes memory.
"""

from __future__ import annotations

import math
import re

import regex

from vlcompare.errors import RequestError

MAX_PATTERN = 200
MAX_REPEATS = 1000  # the product of a pattern's counts: more than the characters that are searched in
_COUNT = re.compile(r"\{\s*(\d+)")
_VERBOSE = re.compile(r"\(\?[a-zA-Z-]*x")  # would allow spaces and comments within a count
_COSTLY = re.compile(r"[*+?{(]")


class Search:
    """A compiled pattern, in any case. Raises RequestError where it is none, or too long."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_PATTERN:
            raise RequestError(f"A pattern has {MAX_PATTERN} characters at most; this one has {len(pattern)}.")
        try:
            re.compile(pattern)
            if _VERBOSE.search(pattern) or math.prod(max(1, int(n)) for n in _COUNT.findall(pattern)) > MAX_REPEATS:
                raise RequestError(f"A pattern can repeat something {MAX_REPEATS} times at most, and not be verbose.")
            self._pattern = regex.compile(pattern, regex.IGNORECASE | regex.MULTILINE)
        except (re.error, regex.error, OverflowError, RecursionError) as error:
            raise RequestError(f"This is no regular expression: {error}.") from error
        self._limited = len(_COSTLY.findall(pattern)) > 1  # one repetition alone is quick: keeping time would cost more

    def found_in(self, text: str, seconds: float) -> bool:
        """Whether the pattern occurs in `text`. Raises RequestError where that takes longer than `seconds`."""
        try:
            return self._pattern.search(text, timeout=seconds if self._limited else None) is not None
        except (TimeoutError, MemoryError):
            raise RequestError(
                "This pattern takes too long on these samples: make it plainer, or filter first."
            ) from None
