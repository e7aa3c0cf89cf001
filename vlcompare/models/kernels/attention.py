"""Attention of one new position to a static key-value cache: numba's compiled loops on CPU, Triton's kernels on CUDA.

Knows a query, a cache and how many of its slots are filled; nothing of layers. Where neither runs, torch's own does.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch
from torch import Tensor

_WIDTH = 16  # channels that the compiled kernel takes at a time


def attend_one(q_bhk: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor, counts_b: Tensor) -> Tensor | None:
    """softmax(q K^T / sqrt(k)) V over each row's first `counts_b` slots: (B, H, k), or None where it does not run.

    Runs on CPU, in inference, for contiguous float32 or bfloat16 caches whose heads have a multiple of 16 channels.
    """
    loops = _loops() if _usable(q_bhk, keys_bhsk, values_bhsk) else None
    if loops is None:
        return None
    from vlcompare.models.kernels.team import threads

    heads, capacity, size = keys_bhsk.shape[1:]
    scaled = (q_bhk.float() * size**-0.5).contiguous()
    out = torch.empty_like(scaled)
    arrays = (_flat(tensor) for tensor in (scaled, keys_bhsk, values_bhsk, out))
    loops.attend(*arrays, counts_b.contiguous().numpy(), heads, capacity, size, threads())
    return out.to(q_bhk.dtype)


def attends_alone(keys: Tensor) -> bool:
    """Whether `turn_and_attend` runs for a cache like `keys`: on CUDA, in inference, where it has agreed with torch."""
    if not keys.is_cuda or torch.is_grad_enabled() or not keys.is_contiguous():
        return False
    try:
        from vlcompare.models.kernels import triton_attention
    except ImportError:
        return False
    return triton_attention.proven(keys.device, keys.dtype)


def turn_and_attend(
    qkv_bhtk: Tensor, cos_sr: Tensor, sin_sr: Tensor, positions_b: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor
) -> Tensor:
    """See `triton_attention.attend_one`."""
    from vlcompare.models.kernels import triton_attention

    return triton_attention.attend_one(qkv_bhtk.contiguous(), cos_sr, sin_sr, positions_b, keys_bhsk, values_bhsk)


@functools.cache
def _loops() -> ModuleType | None:
    """The compiled loops; None without numba."""
    try:
        from vlcompare.models.kernels import attention_numba
    except ImportError:
        return None
    return attention_numba


def _usable(q_bhk: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor) -> bool:
    return (
        keys_bhsk.device.type == "cpu"
        and keys_bhsk.dtype in (torch.float32, torch.bfloat16)
        and keys_bhsk.shape[-1] % _WIDTH == 0
        and keys_bhsk.is_contiguous()
        and values_bhsk.is_contiguous()
        and not (torch.is_grad_enabled() and q_bhk.requires_grad)
    )


def _flat(tensor: Tensor) -> object:
    """A flat numpy view; bfloat16 as its bits."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).view(-1).numpy()
