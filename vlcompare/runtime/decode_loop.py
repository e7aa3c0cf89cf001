"""The decode loop: the only one of the project, the same for both architectures, for one row and for many.

Knows a language model, a state and logits; knows no text, no picture, no page. What stops a row is decided by whoever
iterates: leaving the loop ends the work, and no token is computed that nobody asked for. The chosen ids stay on the
device and go into the next step as they are; the host waits once a token, for what it is going to show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vlcompare.runtime.sampling import Choice, Chosen, Sampler


def decode(
    step: Callable[[Tensor], Any], logits: Tensor, sampler: Sampler, *, state_full: Callable[[], bool]
) -> Iterator[list[Choice]]:
    """Yield each next token's choices, one Choice a row, until the caller leaves or the state is full.

    step: ids (B,) -> logits (B, V) float32, or what `sampler.tail` made of them; advances the state by one position.
    logits: (B, V) of the last prompt position. state_full: whether no further position can be taken.
    """
    chosen = sampler.choose(logits)
    while True:
        yield sampler.read(chosen)
        if state_full():
            return
        result = step(chosen.ids)
        chosen = result if isinstance(result, Chosen) else sampler.choose(result)


class Clock:
    """Time spent in the engine alone: what the consumer of a stream does between two tokens is not counted.

    On CUDA the time between two laps is the device's own, between two events in its queue of work. torch gives all
    threads one queue a device: where two sides race on one GPU, a lap holds what the other one put between its events.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self.total = 0.0  # seconds of work since the start, up to the last lap
        self._before_leaving = 0.0  # seconds of the present lap that lie before the consumer took over
        self._away = False
        self._begin()

    def _begin(self) -> None:
        self._host = time.perf_counter()
        self._event = self._record()

    def _record(self) -> Any:
        if self._cuda is None:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._cuda))
        return event

    def lap(self) -> float:
        """Seconds of work since the last lap, after the device has finished what it was given."""
        before, began = self._event, self._host
        self._begin()
        if self._cuda is None:
            seconds = self._host - began
        else:
            self._event.synchronize()
            seconds = before.elapsed_time(self._event) / 1e3
            self._host = time.perf_counter()
        seconds += self._before_leaving
        self._before_leaving = 0.0
        self.total += seconds
        return seconds

    def leave(self) -> None:
        """The consumer takes over (a token was handed out)."""
        self._before_leaving += time.perf_counter() - self._host
        self._away = True

    def come_back(self) -> None:
        """The consumer asked for more."""
        if self._away:
            self._away = False
            self._begin()
