"""Kernels beside the plain torch functions: a real call on the device decides whether they are used there.

That a library is installed or compiles is not enough: built for another torch or another GPU it imports and then
fails, or computes something else. Every check takes random numbers with a fixed seed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlcompare.models.kernels import reference
from vlcompare.models.kernels.reference import ScanInputs

STEPS = ("selective_step", "projected_step", "conv_step", "causal_conv")
HALF, WIDE = torch.bfloat16, torch.float32
# norm, number of terms, number of norms
NORM_CASES = ((nn.LayerNorm, 1, 1), (nn.LayerNorm, 3, 2), (nn.LayerNorm, 2, 1), (nn.RMSNorm, 2, 1))


@functools.cache
def proven(check: Callable[..., bool], *arguments: Any) -> bool:
    """check(*arguments), called once in a process. Any exception means no."""
    try:
        with torch.inference_mode():
            return check(*arguments)
    except Exception:  # whatever a compiler, a driver or a foreign extension raises
        return False


class _Random:
    """Normally distributed tensors on a device, the same ones each time."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.device, dtype or self.dtype)

    def decay(self) -> Tensor:
        return -torch.rand(64, 16, generator=self.generator).to(self.device)


def _close(ours: Tensor, truth: Tensor, tolerance: float) -> bool:
    scale = max(1.0, float(truth.float().abs().max()))
    return torch.allclose(ours.float(), truth.float(), rtol=0, atol=tolerance * scale)


def scan_agrees(scan: Callable[[ScanInputs], tuple[Tensor, Tensor]], device: torch.device) -> bool:
    """Whether it gives the reference's y and state, in float32 and in bfloat16."""
    for dtype, tolerance in ((WIDE, 1e-4), (HALF, 2e-2)):
        random = _Random(device, dtype)
        A, u, delta, B, C = random.decay(), *(random(2, width, 75) for width in (64, 64, 16, 16))
        D, z, bias = random(64, dtype=WIDE), random(2, 64, 75), random(64, dtype=WIDE)
        inputs = ScanInputs(u, delta, A, B, C, D, z, bias)
        (y, last), (truth, true_last) = scan(inputs), reference.selective_scan(inputs)
        if not _close(y, truth, tolerance) or not torch.allclose(last, true_last, rtol=1e-3, atol=1e-3):
            return False
    return True


def steps_agree(steps: Sequence[Callable[..., Any]], device: torch.device) -> bool:
    """Whether the functions named in STEPS, in this order, give the reference's numbers.

    Tried in bfloat16 with float32 states, as the models decode.
    """
    random = _Random(device, HALF)
    state, window = random(2, 64, 16, dtype=WIDE), random(2, 64, 3, dtype=WIDE)
    weight, bias, vector = random(64, 4), random(64), random(64, dtype=WIDE)
    x, u, delta = random(2, 64, 75), random(2, 64), random(2, 64)
    inputs = ScanInputs(u, delta, random.decay(), random(2, 16), random(2, 16), vector, random(2, 64), vector)
    projected_inputs, projection = inputs._replace(delta=random(2, 20)), random(64, 20) / 4
    results = []
    for step, projected, conv_step, convolve in (steps, [getattr(reference, name) for name in STEPS]):
        states, moved = [state.clone(), state.clone()], window.clone()
        ys = step(states[0], inputs), projected(states[1], projected_inputs, projection)
        convolved = conv_step(moved, u, weight, bias), *convolve(x, weight, bias, window)
        results.append((*ys, *states, *convolved, moved))
    return all(_close(ours, truth, 2e-2) for ours, truth in zip(*results, strict=True))


def attention_agrees(attend: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> bool:
    """Rows of different lengths, channels that are not powers of two, beside `reference.rotate_and_attend`."""
    batch, heads, size, capacity, rotated = 2, 3, 80, 100, 20
    random = _Random(device, dtype)
    qkv = random(batch, heads, 3, size)
    cache = [random(batch, heads, capacity, size) for _ in range(2)]
    angles = torch.outer(torch.arange(capacity), 0.1 ** torch.arange(rotated // 2)).repeat(1, 2)
    sign = torch.tensor([-1.0, 1.0]).repeat_interleave(rotated // 2)
    tables = angles.cos().to(device, dtype), (angles.sin() * sign).to(device, dtype)
    positions = torch.tensor([90, 7], device=device)
    wide_keys, wide_values = (part.to(torch.float32, copy=True) for part in cache)
    cos, sin = (table.float() for table in tables)
    truth = reference.rotate_and_attend(qkv.float(), cos, sin, positions, wide_keys, wide_values)
    ours = attend(qkv, *tables, positions, *cache)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    stored = torch.equal(cache[1], wide_values.to(dtype))  # values are copied, keys are rotated and rounded
    return stored and _close(ours, truth, tolerance) and _close(cache[0], wide_keys, tolerance)


def norms_agree(
    add_norm: Callable[..., tuple[Tensor, list[Tensor]]],
    device: torch.device,
    dtypes: Sequence[torch.dtype] = (WIDE, HALF),
) -> bool:
    """Both norms, one to three terms, a width between powers of two. The sums must be equal to the bit."""
    for dtype in dtypes:
        random, tolerance = _Random(device, dtype), 1e-5 if dtype == torch.float32 else 2e-2
        for norm_class, terms, count in NORM_CASES:
            norms = [norm_class(80, eps=1e-5).to(device, dtype) for _ in range(count)]
            for parameter in nn.ModuleList(norms).parameters():
                parameter.data.copy_(random(80))
            given = [random(2, 3, 80) + 1 for _ in range(terms)]
            (total, normed), (truth, true_normed) = add_norm(given, norms), reference.add_norm(given, norms)
            pairs = zip(normed, true_normed, strict=True)
            if not torch.equal(total, truth) or not all(torch.allclose(*pair, tolerance, tolerance) for pair in pairs):
                return False
    return True


def greedy_agrees(greedy: Callable[[Tensor, int], tuple[Tensor, Tensor]], device: torch.device) -> bool:
    """Two rows of a few thousand logits, beside torch's log-probabilities in float64; see `fused.greedy`."""
    logits = _Random(device, WIDE)(2, 3074) * 4
    ids, packed = greedy(logits, 5)
    logprobs, top_ids = torch.log_softmax(logits.double(), dim=-1).topk(5, dim=-1)
    truth = torch.cat([top_ids[:, :1].double(), logprobs[:, :1], top_ids.double(), logprobs], dim=1)
    return torch.equal(ids, top_ids[:, 0]) and torch.allclose(packed, truth, rtol=0, atol=1e-4)
