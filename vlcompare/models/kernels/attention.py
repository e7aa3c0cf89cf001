"""Attention of one new position to a static key-value cache by a kernel, where there is one that takes it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from vlcompare.models.kernels import agreement, fallback, reference
from vlcompare.models.kernels.cases import case_of

MODULE = "cuda.attention"


def attend_one(q_bhk: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor, counts_b: Tensor) -> Tensor | None:
    """softmax(q K^T / sqrt(k)) V over each row's first `counts_b` slots: (B, H, k). CPU only; None for what the
    compiled loops do not take.
    """
    if keys_bhsk.device.type != "cpu":
        return None
    return fallback.call("numba", "cpu.attention", "attend_one", q_bhk, keys_bhsk, values_bhsk, counts_b)


def finds_filled_slots(keys: Tensor, cos: Tensor) -> bool:
    """Whether `rotate_and_attend` has a kernel for a cache like `keys`, which reads on the device what is filled.

    cos: as in `rotate_and_attend`.
    """
    if not keys.is_cuda or torch.is_grad_enabled() or not keys.is_contiguous() or fallback.failed("triton"):
        return False
    case = case_of("triton", "rotate_and_attend", keys, cos)
    kernel = functools.partial(fallback.load_and_call, MODULE, "rotate_and_attend")
    return agreement.agrees(case, kernel, keys.device)


def rotate_and_attend(
    qkv_bhtk: Tensor, cos_sr: Tensor, sin_sr: Tensor, positions_b: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor
) -> Tensor:
    """See `reference.rotate_and_attend`; for caches where `finds_filled_slots`."""
    arguments = qkv_bhtk.contiguous(), cos_sr, sin_sr, positions_b, keys_bhsk, values_bhsk
    case = case_of("triton", "rotate_and_attend", keys_bhsk, cos_sr)
    kernel = functools.partial(fallback.load_and_call, MODULE, "rotate_and_attend")
    right = agreement.agrees(case, kernel, keys_bhsk.device)  # a layer before this one may have found it to fail
    out = agreement.attempt(case, keys_bhsk.device, kernel, *arguments) if right else None
    return reference.rotate_and_attend(*arguments) if out is None else out
