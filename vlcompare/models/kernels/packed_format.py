"""How NF4 and int8 weights lie in memory and in files, rounding to them, and what they stand for, in plain torch.

NF4 ("QLoRA", arXiv 2305.14314, section 3): 64 weights of a row share a scale, their largest magnitude; each is the
index of one of sixteen values, two indices in a byte, the first in the upper half. int8: a row shares a scale, its
largest magnitude, which stands for 127.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64  # weights that share a scale in NF4
_CHUNK = 1 << 22  # weights rounded or unpacked at a time: that takes far less memory than one large tensor
# NF4's sixteen values, ascending (QLoRA, appendix E)
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def nf4_code(device: torch.device | str = "cpu") -> Tensor:
    """NF4's 16 values, ascending, float32."""
    return torch.tensor(NF4, dtype=torch.float32, device=device)


def quantized(weight: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """A weight (rows, columns) as its parts, packed and absmax, on the weight's device: the reference.

    NF4: the nearest code of each value over its block's largest magnitude.
    """
    packed, scales = [], []
    smallest = torch.finfo(torch.float32).tiny
    if method == "int8":
        for part in weight.split(max(1, _CHUNK // weight.shape[1])):
            absmax = part.abs().amax(1).float()
            packed.append(torch.round(part.float() * 127 / absmax.clamp(min=smallest)[:, None]).to(torch.int8))
            scales.append(absmax)
        return torch.cat(packed), torch.cat(scales)
    edges = nf4_edges(weight.device)
    for part in weight.reshape(-1, BLOCK).split(_CHUNK // BLOCK):
        values = part.float()
        absmax = values.abs().amax(1)
        values = values / absmax.clamp(min=smallest)[:, None]
        index = torch.bucketize(values, edges, out_int32=True).to(torch.uint8).view(-1)
        packed.append((index[::2] << 4) | index[1::2])
        scales.append(absmax)
    return torch.cat(packed), torch.cat(scales)


def nf4_edges(device: torch.device | str = "cpu") -> Tensor:
    """The 15 numbers between NF4's values at which the nearest one changes, ascending, float32."""
    code = nf4_code(device)
    return (code[1:] + code[:-1]) / 2


def unpacked(method: str, packed: Tensor, absmax: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The weight that the parts encode, in plain torch: the reference. int8: packed (rows, columns), absmax (rows,);
    NF4: rows x columns / 2 bytes, and a scale for each 64 weights.
    """
    if method == "int8":
        weight = torch.empty(shape, dtype=dtype, device=packed.device)
        for begin in range(0, shape[0], step := max(1, _CHUNK // shape[1])):
            rows = slice(begin, begin + step)
            weight[rows] = packed[rows].float() * (absmax[rows, None] / 127)
        return weight
    code = nf4_code(packed.device)
    weight = torch.empty(shape[0] * shape[1], dtype=dtype, device=code.device)
    for begin in range(0, weight.numel(), _CHUNK):
        some = packed.reshape(-1)[begin // 2 : (begin + _CHUNK) // 2]
        values = code[torch.stack((some >> 4, some & 15), 1).reshape(-1).int()].view(-1, BLOCK)
        scaled = values * absmax[begin // BLOCK : (begin + _CHUNK) // BLOCK, None]
        weight[begin : begin + _CHUNK] = scaled.reshape(-1)
    return weight.view(shape)
