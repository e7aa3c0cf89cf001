"""What decoding does around its products, in as few launches as the device allows: sums, norms, GELU, greedy choice.

On a GPU a token of a 2.8B model is some hundreds of launches, each of which costs about a microsecond however little it
does; torch takes three or four for a sum and its norm, and some twenty for log-probabilities, the likeliest tokens and
their report. Triton's kernels take one and two; they are for inference. Elsewhere torch's own functions give the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.models.kernels import agreement, reference
from vlcompare.models.kernels.linear import NF4, PRODUCT, Linear
from vlcompare.models.kernels.reference import Nf4Weight, NormModule

MODULE = "cuda.norm_and_argmax"


def add_norm(terms: Sequence[Tensor], norms: Sequence[NormModule]) -> tuple[Tensor, list[Tensor]]:
    """See `reference.add_norm`."""
    result = _kernel("add_norm", terms[0], terms, norms)
    return reference.add_norm(terms, norms) if result is None else result


def norm_linears(
    terms: Sequence[Tensor], norms: Sequence[NormModule], layers: Sequence[nn.Module], gelus: Sequence[bool]
) -> tuple[Tensor, list[Tensor]]:
    """The sum of the terms (..., D), and what each layer makes of one norm of it; layers[i] reads norms[i].

    gelus: for which layers GELU follows. One row takes one kernel a layer on CUDA, which does all of it, where the
    layers are plain or in NF4.
    """
    found: list[Tensor] = []
    if terms[0].is_cuda and terms[0].numel() == terms[0].shape[-1]:
        for norm, layer, gelu in zip(norms, layers, gelus, strict=True):
            result = _norm_product(terms, norm, layer, gelu)
            if result is None:
                break
            terms, found = (result[0],), [*found, result[1]]
    done = len(found)
    if done == len(layers):
        return terms[0], found
    total, normed = add_norm(terms, norms[done:])
    results = [layer(x) for layer, x in zip(layers[done:], normed, strict=True)]
    return total, [*found, *(F.gelu(y) if gelu else y for y, gelu in zip(results, gelus[done:], strict=True))]


def _norm_product(terms: Sequence[Tensor], norm: NormModule, layer: Any, gelu: bool) -> tuple[Tensor, Tensor] | None:
    """See `reference.norm_product`: by one kernel, where there is one for such a layer."""
    if type(layer) is Linear:
        return _kernel("norm_product", terms[0], terms, norm, layer.weight, layer.bias, gelu, module=PRODUCT)  # type: ignore[no-any-return]
    weight: Nf4Weight | None = getattr(layer, "nf4", None)
    if weight is None:
        return None
    return _kernel("nf4_norm_product", terms[0], terms, norm, weight, layer.bias, gelu, module=NF4)  # type: ignore[no-any-return]


def greedy(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """logits (B, V) float32 -> the likeliest ids (B,), and all that the host needs, (B, 2 + 2 count) in float64.

    These are the id, its log-probability, the `count` likeliest ids (best first), and their log-probabilities: ids stay
    exact in float64, so that one tensor crosses.
    """
    result = _kernel("greedy", logits, logits, count)
    return chosen(logits, count, lambda likeliest: likeliest) if result is None else result


def chosen(logits: Tensor, count: int, drawn: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """`greedy` with another choice: what `drawn` makes of the likeliest ids (B,). By torch's own functions."""
    logprobs = torch.log_softmax(logits, dim=-1)  # (B, V)
    top_logprobs, top_ids = logprobs.topk(count, dim=-1)  # (B, count)
    ids = drawn(top_ids[:, 0])
    parts = ids[:, None], logprobs.gather(1, ids[:, None]), top_ids, top_logprobs
    return ids, torch.cat([part.double() for part in parts], dim=1)


def _kernel(function: str, tensor: Tensor, *arguments: Any, module: str = MODULE) -> Any:
    """What the kernel makes of it: on CUDA, in inference, where it agrees with torch; else None."""
    if not tensor.is_cuda or torch.is_grad_enabled():
        return None
    return agreement.call("triton", module, function, tensor.device, *arguments)
