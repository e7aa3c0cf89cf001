"""Sums with their norms, and the greedy choice with its log-probabilities, as Triton kernels for CUDA. See `fused`.

Sums are rounded as torch rounds them, term by term in their dtype; norms and probabilities are float32. Of equal logits
the one with the lowest id is the likeliest. An id is in the vocabulary whatever the logits are: of NaN and infinity the
log-probabilities are NaN, which ends the answer. All loads come before the first store: the compiler may not move a
load in front of one.
"""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from vlcompare.models.kernels.cuda.common import early, eps_of
from vlcompare.models.kernels.reference import NormModule

SHARE = 1024  # logits that one program ranks


@triton.jit
def _add_norm(
    a_ptr, b_ptr, c_ptr, weight_ptr, bias_ptr, weight2_ptr, bias2_ptr, total_ptr, y_ptr, y2_ptr, width, eps, eps2,
    BLOCK: tl.constexpr, TERMS: tl.constexpr, NORMS: tl.constexpr, CENTRED: tl.constexpr, BIASED: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One row: a (+ b (+ c)), then one or two norms of it (LayerNorm where CENTRED, else RMSNorm)."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64) * width
    k = tl.arange(0, BLOCK)
    here = k < width
    weight = tl.load(weight_ptr + k, mask=here, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + k, mask=here, other=0.0).to(tl.float32) if BIASED else tl.zeros((BLOCK,), tl.float32)
    if NORMS > 1:
        weight2 = tl.load(weight2_ptr + k, mask=here, other=0.0).to(tl.float32)
        bias2 = tl.load(bias2_ptr + k, mask=here, other=0.0).to(tl.float32) if BIASED else bias
    if EARLY:
        tl.extra.cuda.gdc_wait()
    total = tl.load(a_ptr + row + k, mask=here, other=0.0)
    if TERMS > 1:
        total = (total.to(tl.float32) + tl.load(b_ptr + row + k, mask=here, other=0.0).to(tl.float32)).to(total.dtype)
    if TERMS > 2:
        total = (total.to(tl.float32) + tl.load(c_ptr + row + k, mask=here, other=0.0).to(tl.float32)).to(total.dtype)
    x = total.to(tl.float32)
    if CENTRED:
        x = tl.where(here, x - tl.sum(x, 0) / width, 0.0)
    mean_square = tl.sum(x * x, 0) / width
    if TERMS > 1:
        tl.store(total_ptr + row + k, total, mask=here)
    tl.store(y_ptr + row + k, x * tl.rsqrt(mean_square + eps) * weight + bias, mask=here)
    if NORMS > 1:
        tl.store(y2_ptr + row + k, x * tl.rsqrt(mean_square + eps2) * weight2 + bias2, mask=here)


@triton.jit
def _rank_share(
    logits_ptr, values_ptr, ids_ptr, peaks_ptr, sums_ptr, width,
    COUNT: tl.constexpr, SHARE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One share of a row's logits: its COUNT largest with their ids, its peak, and the sum of exp(logit - peak)."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row, share = tl.program_id(0).to(tl.int64), tl.program_id(1)
    k = share * SHARE + tl.arange(0, SHARE)
    x = tl.load(logits_ptr + row * width + k, mask=k < width, other=float("-inf"))
    part = row * tl.num_programs(1) + share
    peak = tl.max(x, 0)
    tl.store(peaks_ptr + part, peak)
    tl.store(sums_ptr + part, tl.sum(tl.exp(x - peak), 0))
    for rank in tl.static_range(COUNT):
        largest = tl.max(x, 0)
        id = tl.minimum(tl.min(tl.where(x == largest, k, width + SHARE), 0), width - 1)  # nothing equals NaN
        tl.store(values_ptr + part * COUNT + rank, largest)
        tl.store(ids_ptr + part * COUNT + rank, id)
        x = tl.where(k == id, float("-inf"), x)


@triton.jit
def _merge(
    values_ptr, ids_ptr, peaks_ptr, sums_ptr, chosen_ptr, packed_ptr, shares, width,
    COUNT: tl.constexpr, SP: tl.constexpr, CP: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Merge one row's shares: log-probabilities of the COUNT largest, in the layout of `fused.greedy`."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    s, c = tl.arange(0, SP), tl.arange(0, CP)
    peaks = tl.load(peaks_ptr + row * shares + s, mask=s < shares, other=float("-inf"))
    sums = tl.load(sums_ptr + row * shares + s, mask=s < shares, other=0.0)
    found = c < shares * COUNT
    values = tl.load(values_ptr + row * shares * COUNT + c, mask=found, other=float("-inf"))
    ids = tl.load(ids_ptr + row * shares * COUNT + c, mask=found, other=2147483647)
    peak = tl.max(peaks, 0)
    mass = tl.log(tl.sum(sums * tl.exp(peaks - peak), 0))
    packed_ptr += row * (2 + 2 * COUNT)
    for rank in tl.static_range(COUNT):
        largest = tl.max(values, 0)
        id = tl.minimum(tl.min(tl.where(values == largest, ids, 2147483647), 0), width - 1)
        logprob = (largest - peak) - mass
        if rank == 0:
            tl.store(chosen_ptr + row, id.to(tl.int64))
            tl.store(packed_ptr, id.to(tl.float64))
            tl.store(packed_ptr + 1, logprob.to(tl.float64))
        tl.store(packed_ptr + 2 + rank, id.to(tl.float64))
        tl.store(packed_ptr + 2 + COUNT + rank, logprob.to(tl.float64))
        values = tl.where(ids == id, float("-inf"), values)


@torch.no_grad()
def add_norm(terms: Sequence[Tensor], norms: Sequence[NormModule]) -> tuple[Tensor, list[Tensor]]:
    """See `fused.add_norm`; one kernel for up to three terms and up to two norms of a kind."""
    first, *others = [term.contiguous() for term in terms]
    width = first.shape[-1]
    total = torch.empty_like(first) if others else first
    normed = [torch.empty_like(first) for _ in norms]
    biases = [getattr(norm, "bias", None) for norm in norms]
    with torch.cuda.device_of(first):
        _add_norm[(first.numel() // width,)](
            first, others[0] if others else first, others[-1] if others else first,
            norms[0].weight, norms[0].weight if biases[0] is None else biases[0],
            norms[-1].weight, norms[-1].weight if biases[-1] is None else biases[-1],
            total, normed[0], normed[-1], width, eps_of(norms[0], first), eps_of(norms[-1], first),
            BLOCK=triton.next_power_of_2(width), TERMS=len(terms), NORMS=len(norms),
            CENTRED=isinstance(norms[0], nn.LayerNorm), BIASED=biases[0] is not None, num_warps=8,
            **early(first.device),
        )  # fmt: skip
    return total, normed


@torch.no_grad()
def greedy(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """See `fused.greedy`; two kernels."""
    logits = logits.contiguous()
    batch, width = logits.shape
    shares = triton.cdiv(width, SHARE)
    values = torch.empty(batch, shares, count, device=logits.device)
    ids = torch.empty(batch, shares, count, device=logits.device, dtype=torch.int32)
    peaks, sums = torch.empty(2, batch, shares, device=logits.device)
    chosen = torch.empty(batch, device=logits.device, dtype=torch.long)
    packed = torch.empty(batch, 2 + 2 * count, device=logits.device, dtype=torch.float64)
    launch = early(logits.device)
    with torch.cuda.device_of(logits):
        _rank_share[batch, shares](logits, values, ids, peaks, sums, width, COUNT=count, SHARE=SHARE, **launch)
        _merge[(batch,)](
            values, ids, peaks, sums, chosen, packed, shares, width,
            COUNT=count, SP=triton.next_power_of_2(shares), CP=triton.next_power_of_2(shares * count), **launch,
        )  # fmt: skip
    return chosen, packed
