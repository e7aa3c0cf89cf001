"""Attention of one position on CPU: tensors to and from the loops of `attention_loops`."""

from __future__ import annotations

import torch
from torch import Tensor

from vlcompare.models.kernels.autograd import needs_gradient
from vlcompare.models.kernels.cpu import attention_loops as loops
from vlcompare.models.kernels.cpu.arrays import LOOP_DTYPES, flat
from vlcompare.models.kernels.cpu.openmp import threads
from vlcompare.models.kernels.cpu.simd import WIDTH


def attend_one(q_bhk: Tensor, keys_bhsk: Tensor, values_bhsk: Tensor, counts_b: Tensor) -> Tensor | None:
    """See `kernels.attention.attend_one`; heads of a multiple of 16 channels, contiguous caches, no gradient."""
    heads, capacity, size = keys_bhsk.shape[1:]
    contiguous = keys_bhsk.is_contiguous() and values_bhsk.is_contiguous()
    if size % WIDTH or keys_bhsk.dtype not in LOOP_DTYPES or not contiguous or needs_gradient(q_bhk):
        return None
    scaled = (q_bhk.float() * size**-0.5).contiguous()
    out = torch.empty_like(scaled)
    arrays = (flat(tensor) for tensor in (scaled, keys_bhsk, values_bhsk, out))
    loops.attend(*arrays, counts_b.contiguous().numpy(), heads, capacity, size, threads())
    return out.to(q_bhk.dtype)
