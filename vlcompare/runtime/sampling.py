"""From logits to the next token: greedy, or temperature with top-k and top-p, with log-probabilities.

Knows tensors and numbers only: no text, no model. Tokens are chosen on the logits' device; what the host needs of a
token (its id, its log-probability, the likeliest alternatives) is then copied at once, which is the only
synchronisation, and on a GPU need not be waited for where it begins. The greedy choice is a plain function of the
logits, so that a CUDA graph can capture it. Each row of a batch draws from its own generator, so that its tokens do not
depend on the batch. The distribution is cut by top-k (Fan et al. 2018, arXiv 1805.04833), then by top-p (Holtzman et
al. 2020, arXiv 1904.09751), and sampled by the Gumbel-max trick, which needs no normalisation on the host.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vlcompare.models.kernels import fused
from vlcompare.types import Request

_MIN_TEMPERATURE = 1e-6  # below it, sampling is greedy in effect, and scores would overflow float32


@dataclass(frozen=True, slots=True)
class Choice:
    """One row's token: its id, its log-probability at temperature 1, and the likeliest alternatives, best first."""

    id: int
    logprob: float
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """One row's sampling parameters. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 have no effect."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    @classmethod
    def of(cls, request: Request) -> Sampling:
        return cls(request.temperature, request.top_p, request.top_k, request.seed)

    def generator(self, device: torch.device) -> torch.Generator | None:
        """The row's own random generator; None where the row is greedy."""
        if self.temperature <= 0:
            return None
        return torch.Generator(device=device).manual_seed(self.seed)


class Chosen(NamedTuple):
    """Chosen tokens, still on the device."""

    ids: Tensor  # (B,), the input of the next step
    packed: Tensor  # (B, 2 + 2 K) float64: id, log-probability, K likeliest ids, theirs (as in `fused.greedy`)


@functools.cache
def greedy(alternatives: int) -> Callable[[Tensor], Chosen]:
    """The greedy choice as a function of logits alone; cached, since CUDA graphs are keyed by the function."""
    return lambda logits: Chosen(*fused.greedy(logits, _kept(alternatives, logits)))


def _kept(alternatives: int, logits: Tensor) -> int:
    return min(max(1, alternatives), logits.shape[-1])  # the likeliest is always included


class Sampler:
    """Chooses one token a row from logits (B, V), with one copy from the device for each.

    `alternatives` is the number of likeliest tokens that are reported for each row. `tail`: the choice as a function
    that can be captured in a CUDA graph after the logits; None where a row samples.
    """

    def __init__(self, rules: Sequence[Sampling], device: torch.device, alternatives: int = 5) -> None:
        self.rules = tuple(rules)
        self.alternatives = alternatives
        self._generators = [rule.generator(device) for rule in self.rules]
        self._greedy = all(generator is None for generator in self._generators)
        self.tail = greedy(alternatives) if self._greedy else None
        self._sent: list[Tensor] = []  # two buffers on the host, used in turn

    def __call__(self, logits: Tensor) -> tuple[Tensor, list[Choice]]:
        """logits (B, V) float32 -> the chosen ids (B,) on the device, and a Choice for each row."""
        chosen = self.choose(logits)
        return chosen.ids, self.read(chosen)

    def choose(self, logits: Tensor) -> Chosen:
        """The next tokens, on the device, without synchronisation."""
        if self.tail is not None:
            return self.tail(logits)

        def drawn(likeliest: Tensor) -> Tensor:
            rows = [self._draw(logits[row], row) for row in range(len(self.rules))]
            return torch.stack([likeliest[row] if token is None else token for row, token in enumerate(rows)])

        return Chosen(*fused.chosen(logits, _kept(self.alternatives, logits), drawn))

    def read(self, chosen: Chosen) -> list[Choice]:
        """The chosen tokens, on the host: the only copy and the only synchronisation."""
        return self.received(chosen.packed)

    def send(self, chosen: Chosen) -> Tensor:
        """Begin the copy to the host, without waiting for it: for `received`, once the device has come this far.

        Later steps may overwrite `chosen`. The copy is valid until the next but one is begun.
        """
        if not chosen.packed.is_cuda:
            return chosen.packed.clone()
        if not self._sent:
            shape, dtype = chosen.packed.shape, chosen.packed.dtype
            self._sent = [torch.empty(shape, dtype=dtype, pin_memory=True) for _ in range(2)]
        self._sent.reverse()
        return self._sent[0].copy_(chosen.packed, non_blocking=True)

    def received(self, packed: Tensor) -> list[Choice]:
        """A Choice for each row of what `send` returned."""
        return [self._choice(row) for row in packed.tolist()]

    def _choice(self, row: list[float]) -> Choice:
        stored = (len(row) - 2) // 2
        count = min(stored, self.alternatives)
        ids, logprobs = row[2 : 2 + count], row[2 + stored : 2 + stored + count]
        return Choice(int(row[0]), row[1], tuple(map(int, ids)), tuple(logprobs))

    def _draw(self, logits: Tensor, row: int) -> Tensor | None:
        """One row's sampled id as a scalar tensor; None where the row is greedy. logits (V,)"""
        rule, generator = self.rules[row], self._generators[row]
        if generator is None:
            return None
        scaled = logits / max(rule.temperature, _MIN_TEMPERATURE)
        if 0 < rule.top_k < scaled.numel():
            scaled = scaled.masked_fill(scaled < scaled.topk(rule.top_k).values[-1], float("-inf"))
        if rule.top_p < 1:
            ordered, order = scaled.sort(descending=True)
            shares = ordered.softmax(-1)
            outside = shares.cumsum(-1) - shares >= rule.top_p
            outside[:1] = False  # always keep the likeliest token (a slice: writing one element would synchronise)
            removed = torch.empty_like(outside).scatter_(0, order, outside)
            scaled = scaled.masked_fill(removed, float("-inf"))
        noise = torch.rand(scaled.shape, generator=generator, device=scaled.device).clamp_min(1e-20)
        return (scaled - (-noise.log()).log()).argmax()
