"""From logits to the next token: greedy, or temperature with top-k and top-p, and what the model thought of it.

Knows tensors and numbers only: no text, no model. Choosing happens where the logits are; all that the host needs of a
token (its id, what the model thought of it, the likeliest others) then crosses in one copy, which is also the only
point where the host waits. A greedy choice is a plain function of the logits, so that a CUDA graph can hold it. Each
row of a batch draws from a generator of its own, so that a row gives the same tokens in any batch. The distribution is
cut by top-k (Fan et al. 2018, arXiv 1805.04833), then by top-p (Holtzman et al. 2020, arXiv 1904.09751), and drawn by
the Gumbel-max trick, which needs no normalisation on the host.
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

_COLDEST = 1e-6  # temperature; nothing is left to draw below it, where float32 would make every score infinite


@dataclass(frozen=True, slots=True)
class Choice:
    """One row's token: its id, its log-probability at temperature 1, and the likeliest alternatives, best first."""

    id: int
    logprob: float
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """One row's rule. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 cut nothing."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    @classmethod
    def of(cls, request: Request) -> Sampling:
        return cls(request.temperature, request.top_p, request.top_k, request.seed)

    def generator(self, device: torch.device) -> torch.Generator | None:
        """The row's own source of randomness; None where nothing is drawn."""
        if self.temperature <= 0:
            return None
        return torch.Generator(device=device).manual_seed(self.seed)


class Chosen(NamedTuple):
    """Tokens that are chosen and still on the device."""

    ids: Tensor  # (B,), as the next step takes them
    packed: Tensor  # (B, 2 + 2 K) float64: id, log-probability, K likeliest ids, theirs (as `fused.greedy` has it)


@functools.cache
def greedy(alternatives: int) -> Callable[[Tensor], Chosen]:
    """The greedy choice as a function of logits alone; always the same one, since graphs are kept by it."""
    return lambda logits: Chosen(*fused.greedy(logits, _told(alternatives, logits)))


def _told(alternatives: int, logits: Tensor) -> int:
    return min(max(1, alternatives), logits.shape[-1])  # the likeliest is always known


class Sampler:
    """Chooses one token a row from logits (B, V), with one copy from the device a token.

    `alternatives` is how many of the likeliest tokens are reported a row. `tail`: the whole choice as a function that
    may be captured behind the logits; None where something is drawn.
    """

    def __init__(self, rules: Sequence[Sampling], device: torch.device, alternatives: int = 5) -> None:
        self.rules = tuple(rules)
        self.alternatives = alternatives
        self._generators = [rule.generator(device) for rule in self.rules]
        self._greedy = all(generator is None for generator in self._generators)
        self.tail = greedy(alternatives) if self._greedy else None

    def __call__(self, logits: Tensor) -> tuple[Tensor, list[Choice]]:
        """logits (B, V) float32 -> the chosen ids (B,) on the device, and a Choice for each row."""
        chosen = self.choose(logits)
        return chosen.ids, self.read(chosen)

    def choose(self, logits: Tensor) -> Chosen:
        """The next tokens, on the device; nothing waits for it."""
        if self.tail is not None:
            return self.tail(logits)

        def drawn(likeliest: Tensor) -> Tensor:
            rows = [self._draw(logits[row], row) for row in range(len(self.rules))]
            return torch.stack([likeliest[row] if token is None else token for row, token in enumerate(rows)])

        return Chosen(*fused.chosen(logits, _told(self.alternatives, logits), drawn))

    def read(self, chosen: Chosen) -> list[Choice]:
        """What was chosen, on the host: the one copy, and the one wait."""
        return [self._choice(row) for row in chosen.packed.tolist()]

    def _choice(self, row: list[float]) -> Choice:
        found = (len(row) - 2) // 2
        shown = min(found, self.alternatives)
        ids, logprobs = row[2 : 2 + shown], row[2 + found : 2 + found + shown]
        return Choice(int(row[0]), row[1], tuple(map(int, ids)), tuple(logprobs))

    def _draw(self, logits: Tensor, row: int) -> Tensor | None:
        """One row's drawn id as a scalar tensor; None where the row is greedy. logits (V,)"""
        rule, generator = self.rules[row], self._generators[row]
        if generator is None:
            return None
        scaled = logits / max(rule.temperature, _COLDEST)
        if 0 < rule.top_k < scaled.numel():
            scaled = scaled.masked_fill(scaled < scaled.topk(rule.top_k).values[-1], float("-inf"))
        if rule.top_p < 1:
            ordered, order = scaled.sort(descending=True)
            shares = ordered.softmax(-1)
            late = shares.cumsum(-1) - shares >= rule.top_p
            late[:1] = False  # the likeliest token always stays (a slice: writing one element makes a GPU's host wait)
            cut = torch.empty_like(late).scatter_(0, order, late)
            scaled = scaled.masked_fill(cut, float("-inf"))
        noise = torch.rand(scaled.shape, generator=generator, device=scaled.device).clamp_min(1e-20)
        return (scaled - (-noise.log()).log()).argmax()
