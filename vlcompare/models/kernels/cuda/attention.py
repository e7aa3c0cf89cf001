"""One position of attention on a static key-value cache as Triton kernels for CUDA: rotate, store, attend.

How many slots are filled is read on the device, so that one captured graph serves every length, and only filled slots
are read. A single query leaves most of a GPU idle if each head is one program, so the filled slots are split among
several whose results are merged afterwards (flash-decoding, "Flash-Decoding for long-context inference", Dao et al.
2023; the online softmax of arXiv 1805.02867). Sums are float32.
"""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlcompare.models.kernels.cuda.common import early

SPLITS = 8  # programs that share one head's filled slots
BLOCK = 32  # slots that a program reads at once


@triton.jit
def _rotated(at, cos_ptr, sin_ptr, position, k, K: tl.constexpr, R: tl.constexpr):
    """One head's query or key (at `at`), rotated by its position, in float32; 0 behind the end."""
    here, rotated = k < K, k < R
    partner = tl.where(rotated, tl.where(k < R // 2, k + R // 2, k - R // 2), k)
    cos = tl.load(cos_ptr + position * R + k, mask=rotated, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + position * R + k, mask=rotated, other=0.0).to(tl.float32)
    x = tl.load(at + k, mask=here, other=0.0).to(tl.float32) * cos
    return x + tl.load(at + partner, mask=here, other=0.0).to(tl.float32) * sin


@triton.jit(do_not_specialize=["capacity"])  # one compilation for caches of any size
def _attend(
    qkv_ptr, cos_ptr, sin_ptr, position_ptr, keys_ptr, values_ptr, parts_ptr, peaks_ptr, sums_ptr, heads, capacity,
    scale, K: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """One head, one share of the filled slots: sum of exp(score - peak) values, the sum of these weights, the peak.

    The new position's key and value are not read from the cache: the program whose share it is in stores them there.
    """
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    which = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    position = tl.load(position_ptr + which // heads)
    count = position + 1
    share = tl.cdiv(tl.cdiv(count, SPLITS), BLOCK) * BLOCK
    first = split * share
    last = tl.minimum(first + share, count)
    k = tl.arange(0, KP)
    here = k < K
    at = qkv_ptr + which * 3 * K
    query = _rotated(at, cos_ptr, sin_ptr, position, k, K, R) * scale
    key = _rotated(at + K, cos_ptr, sin_ptr, position, k, K, R).to(keys_ptr.dtype.element_ty)
    value = tl.load(at + 2 * K + k, mask=here, other=0.0).to(values_ptr.dtype.element_ty)
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    out = tl.zeros((KP,), tl.float32)
    for begin in range(first, last, BLOCK):
        slot = begin + tl.arange(0, BLOCK)
        new = (slot == position)[:, None]
        there = (slot < position)[:, None] & (slot < last)[:, None] & here[None, :]
        cell = (which * capacity + slot)[:, None] * K + k[None, :]
        keys = tl.where(new, key[None, :], tl.load(keys_ptr + cell, mask=there, other=0.0)).to(tl.float32)
        # loaded together with the keys: after the sums below it would wait for memory a second time
        values = tl.where(new, value[None, :], tl.load(values_ptr + cell, mask=there, other=0.0))
        score = tl.where(slot < last, tl.sum(keys * query[None, :], 1), float("-inf"))
        higher = tl.maximum(peak, tl.max(score, 0))
        weight = tl.exp(score - higher)
        before = tl.exp(peak - higher)
        out = out * before + tl.sum(weight[:, None] * values.to(tl.float32), 0)
        total = total * before + tl.sum(weight, 0)
        peak = higher
    part = which * SPLITS + split
    tl.store(parts_ptr + part * K + k, out, mask=here)
    tl.store(peaks_ptr + part, peak)
    tl.store(sums_ptr + part, total)
    own = (position >= first) & (position < last)
    new_at = (which * capacity + position) * K + k
    tl.store(keys_ptr + new_at, key, mask=here & own)
    tl.store(values_ptr + new_at, value, mask=here & own)


@triton.jit
def _merge(
    parts_ptr, peaks_ptr, sums_ptr, out_ptr, K: tl.constexpr, KP: tl.constexpr, SPLITS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Merge the shares of one head; an empty one has the peak -inf, and so the weight 0."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    which = tl.program_id(0).to(tl.int64)
    split, k = tl.arange(0, SPLITS), tl.arange(0, KP)
    here = k < K
    peaks = tl.load(peaks_ptr + which * SPLITS + split)
    weight = tl.exp(peaks - tl.max(peaks, 0))
    total = tl.sum(weight * tl.load(sums_ptr + which * SPLITS + split), 0)
    at = (which * SPLITS + split)[:, None] * K + k[None, :]
    parts = tl.load(parts_ptr + at, mask=here[None, :], other=0.0)
    tl.store(out_ptr + which * K + k, tl.sum(weight[:, None] * parts, 0) / total, mask=here)


def rotate_and_attend(qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """See `reference.rotate_and_attend`; qkv, keys and values are contiguous."""
    batch, heads, _, size = qkv.shape
    capacity = keys.shape[2]
    padded = triton.next_power_of_2(size)
    both = batch * heads
    parts = torch.empty(both, SPLITS, size, device=qkv.device)
    peaks, sums = torch.empty(2, both, SPLITS, device=qkv.device)
    out = torch.empty(batch, heads, size, device=qkv.device, dtype=qkv.dtype)
    launch = early(qkv.device)
    with torch.cuda.device_of(qkv):
        _attend[both, SPLITS](
            qkv, cos, sin, positions, keys, values, parts, peaks, sums, heads, capacity, size**-0.5,
            K=size, KP=padded, R=cos.shape[1], BLOCK=BLOCK, SPLITS=SPLITS, **launch,
        )  # fmt: skip
        _merge[(both,)](parts, peaks, sums, out, K=size, KP=padded, SPLITS=SPLITS, **launch)
    return out
