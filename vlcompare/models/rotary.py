"""Rotary positions ("RoFormer", arXiv 2104.09864, section 3.4.2). Names as in `pythia`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlcompare.models.config import PythiaConfig


def rotary_table(config: PythiaConfig, capacity: int, device: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and -sin, +sin of position x theta, (S, R) each: the R/2 angles appear twice, for both halves of a pair."""
    # in float32 on the CPU, whatever the model's dtype and device: the angles are then the same everywhere
    pairs = torch.arange(0, config.rotary_size, 2, dtype=torch.float32, device="cpu")
    theta = 1.0 / config.rotary_base ** (pairs / max(1, config.rotary_size))
    angles_sr = torch.outer(torch.arange(capacity, dtype=torch.float32, device="cpu"), theta).repeat(1, 2)
    sign_r = torch.ones(angles_sr.shape[1], device="cpu")
    sign_r[: len(theta)] = -1
    return angles_sr.cos().to(device, dtype), (angles_sr.sin() * sign_r).to(device, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R of the last axis' channels by their angles; the others stay. cos, sin broadcast to (..., R).

    (a, b) becomes (a cos - b sin, b cos + a sin); `sin` has its sign in front of the first half already.
    """
    front, rest = x.split((cos.shape[-1], x.shape[-1] - cos.shape[-1]), dim=-1)
    swapped = front.roll(cos.shape[-1] // 2, -1)
    return torch.cat((torch.addcmul(front * cos, swapped, sin), rest), dim=-1)
