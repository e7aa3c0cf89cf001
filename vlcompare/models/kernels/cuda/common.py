"""What several Triton kernels share: functions on tiles, and tensors as the kernels want them."""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlcompare.models.kernels import early_launch
from vlcompare.models.kernels.reference import NormModule


@triton.jit
def then(a1, b1, a2, b2):
    """First h -> a1 h + b1, then h -> a2 h + b2."""
    return a1 * a2, a2 * b1 + b2


@triton.jit
def softplus(x):
    """log(1 + e^x) without overflow, and right to the last digits for small time steps, too."""
    e = tl.exp(-tl.abs(x))
    series = e * (1.0 - e * (1.0 / 2.0 - e * (1.0 / 3.0 - e / 4.0)))
    return tl.maximum(x, 0.0) + tl.where(e < 1.0 / 32.0, series, tl.log(1.0 + e))


@triton.jit
def time_steps(raw, there, SMOOTH: tl.constexpr):
    """Time steps with their bias -> smoothed where asked; 0 behind the end: decay 1, drive 0, so the state stays."""
    steps = raw
    if SMOOTH:
        steps = softplus(raw)
    return tl.where(there, steps, 0.0)


@triton.jit
def tile(start, t, k, t_stride, k_stride, length, width):
    """Positions t of channels or states k, as they are stored; 0 behind the end."""
    there = (t < length)[:, None] & (k < width)[None, :]
    return tl.load(start + t[:, None] * t_stride + k[None, :] * k_stride, mask=there, other=0.0)


@triton.jit
def total(a_ptr, b_ptr, c_ptr, at, there, TERMS: tl.constexpr):
    """The sum of up to three rows, from left to right in their dtype; 0 behind the end."""
    row = tl.load(a_ptr + at, mask=there, other=0.0)
    if TERMS > 1:
        row = (row.to(tl.float32) + tl.load(b_ptr + at, mask=there, other=0.0).to(tl.float32)).to(row.dtype)
    if TERMS > 2:
        row = (row.to(tl.float32) + tl.load(c_ptr + at, mask=there, other=0.0).to(tl.float32)).to(row.dtype)
    return row


@triton.jit
def entering(rounded, weight_ptr, bias_ptr, at, there, mean, scale, NORMED: tl.constexpr, SHIFTED: tl.constexpr):
    """A row's numbers as they enter a product: their norm where asked, rounded as torch rounds it; float32."""
    x = rounded.to(tl.float32)
    if NORMED:
        x = (x - mean) * scale * tl.load(weight_ptr + at, mask=there, other=0.0).to(tl.float32)
        if SHIFTED:
            x += tl.load(bias_ptr + at, mask=there, other=0.0).to(tl.float32)
    return x.to(rounded.dtype).to(tl.float32)


@triton.jit
def leaving(y, like_ptr, GELU: tl.constexpr):
    """What a product gives, rounded to the dtype of `like_ptr`; where asked its GELU, rounded again."""
    rounded = y.to(like_ptr.dtype.element_ty)
    if GELU:
        x = rounded.to(tl.float32)
        rounded = (0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))).to(rounded.dtype)
    return rounded


def early(device: torch.device) -> dict[str, bool]:
    """How a kernel of a step is launched (`early_launch`): EARLY, and what tells the driver."""
    return {"EARLY": True, "launch_pdl": True} if early_launch.is_on(device) else {"EARLY": False}


def dense(tensor: Tensor) -> Tensor:
    """The same tensor where its last axis is dense; rows may lie further apart."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def wide(tensor: Tensor | None) -> Tensor | None:
    """Contiguous and in float32."""
    return None if tensor is None else tensor.detach().float().contiguous()


def eps_of(norm: NormModule, x: Tensor) -> float:
    """What a norm adds to the mean square; by default torch's RMSNorm takes the dtype's own."""
    return torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
