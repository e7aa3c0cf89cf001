"""The engine's clock: seconds of work on one answer, without the time that the consumer of a stream takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Time spent in the engine, lap by lap.

    On CUDA a lap is the device's own time, between two events in its stream. All threads share one default stream a
    device: where two sides race on one GPU, a lap includes what the other side launched between its events.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self.total = 0.0  # seconds of work since the start, up to the last lap
        self.cpu = 0.0  # seconds of CPU time of the calling thread in it; stays 0 where the work is a GPU's
        self._before_pause = self._cpu_before_pause = 0.0  # seconds of the present lap that lie before a pause
        self._begin()

    def _begin(self) -> None:
        self._host = time.perf_counter()
        self._thread = time.thread_time()
        self._event: Any = None
        if self._cuda is not None:
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record(torch.cuda.current_stream(self._cuda))

    def mark(self) -> Any:
        """A point in the device's work behind all that was launched so far; None on a CPU."""
        if self._cuda is None:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._cuda))
        return event

    def lap(self, begin: Any = None, end: Any = None) -> float:
        """Seconds of work since the last lap. Waits until the device has finished it.

        end: the mark behind the lap's work, where more was launched since; it alone is waited for. begin: the mark in
        front of work that was launched before the lap began; the lap then lasts as long as the device was at it or, if
        that was longer, as the host was at work since the last lap and waited.
        """
        before, began, worked = self._event, self._host, self._thread
        if end is not None:
            end.synchronize()
        self._begin()
        if self._cuda is None:
            seconds = self._host - began
            self.cpu += self._cpu_before_pause + max(0.0, self._thread - worked)
        elif begin is not None:
            seconds = max(self._host - began, begin.elapsed_time(end) / 1e3 - self._before_pause)
        else:
            if end is None:
                end = self._event
                end.synchronize()
            seconds = before.elapsed_time(end) / 1e3
            self._host = time.perf_counter()
        seconds += self._before_pause
        self._before_pause = self._cpu_before_pause = 0.0
        self.total += seconds
        return seconds

    def credit(self, seconds: float, cpu: float) -> None:
        """Count work that was done elsewhere as if it had been done here."""
        self.total += seconds
        self.cpu += cpu if self._cuda is None else 0.0

    def so_far(self) -> float:
        """Seconds of work since the start, the present lap included: by the host's clock, without waiting."""
        return self.total + self._before_pause + time.perf_counter() - self._host

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count."""
        self._before_pause += time.perf_counter() - self._host
        self._cpu_before_pause += max(0.0, time.thread_time() - self._thread)
        yield
        self._begin()  # not after an exception: nothing more is timed
