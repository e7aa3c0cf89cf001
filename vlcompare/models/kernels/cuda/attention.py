"""One position of attention on a static key-value cache as Triton kernels for CUDA: turn, store, look back.

Knows queries, keys and values of one new position, a rotary table and a cache; nothing of layers. How many slots are
filled is read on the device, so that one captured graph serves every length, and only filled slots are read. A single
query leaves most of a GPU idle if each head is one program, so the filled slots are split among several that are
merged afterwards (flash-decoding, "Flash-Decoding for long-context inference", Dao et al. 2023; the online softmax of
arXiv 1805.02867). Sums are float32. Used only where a real call on the device at hand agrees with torch.
"""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

SPLITS = 8  # programs that share one head's filled slots
BLOCK = 32  # slots that a program reads at once


@triton.jit(do_not_specialize=["capacity"])  # one compilation for caches of any size
def _turn(
    qkv_ptr, cos_ptr, sin_ptr, position_ptr, keys_ptr, values_ptr, query_ptr, heads, capacity, scale,
    K: tl.constexpr, KP: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Query and key of one head turned by their angles; key and value into the cache; the query scaled, in float32."""
    row = tl.program_id(0).to(tl.int64)
    which = row * heads + tl.program_id(1)
    k = tl.arange(0, KP)
    here, turned = k < K, k < R
    partner = tl.where(turned, tl.where(k < R // 2, k + R // 2, k - R // 2), k)
    position = tl.load(position_ptr + row)
    cos = tl.load(cos_ptr + position * R + k, mask=turned, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + position * R + k, mask=turned, other=0.0).to(tl.float32)
    at = qkv_ptr + which * 3 * K
    query = tl.load(at + k, mask=here, other=0.0).to(tl.float32) * cos
    query += tl.load(at + partner, mask=here, other=0.0).to(tl.float32) * sin
    key = tl.load(at + K + k, mask=here, other=0.0).to(tl.float32) * cos
    key += tl.load(at + K + partner, mask=here, other=0.0).to(tl.float32) * sin
    value = tl.load(at + 2 * K + k, mask=here, other=0.0)  # before the first store: no load may overtake one
    cell = (which * capacity + position) * K + k
    tl.store(keys_ptr + cell, key, mask=here)
    tl.store(values_ptr + cell, value, mask=here)
    tl.store(query_ptr + which * K + k, query * scale, mask=here)


@triton.jit(do_not_specialize=["capacity"])
def _look_back(
    query_ptr, keys_ptr, values_ptr, position_ptr, parts_ptr, peaks_ptr, sums_ptr, heads, capacity,
    K: tl.constexpr, KP: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """One head, one share of the filled slots: sum of exp(score - peak) values, the sum of these weights, the peak."""
    which = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    count = tl.load(position_ptr + which // heads) + 1
    share = tl.cdiv(tl.cdiv(count, SPLITS), BLOCK) * BLOCK
    first = split * share
    last = tl.minimum(first + share, count)
    k = tl.arange(0, KP)
    here = k < K
    query = tl.load(query_ptr + which * K + k, mask=here, other=0.0)
    peak = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    out = tl.zeros((KP,), tl.float32)
    for begin in range(first, last, BLOCK):
        slot = begin + tl.arange(0, BLOCK)
        there = (slot < last)[:, None] & here[None, :]
        at = (which * capacity + slot)[:, None] * K + k[None, :]
        keys = tl.load(keys_ptr + at, mask=there, other=0.0).to(tl.float32)
        # asked for together with the keys: behind the sums below it would wait for memory a second time
        values = tl.load(values_ptr + at, mask=there, other=0.0)
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


@triton.jit
def _merge(
    parts_ptr, peaks_ptr, sums_ptr, out_ptr, K: tl.constexpr, KP: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """The shares of one head put together; an empty one has the peak -inf, and so the weight 0."""
    which = tl.program_id(0).to(tl.int64)
    split, k = tl.arange(0, SPLITS), tl.arange(0, KP)
    here = k < K
    peaks = tl.load(peaks_ptr + which * SPLITS + split)
    weight = tl.exp(peaks - tl.max(peaks, 0))
    total = tl.sum(weight * tl.load(sums_ptr + which * SPLITS + split), 0)
    at = (which * SPLITS + split)[:, None] * K + k[None, :]
    parts = tl.load(parts_ptr + at, mask=here[None, :], other=0.0)
    tl.store(out_ptr + which * K + k, tl.sum(weight[:, None] * parts, 0) / total, mask=here)


def attend_one(qkv: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one new position a row, (B, H, K); its key and value go into the cache.

    qkv (B, H, 3, K), dense; cos, sin (S, R), sin with its sign in front of the first half; positions (B,) of the new
    position; keys, values (B, H, S, K), dense.
    """
    batch, heads, _, size = qkv.shape
    capacity = keys.shape[2]
    padded = triton.next_power_of_2(size)
    both = batch * heads
    query = torch.empty(both, size, device=qkv.device)
    parts = torch.empty(both, SPLITS, size, device=qkv.device)
    peaks, sums = torch.empty(2, both, SPLITS, device=qkv.device)
    out = torch.empty(batch, heads, size, device=qkv.device, dtype=qkv.dtype)
    with torch.cuda.device_of(qkv):
        _turn[batch, heads](
            qkv, cos, sin, positions, keys, values, query, heads, capacity, size**-0.5, K=size, KP=padded,
            R=cos.shape[1],
        )  # fmt: skip
        _look_back[both, SPLITS](
            query, keys, values, positions, parts, peaks, sums, heads, capacity, K=size, KP=padded, BLOCK=BLOCK,
            SPLITS=SPLITS,
        )  # fmt: skip
        _merge[(both,)](parts, peaks, sums, out, K=size, KP=padded, SPLITS=SPLITS)
    return out


@functools.cache
def proven(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this device gives torch's numbers, tried once."""
    try:
        return agrees(device, dtype)
    except Exception:  # whatever a compiler or a driver raises: torch's own attention is taken
        return False


@torch.no_grad()
def agrees(device: torch.device, dtype: torch.dtype) -> bool:
    """One real call beside torch's own attention: rows of different lengths, channels that are no power of two."""
    batch, heads, size, capacity, turned = 2, 3, 80, 100, 20
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    qkv = random(batch, heads, 3, size)
    keys, values = random(batch, heads, capacity, size), random(batch, heads, capacity, size)
    angles = torch.outer(torch.arange(capacity), 0.1 ** torch.arange(turned // 2)).repeat(1, 2)
    sign = torch.ones(turned)
    sign[: turned // 2] = -1
    cos, sin = angles.cos().to(device, dtype), (angles.sin() * sign).to(device, dtype)
    positions = torch.tensor([90, 7], device=device)
    given_keys, given_values = keys.clone(), values.clone()
    ours = attend_one(qkv, cos, sin, positions, keys, values)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for row, position in enumerate(positions.tolist()):
        front, rest = qkv[row, :, :2].float().split((turned, size - turned), -1)
        spun = front * cos[position].float() + front.roll(turned // 2, -1) * sin[position].float()
        query, key = torch.cat((spun, rest), -1).unbind(1)
        given_keys[row, :, position], given_values[row, :, position] = key.to(dtype), qkv[row, :, 2]
        seen = slice(0, position + 1)
        truth = F.scaled_dot_product_attention(
            query[:, None], given_keys[row, :, seen].float(), given_values[row, :, seen].float()
        )[:, 0]
        if not torch.allclose(ours[row].float(), truth, rtol=0, atol=tolerance * max(1.0, float(truth.abs().max()))):
            return False
    close = torch.allclose(keys.float(), given_keys.float(), rtol=0, atol=tolerance * 4)
    return close and torch.equal(values, given_values)
