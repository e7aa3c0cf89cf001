"""What decoding does between its products, in as few launches as the device allows: sums with norms, greedy choice.

On a GPU a token of a 2.8B model is some hundreds of launches, each of which costs about a microsecond however little it
does; torch takes three or four for a sum and its norm, and some twenty for log-probabilities, the likeliest tokens and
their report. Triton's kernels take one and two. Both families go through here. Where Triton does not run, or does not
agree with torch, torch's own functions give the same; they are differentiable, the kernels are for inference.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

from vlcompare.models.kernels import fallback

Norms = Sequence[nn.LayerNorm | nn.RMSNorm]


def add_norm(terms: Sequence[Tensor], norms: Norms) -> tuple[Tensor, list[Tensor]]:
    """The sum of the terms (..., D), from left to right in their dtype, and each norm of the sum."""
    kernels = _kernels("add_norm", terms[0])
    found = None if kernels is None else fallback.attempt("triton", kernels.add_norm, terms, norms)
    if found is not None:
        return found  # type: ignore[no-any-return]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total, [norm(total) for norm in norms]


def greedy(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """logits (B, V) float32 -> the likeliest ids (B,), and what is to be told of them, (B, 2 + 2 count) in float64.

    Told are the id, its log-probability, the `count` likeliest ids (best first), and their log-probabilities: ids stay
    exact in float64, so that everything the host needs is one tensor.
    """
    kernels = _kernels("greedy", logits)
    found = None if kernels is None else fallback.attempt("triton", kernels.greedy, logits, count)
    if found is not None:
        return found  # type: ignore[no-any-return]
    return chosen(logits, count, lambda likeliest: likeliest)


def chosen(logits: Tensor, count: int, drawn: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """`greedy` with another choice: what `drawn` makes of the likeliest ids (B,). By torch's own functions."""
    logprobs = torch.log_softmax(logits, dim=-1)  # (B, V)
    top_logprobs, top_ids = logprobs.topk(count, dim=-1)  # (B, count)
    ids = drawn(top_ids[:, 0])
    parts = ids[:, None], logprobs.gather(1, ids[:, None]), top_ids, top_logprobs
    return ids, torch.cat([part.double() for part in parts], dim=1)


def _kernels(function: str, tensor: Tensor) -> ModuleType | None:
    """The module of the kernels where this one is taken: on CUDA, in inference, where it has agreed with torch."""
    if not tensor.is_cuda or torch.is_grad_enabled() or fallback.failed("triton"):
        return None
    module = _module()
    return module if module is not None and module.proven(function, tensor.device) else None


@functools.cache
def _module() -> ModuleType | None:
    return fallback.attempt("triton", importlib.import_module, "vlcompare.models.kernels.cuda.norm_and_argmax")
