"""The proof that kernels must give before they are used on a device: a real call there, set beside the reference.

Installed or compiled is not enough: built for another torch or another GPU a kernel imports and then fails, or worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from vlcompare.models.kernels import reference

STEPS = ("selective_step", "projected_step", "conv_step", "causal_conv")


def agrees(scan: Callable[..., tuple[Any, Any]], device: torch.device) -> bool:
    """Whether scan(u, delta, A, B, C, D, z, delta_bias) with softplus gives the reference's y and state on `device`.

    Tried with random numbers, in float32 and in bfloat16. Any exception means no.
    """
    try:
        with torch.inference_mode():
            return all(_agrees(scan, device, dtype) for dtype in (torch.float32, torch.bfloat16))
    except Exception:  # whatever a compiler or a foreign extension raises: it is not used
        return False


def steps_agree(steps: Sequence[Callable[..., Any]], device: torch.device) -> bool:
    """Whether the functions named in STEPS, in this order, give the reference's numbers.

    Tried in bfloat16 with float32 states, as the models decode. Any exception means no.
    """
    try:
        with torch.inference_mode():
            return _steps_agree(steps, device)
    except Exception:  # whatever a compiler raises: it is not used
        return False


def _steps_agree(steps: Sequence[Callable[..., Any]], device: torch.device) -> bool:
    generator = torch.Generator().manual_seed(0)
    half, wide = torch.bfloat16, torch.float32

    def random(*shape: int, kind: torch.dtype = half) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, kind)

    def close(ours: torch.Tensor, truth: torch.Tensor) -> bool:
        scale = max(1.0, float(truth.float().abs().max()))
        return torch.allclose(ours.float(), truth.float(), rtol=0, atol=2e-2 * scale)

    state, window = random(2, 64, 16, kind=wide), random(2, 64, 3, kind=wide)
    weight, bias = random(64, 4), random(64)
    A = -torch.rand(64, 16, generator=generator).to(device)
    vector = random(64, kind=wide)
    scanned = A, random(2, 16), random(2, 16), vector, random(2, 64), vector
    x, row, times = random(2, 64, 75), random(2, 64), random(2, 64)
    factors, projection = random(2, 20), random(64, 20) / 4
    found = []
    for step, projected, conv_step, convolve in (steps, [getattr(reference, name) for name in STEPS]):
        after, further, moved = state.clone(), state.clone(), window.clone()
        ys = step(after, row, times, *scanned), projected(further, row, factors, projection, *scanned)
        convolved = conv_step(moved, row, weight, bias), *convolve(x, weight, bias, window)
        found.append((*ys, after, further, *convolved, moved))
    return all(close(ours, truth) for ours, truth in zip(*found, strict=True))


def _agrees(scan: Callable[..., tuple[Any, Any]], device: torch.device, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, kind)

    wide = torch.float32
    A = -torch.rand(64, 16, generator=generator).to(device)
    given = (
        random(2, 64, 75), random(2, 64, 75), A, random(2, 16, 75), random(2, 16, 75),
        random(64, kind=wide), random(2, 64, 75), random(64, kind=wide),
    )  # fmt: skip
    truth, true_last = reference.selective_scan(*given)
    y, last = scan(*given)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    scale = float(truth.float().abs().max())
    close = torch.allclose(y.float(), truth.float(), rtol=0, atol=tolerance * scale)
    return close and true_last is not None and torch.allclose(last, true_last, rtol=1e-3, atol=1e-3)
