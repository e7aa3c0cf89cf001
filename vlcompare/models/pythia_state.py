"""What a Pythia keeps between positions: keys, values, and the rotary tables.

The tables belong to the state: the model has no buffers, so that one built on the meta device is whole once its
parameters are filled. Axes as in `models.pythia`.
"""

from __future__ import annotations

from typing import Any

import torch

from vlcompare.errors import RequestError
from vlcompare.models.config import PythiaConfig
from vlcompare.models.rotary import rotary_table
from vlcompare.models.state import DecodingState


class PythiaState(DecodingState):
    """A key-value cache of fixed capacity. Row b's tokens fill slots 0 .. positions[b] - 1, without gaps."""

    def __init__(self, config: PythiaConfig, batch: int, capacity: int, device: Any, dtype: torch.dtype) -> None:
        super().__init__(batch, capacity, device)
        shape = (config.layers, batch, config.heads, capacity, config.head_size)
        self.keys_nbhsk = torch.zeros(shape, device=device, dtype=dtype)
        self.values_nbhsk = torch.zeros(shape, device=device, dtype=dtype)
        self.slots_s = torch.arange(capacity, device=device)
        self.rows_b = torch.arange(batch, device=device)
        self.cos_sr, self.sin_sr = rotary_table(config, capacity, device, dtype)

    def nbytes(self) -> int:
        """Bytes of the keys and values in use."""
        return self.allocated_nbytes() * self.length // max(1, self.capacity)

    def allocated_nbytes(self) -> int:
        return self.keys_nbhsk.nbytes + self.values_nbhsk.nbytes

    def snapshot(self) -> PythiaState:
        """An independent copy of the filled slots."""
        keys, values = (cache[:, :, :, : self.length].clone() for cache in (self.keys_nbhsk, self.values_nbhsk))
        positions = self.positions.clone()
        return self.replaced(keys_nbhsk=keys, values_nbhsk=values, positions=positions, capacity=self.length)

    def rows(self, begin: int, end: int) -> PythiaState:
        keys, values = self.keys_nbhsk[:, begin:end], self.values_nbhsk[:, begin:end]
        positions, rows = self.positions[begin:end], self.rows_b[: end - begin]
        return self.replaced(keys_nbhsk=keys, values_nbhsk=values, positions=positions, rows_b=rows)

    def before_step(self) -> PythiaState:
        """The positions alone: what a step writes into the cache lies behind what is filled, where nothing is read."""
        return self.replaced(positions=self.positions.clone())

    def undo_step(self, before: PythiaState) -> None:
        self.positions.copy_(before.positions)
        self.length = before.length

    def copy_(self, source: PythiaState) -> PythiaState:
        """Copy what `source` (a snapshot) holds into the own buffers: their addresses stay."""
        if source.length > self.capacity:
            raise RequestError(f"A state of {source.length} positions does not fit into one for {self.capacity}.")
        self.keys_nbhsk[:, :, :, : source.length].copy_(source.keys_nbhsk[:, :, :, : source.length])
        self.values_nbhsk[:, :, :, : source.length].copy_(source.values_nbhsk[:, :, :, : source.length])
        self.positions.copy_(source.positions)
        self.length, self.ragged = source.length, source.ragged
        return self
