"""Limits what the server writes to its terminal or log file, so that clients cannot fill the disk by causing errors.

Libraries print tracebacks and warnings of their own. After `bound_output` a repeated line is only counted, and all
lines together take a bounded number of bytes an hour.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TextIO

HOUR = 3600.0
BYTES = 256 * 1024  # an hour
LONGEST = 2000  # characters of a line
MAX_KNOWN = 500
_VALUES = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+|'[^']*'|\"[^\"]*\"")


class Bounded:
    """A text stream that writes to `stream` within the limit; `clock` returns seconds."""

    def __init__(self, stream: TextIO, most: int = BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._most = most
        self._clock = clock
        self._lock = threading.RLock()
        self._begun = ""
        self._known: OrderedDict[str, None] = OrderedDict()
        self._since, self._spent, self._left_out = clock(), 0, 0

    def write(self, text: str) -> int:
        """Write or drop whole lines; an incomplete line is kept until it is complete."""
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
            self._begun = self._begun[:LONGEST]
            for line in lines:
                self._line(line[:LONGEST])
        return len(text)

    def _line(self, line: str) -> None:
        now = self._clock()
        if now - self._since >= HOUR:
            left_out, self._left_out = self._left_out, 0
            self._since, self._spent = now, 0
            self._known.clear()
            if left_out:
                self._put(f"vlcompare: {left_out} lines were left out in the last hour: repetitions, or too many.")
        alike = _VALUES.sub("#", line)
        if alike.strip() and alike in self._known:
            self._left_out += 1
            return
        self._known[alike] = None
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        if self._spent + len(line) > self._most:
            self._left_out += 1
            return
        self._put(line)

    def _put(self, line: str) -> None:
        data = line + "\n"
        self._spent += len(data)
        with suppress(OSError, ValueError):  # the terminal is closed, or the disk is full: serving continues
            self._stream.write(data)
            self._stream.flush()

    def flush(self) -> None:
        with self._lock, suppress(OSError, ValueError):
            self._stream.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def bound_output() -> None:
    """Limit this process's standard output and standard error from now on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Bounded):
            setattr(sys, name, Bounded(stream))
