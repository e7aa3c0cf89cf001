"""Regular expressions that users enter, searched for with a time limit.

`re` checks the syntax; `regex` searches, since it can stop after some time and lets other threads run meanwhile. It
compiles a counted repetition by writing it out, so the counts are bounded before.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence

import regex

from vlcompare.errors import RequestError

MAX_PATTERN = 200
MAX_REPEATS = 1000  # the product of a pattern's counts: more than the characters that are searched in
TEXT_SECONDS = 0.25  # of the process's computing, for one text
TEXTS_AT_ONCE = 32  # before the time is taken again
_COUNT = re.compile(r"\{\s*(\d+)")
_VERBOSE = re.compile(r"\(\?[a-zA-Z-]*x")  # would allow spaces and comments within a count
_COSTLY = re.compile(r"[*+?{(]")


class Search:
    """A compiled pattern that ignores case. Raises RequestError if it is invalid or too long."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > MAX_PATTERN:
            raise RequestError(f"A pattern has {MAX_PATTERN} characters at most; this one has {len(pattern)}.")
        try:
            re.compile(pattern)
            if _VERBOSE.search(pattern) or math.prod(max(1, int(n)) for n in _COUNT.findall(pattern)) > MAX_REPEATS:
                raise RequestError(f"A pattern can repeat something {MAX_REPEATS} times at most, and not be verbose.")
            self._pattern = regex.compile(pattern, regex.IGNORECASE | regex.MULTILINE)
        except (re.error, regex.error, OverflowError, RecursionError) as error:
            raise RequestError(f"This is not a regular expression: {error}.") from error
        self._limited = len(_COSTLY.findall(pattern)) > 1  # one repetition alone is quick: keeping time would cost more

    def matching(self, texts: Sequence[str], places: Sequence[int], seconds: float) -> list[int]:
        """Those of `places` where the pattern occurs in the text. Raises RequestError where that takes longer than
        `seconds` of this thread's computing, or TEXT_SECONDS for one text."""
        limit = {"timeout": TEXT_SECONDS} if self._limited else {}
        search, matching = self._pattern.search, list[int]()
        end = time.thread_time() + seconds
        try:
            for start in range(0, len(places), TEXTS_AT_ONCE):
                if time.thread_time() >= end:
                    raise TimeoutError
                matching += [i for i in places[start : start + TEXTS_AT_ONCE] if search(texts[i], **limit)]
        except (TimeoutError, MemoryError):
            raise RequestError(
                "This pattern takes too long on these samples: make it plainer, or filter first."
            ) from None
        return matching
