"""Single positions on CPU, products of few rows, and the convolution: tensors to and from the loops of `step_loops`.

Each function returns None for dtypes, sizes and layouts that its loops do not take.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlcompare.models.kernels import reference
from vlcompare.models.kernels.autograd import Differentiable, Kernel, needs_gradient
from vlcompare.models.kernels.cpu import step_loops as loops
from vlcompare.models.kernels.cpu.arrays import LOOP_DTYPES, flat, floats, floats_or_zeros
from vlcompare.models.kernels.cpu.openmp import threads
from vlcompare.models.kernels.cpu.simd import WIDTH
from vlcompare.models.kernels.reference import ScanInputs


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """x (R, K) weight (O, K)^T + bias -> (R, O) in x's dtype; K a multiple of 16, weight contiguous, no gradient."""
    (rows, inputs), outputs = x.shape, weight.shape[0]
    fits = inputs % WIDTH == 0 and weight.is_contiguous() and weight.dtype in LOOP_DTYPES and x.dtype == weight.dtype
    if not fits or needs_gradient(x, weight):
        return None
    y = torch.empty(rows, outputs)
    added = floats_or_zeros(bias, outputs)
    loops.product(floats(x), flat(weight), added, flat(y), rows, inputs, outputs, threads())
    return y.to(x.dtype)


@torch.no_grad()
def selective_step(state: Tensor, inputs: ScanInputs) -> Tensor | None:
    """See `dispatch.selective_step`."""
    x, dt, A, B, C, D, z, bias, _, softplus = inputs
    batch, width, n = state.shape
    fits = width % WIDTH == 0 and n % WIDTH == 0 and softplus and x.dtype in LOOP_DTYPES
    if not fits or not state.is_contiguous() or state.dtype != torch.float32:
        return None
    y = torch.empty(batch, width)
    dense_x = floats(x)
    loops.step(
        flat(state), dense_x, floats(dt), floats(A), floats(B), floats(C), floats_or_zeros(D, width),
        dense_x if z is None else floats(z), floats_or_zeros(bias, width), flat(y),
        batch, width, n, z is not None, threads() if batch * width >= 2048 else 1,
    )  # fmt: skip
    return y.to(x.dtype)


@torch.no_grad()
def conv_step(window: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """See `dispatch.conv_step`."""
    batch, width, before = window.shape
    if width % WIDTH or not window.is_contiguous() or window.dtype != torch.float32 or x.dtype not in LOOP_DTYPES:
        return None
    y = torch.empty(batch, width)
    added = floats_or_zeros(bias, width)
    loops.conv_step(flat(window), floats(x), floats(weight), added, flat(y), batch, width, before + 1)
    return y.to(x.dtype)


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None, trained: bool = True
) -> tuple[Tensor, tuple[Any, ...]]:
    """y (B, d, L), and the tensors in the loops' layout; all of them float32 and dense where `trained`."""
    batch, width, length = x.shape
    taps = weight.shape[1]
    x_bld = x.detach().transpose(1, 2)
    dense = x_bld.stride(2) == 1 and x_bld.stride(0) == length * x_bld.stride(1) and x_bld.stride(1) >= width
    if trained or not dense:
        x_bld = (x_bld.float() if trained else x_bld).contiguous()
    stride = x_bld.stride(1) if length else width
    # x may be one half of wider rows (the other is the gate): the loops take the distance between rows
    span = x_bld.as_strided(((batch * length - 1) * stride + width if batch * length else 0,), (1,))
    before = torch.zeros(batch, taps - 1, width)
    if window is not None:
        before.copy_(window.detach().transpose(1, 2))
    taps_td = weight.detach().float().t().contiguous()
    bias_d = torch.zeros(width) if bias is None else bias.detach().float().contiguous()
    y = torch.empty(batch, length, width, dtype=x_bld.dtype)
    sizes = (length, width, taps, stride)
    loops.conv(flat(span), flat(before), flat(taps_td), flat(bias_d), flat(y), sizes, batch, threads())
    return y.transpose(1, 2).to(x.dtype), (x_bld, before, taps_td, bias_d, sizes)


def _conv_forward(*inputs: Any) -> tuple[tuple[Tensor], tuple[Any, ...]]:
    y, kept = _conv(*inputs)
    return (y,), kept


def _conv_backward(inputs: list[Any], kept: tuple[Any, ...], dy: Tensor) -> tuple[Tensor, ...]:
    x_bld, before, taps_td, bias_d, sizes = kept
    dy = dy.transpose(1, 2).float().contiguous()
    dinner, dx = torch.empty_like(dy), torch.empty_like(dy)
    dbefore, dweight, dbias = torch.zeros_like(before), torch.zeros_like(taps_td), torch.zeros_like(bias_d)
    tensors = (x_bld, before, taps_td, bias_d, dy, dinner, dx, dbefore, dweight, dbias)
    loops.conv_backward(*(flat(tensor) for tensor in tensors), sizes, x_bld.shape[0])
    return dx.transpose(1, 2), dweight.t(), dbias, dbefore.transpose(1, 2)


_CONV = Kernel("numba", _conv_forward, _conv_backward, lambda *inputs: reference.causal_conv(*inputs)[:1])


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """See `dispatch.causal_conv`."""
    if x.shape[1] % WIDTH or x.dtype not in LOOP_DTYPES:
        return None
    inputs = (x, weight, bias, window)
    y, *_ = Differentiable.apply(_CONV, *inputs) if needs_gradient(*inputs) else _conv(x, weight, bias, window, False)
    return y, _last_inputs(x, weight.shape[1] - 1, window)


def _last_inputs(x: Tensor, kept: int, window: Tensor | None) -> Tensor:
    """The last `kept` inputs, (B, d, kept)."""
    if x.shape[2] >= kept:
        return x[:, :, x.shape[2] - kept :]
    if window is None:
        return F.pad(x, (kept - x.shape[2], 0))
    return torch.cat([window[:, :, x.shape[2] :].to(x.dtype), x], dim=2)
