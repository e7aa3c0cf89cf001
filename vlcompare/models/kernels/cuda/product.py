"""Products of one row with what is around them, as one Triton kernel for CUDA: sum and norm, if any; product; GELU.

A product of one row is bound by reading the weights. What each program does beforehand with the row, which lies in the
cache, takes no time of the memory's, but a kernel of its own would cost a launch. GELU is taken of the few outputs of a
program, not of all that the next product reads. Sums are float32; what torch rounds between two functions is rounded
here as well. The first weights are on their way before the row is waited for.
"""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from vlcompare.models.kernels.cuda.common import early, entering, eps_of, leaving, total
from vlcompare.models.kernels.reference import NormModule

NUMBERS = 4096  # weights that a program reads at once
FEW_OUTPUTS = 4096  # up to here programs of four rows: with more each there would be too few for the whole GPU


@triton.jit
def _weights(weight_ptr, o, k, inputs, outputs):
    """Rows o and columns k; 0 behind the end."""
    there = (o < outputs)[:, None] & (k < inputs)[None, :]
    return tl.load(weight_ptr + o.to(tl.int64)[:, None] * inputs + k[None, :], mask=there, other=0.0)


@triton.jit
def _product(
    a_ptr, b_ptr, c_ptr, norm_weight_ptr, norm_bias_ptr, weight_ptr, bias_ptr, total_ptr, y_ptr, inputs, outputs, eps,
    PAD: tl.constexpr, BK: tl.constexpr, ROWS: tl.constexpr, TERMS: tl.constexpr, NORMED: tl.constexpr,
    CENTRED: tl.constexpr, SHIFTED: tl.constexpr, GELU: tl.constexpr, BIASED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """ROWS outputs of one row: a (+ b (+ c)), its norm, the product with weight (outputs, inputs), GELU."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(1).to(tl.int64) * inputs
    o = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, BK)
    w_next = _weights(weight_ptr, o, k, inputs, outputs)
    if EARLY:
        tl.extra.cuda.gdc_wait()
    mean, scale = 0.0, 1.0
    if NORMED:
        n = tl.arange(0, PAD)
        all_there = n < inputs
        kept = total(a_ptr, b_ptr, c_ptr, row + n, all_there, TERMS)
        whole = kept.to(tl.float32)
        if CENTRED:
            mean = tl.sum(whole, 0) / inputs
        apart = tl.where(all_there, whole - mean, 0.0)
        scale = tl.rsqrt(tl.sum(apart * apart, 0) / inputs + eps)
        if TERMS > 1:  # nobody in this launch reads it
            tl.store(total_ptr + row + n, kept, mask=all_there & (tl.program_id(0) == 0))
    sums = tl.zeros((ROWS, BK), tl.float32)
    for begin in range(0, inputs, BK):
        w = w_next.to(tl.float32)
        w_next = _weights(weight_ptr, o, begin + BK + k, inputs, outputs)
        at = begin + k
        there = at < inputs
        rounded = total(a_ptr, b_ptr, c_ptr, row + at, there, TERMS)
        x = entering(rounded, norm_weight_ptr, norm_bias_ptr, at, there, mean, scale, NORMED, SHIFTED)
        sums += w * x[None, :]
    y = tl.sum(sums, 1)
    if BIASED:
        y += tl.load(bias_ptr + o, mask=o < outputs, other=0.0).to(tl.float32)
    y = leaving(y, a_ptr, GELU)  # where y is wider, too
    tl.store(y_ptr + tl.program_id(1).to(tl.int64) * outputs + o, y, mask=o < outputs)


def _launch(
    terms: Sequence[Tensor],
    norm: NormModule | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    gelu: bool = False,
    wide: bool = False,
) -> tuple[Tensor, Tensor]:
    first, *others = [term.contiguous() for term in terms]
    outputs, inputs = weight.shape
    whole = torch.empty_like(first) if others else first
    y = first.new_empty(*first.shape[:-1], outputs, dtype=torch.float32 if wide else first.dtype)
    shift = getattr(norm, "bias", None)
    rows = 4 if outputs <= FEW_OUTPUTS else 8
    with torch.cuda.device_of(first):
        _product[triton.cdiv(outputs, rows), first.numel() // inputs](
            first, others[0] if others else first, others[-1] if others else first,
            weight if norm is None else norm.weight, weight if shift is None else shift,
            weight, weight if bias is None else bias, whole, y, inputs, outputs,
            0.0 if norm is None else eps_of(norm, first),
            PAD=triton.next_power_of_2(inputs) if norm is not None else 1, BK=NUMBERS // rows, ROWS=rows,
            TERMS=len(terms), NORMED=norm is not None, CENTRED=isinstance(norm, nn.LayerNorm),
            SHIFTED=shift is not None, GELU=gelu, BIASED=bias is not None, **early(first.device),
        )  # fmt: skip
    return whole, y


@torch.no_grad()
def norm_product(
    terms: Sequence[Tensor], norm: NormModule, weight: Tensor, bias: Tensor | None, gelu: bool
) -> tuple[Tensor, Tensor]:
    """See `reference.norm_product`; up to three terms. Every row reads all of the weight."""
    return _launch(terms, norm, weight.contiguous(), bias, gelu=gelu)


@torch.no_grad()
def row_product(x: Tensor, weight: Tensor, bias: Tensor | None, wide: bool) -> Tensor:
    """See `reference.row_product`. Every row reads all of the weight."""
    return _launch((x,), None, weight.contiguous(), bias, wide=wide)[1]
