"""What the decoding states of both families have in common: a count of positions, and buffers that can be shared."""

from __future__ import annotations

from typing import Any, Self

import torch

from vlcompare.errors import RequestError


class DecodingState:
    """Tensors of one size for a batch of sequences; `positions` (B,) are those of the next tokens, on the device."""

    def __init__(self, batch: int, capacity: int, device: Any) -> None:
        self.positions = torch.zeros(batch, device=device, dtype=torch.long)
        self.capacity = capacity  # positions that a row may have
        self.length = 0  # positions read so far; with left padding the longest row's
        self.ragged = False  # rows of different lengths: the slots after a row's end must be masked

    @property
    def full(self) -> bool:
        """Whether there is no room for another position."""
        return self.length >= self.capacity

    def replaced(self, **attributes: Any) -> Self:
        """A copy with other attributes; the remaining tensors are shared."""
        copy = object.__new__(type(self))
        vars(copy).update(vars(self), **attributes)
        return copy

    def rows(self, begin: int, end: int) -> Self:
        """Rows begin .. end - 1 as a state of their own in the same tensors; its `length` goes its own way."""
        raise TypeError(f"{type(self).__name__} has no rows.")

    def adopt(self, buffers: Self) -> None:
        """Copy this state into the tensors of `buffers` and use those from then on, with their capacity."""
        buffers.copy_(self)
        vars(self).update(vars(buffers))

    def copy_(self, source: Self) -> Self:
        """Copy the values of `source`, whose tensors may be smaller, into this state's tensors, in place."""
        raise TypeError(f"{type(self).__name__} has no tensors to copy into.")

    def before_step(self) -> Self:
        """A copy of what one step overwrites, for `undo_step`."""
        return self.snapshot()  # type: ignore[attr-defined, no-any-return]

    def undo_step(self, before: Self) -> None:
        """Be again as when `before_step` was called."""
        self.copy_(before)

    def note_step(self) -> None:
        """Count a step on the host: a replayed graph moves the state but runs no Python."""
        self.length += 1

    def require(self, count: int) -> None:
        """Raise RequestError unless `count` more positions fit."""
        if self.length + count > self.capacity:
            raise RequestError(
                f"The context is full: {self.length} of {self.capacity} positions are taken, {count} more do not fit."
            )
