"""Attention of one new position to a static key-value cache: numba's compiled loops on CPU, Triton's kernels on CUDA.

Knows a query, a cache and how many of its slots are filled; nothing of layers. Where neither runs, torch's own does.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from vlcompare.models.kernels import fallback

_WIDTH = 16  # channels that the compiled kernel takes at a time


def attend_one(q_bhk: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor, counts_b: Tensor) -> Tensor | None:
    """softmax(q K^T / sqrt(k)) V over each row's first `counts_b` slots: (B, H, k), or None where it does not run.

    Runs on CPU, in inference, for contiguous float32 or bfloat16 caches whose heads have a multiple of 16 channels.
    """
    loops = _loops() if _usable(q_bhk, keys_bhsk, values_bhsk) else None
    if loops is None:
        return None
    return fallback.attempt("numba", _attend, loops, q_bhk, keys_bhsk, values_bhsk, counts_b)


def _attend(loops: ModuleType, q_bhk: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor, counts_b: Tensor) -> Tensor:
    from vlcompare.models.kernels.cpu.threads import threads

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
    kernels = _triton()
    return kernels is not None and not fallback.failed("triton") and kernels.proven(keys.device, keys.dtype)


def turn_and_attend(
    qkv_bhtk: Tensor, cos_sr: Tensor, sin_sr: Tensor, positions_b: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor
) -> Tensor:
    """See `triton_attention.attend_one`; by torch's own functions where that fails."""
    given = qkv_bhtk.contiguous(), cos_sr, sin_sr, positions_b, keys_bhsk, values_bhsk
    kernels = _triton()
    out = None if kernels is None else fallback.attempt("triton", kernels.attend_one, *given)
    return _turn_and_attend(*given) if out is None else out


def _turn_and_attend(
    qkv_bhtk: Tensor, cos_sr: Tensor, sin_sr: Tensor, positions_b: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor
) -> Tensor:
    """The same in plain torch: rotary positions as in `models.pythia`, the new slot filled, attention up to it."""
    capacity, turned = keys_bhsk.shape[2], cos_sr.shape[1]
    front, rest = qkv_bhtk[:, :, :2].float().split((turned, qkv_bhtk.shape[-1] - turned), -1)
    cos, sin = (table[positions_b].float()[:, None, None] for table in (cos_sr, sin_sr))  # (B, 1, 1, R)
    q_bhk, k_bhk = torch.cat((front * cos + front.roll(turned // 2, -1) * sin, rest), -1).unbind(2)
    new_b1s1 = (torch.arange(capacity, device=keys_bhsk.device) == positions_b[:, None])[:, None, :, None]
    for cache, value_bhk in ((keys_bhsk, k_bhk), (values_bhsk, qkv_bhtk[:, :, 2])):
        cache.copy_(torch.where(new_b1s1, value_bhk[:, :, None].to(cache.dtype), cache))
    seen_b11s = (torch.arange(capacity, device=keys_bhsk.device) <= positions_b[:, None])[:, None, None]
    out_bh1k = F.scaled_dot_product_attention(
        q_bhk[:, :, None].to(keys_bhsk.dtype), keys_bhsk, values_bhsk, attn_mask=seen_b11s
    )
    return out_bh1k[:, :, 0].to(qkv_bhtk.dtype)


@functools.cache
def _loops() -> ModuleType | None:
    """The compiled loops; None without numba."""
    return fallback.attempt("numba", importlib.import_module, f"{__package__}.cpu.attention_loops")


@functools.cache
def _triton() -> ModuleType | None:
    """The kernels for CUDA; None without Triton."""
    return fallback.attempt("triton", importlib.import_module, f"{__package__}.cuda.attention")


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
