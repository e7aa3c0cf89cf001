"""How far a download or a load is, as a sentence for the page: bytes, rate, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable

from vlcompare.types import Notify
from vlcompare.units import format_bytes, milliseconds

EVERY = 0.25  # seconds between two sentences on the same work
_ENOUGH = 1.0  # seconds after which a rate means something


class Told:
    """Called with (sentence, bytes done, bytes in all), as `hub.Progress`; says it with the rate since its beginning.

    "Downloading x" becomes "Downloading 210 MB of 1.0 GB, 100 MB/s, 7.9 s left: x". clock: seconds, for tests.
    """

    def __init__(self, say: Notify, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._sentence, self._began, self._first, self._last = "", 0.0, 0, float("-inf")

    def __call__(self, sentence: str, done: int = 0, total: int = 0) -> None:
        now = self._clock()
        if sentence != self._sentence:
            self._sentence, self._began, self._first, self._last = sentence, now, done, float("-inf")
        if now - self._last < EVERY and done < total:
            return
        self._last = now
        if not total:
            self._say(sentence)
            return
        doing, _, what = sentence.partition(" ")  # the figures first: a narrow place shows the beginning alone
        self._say(f"{doing} {self._how_far(done, total, now - self._began)}: {what}")

    def _how_far(self, done: int, total: int, seconds: float) -> str:
        parts = [f"{format_bytes(done)} of {format_bytes(total)}"]
        rate = (done - self._first) / seconds if seconds > _ENOUGH else 0.0
        if rate > 0 and done < total:
            parts += [f"{format_bytes(rate)}/s", f"{milliseconds(max(1e3, 1e3 * (total - done) / rate))} left"]
        return ", ".join(parts)
