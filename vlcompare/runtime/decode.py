"""The decode loop: the only one of the project, the same for both architectures, for one row and for many.

Knows a language model, a state and logits; knows no text, no picture, no page. What stops a row is decided by whoever
iterates: leaving the loop ends the work, and no token is computed that nobody asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vlcompare.runtime.sampling import Choice, Sampler


def decode(
    step: Callable[[Tensor], Tensor], logits: Tensor, sampler: Sampler, *, state_full: Callable[[], bool]
) -> Iterator[list[Choice]]:
    """Yield each next token's choices, one Choice a row, until the caller leaves or the state is full.

    step: ids (B,) -> logits (B, V) float32, advancing the state by one position.
    logits: (B, V) of the last prompt position. state_full: whether no further position can be taken.
    """
    while True:
        ids, choices = sampler(logits)
        yield choices
        if state_full():
            return
        logits = step(ids)


class Clock:
    """Time spent in the engine alone: what the consumer of a stream does between two tokens is not counted."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._started = self._lap = time.perf_counter()
        self._away = 0.0
        self._left_at: float | None = None

    def lap(self) -> float:
        """Seconds of work since the last lap, after the device has finished what it was given."""
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        now = time.perf_counter()
        seconds, self._lap = now - self._lap, now
        return seconds

    @property
    def total(self) -> float:
        """Seconds of work since the start, up to the last lap."""
        return self._lap - self._started - self._away

    def leave(self) -> None:
        """The consumer takes over (a token was handed out)."""
        self._left_at = time.perf_counter()

    def come_back(self) -> None:
        """The consumer asked for more."""
        if self._left_at is not None:
            away = time.perf_counter() - self._left_at
            self._away += away
            self._lap += away
            self._left_at = None
