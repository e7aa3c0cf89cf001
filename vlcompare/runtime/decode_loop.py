"""The decode loop: the only one of the project, for both architectures, for one row and for a batch.

The caller decides when to stop by leaving the loop; no token is computed beyond that. The chosen ids stay on the device
and are the next step's input; the host waits once a token, for what it is going to show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from vlcompare.runtime.sampling import Choice, Chosen, Sampler


def decode(
    step: Callable[[Tensor], Any], logits: Tensor, sampler: Sampler, *, state_full: Callable[[], bool]
) -> Iterator[list[Choice]]:
    """Yield the next token's choices, one Choice a row, until the caller stops or the state is full.

    step: ids (B,) -> logits (B, V) float32, or what `sampler.tail` makes of them; advances the state by one position.
    logits: (B, V) of the last prompt position. state_full: whether the state has no room for another position.
    """
    chosen = sampler.choose(logits)
    while True:
        yield sampler.read(chosen)
        if state_full():
            return
        result = step(chosen.ids)
        chosen = result if isinstance(result, Chosen) else sampler.choose(result)
