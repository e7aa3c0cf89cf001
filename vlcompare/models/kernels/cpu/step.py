"""Single positions on CPU: products of few rows, the convolution, the state's step. Tensors to and from compiled loops.

Knows layouts, dtypes and when the compiled loops apply (None where they do not); the loops are in `rows_numba`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlcompare.models.kernels import reference
from vlcompare.models.kernels.cpu import step_loops as loops
from vlcompare.models.kernels.cpu.scan import flat
from vlcompare.models.kernels.cpu.simd import WIDTH
from vlcompare.models.kernels.cpu.threads import threads
from vlcompare.models.kernels.linear import linear

_DTYPES = (torch.float32, torch.bfloat16)
_zeros: dict[int, Any] = {}


def _nothing(size: int) -> Any:
    """A flat array of zeros in place of a bias that is not there; never written to."""
    if size not in _zeros:
        _zeros[size] = torch.zeros(size).numpy()
    return _zeros[size]


def _floats(tensor: Tensor) -> Any:
    return flat(tensor.detach().float().contiguous())


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (R, K) weight (O, K)^T + bias -> (R, O) in x's dtype; K a multiple of 16, weight contiguous, no gradient."""
    rows, inputs = x.shape
    outputs = weight.shape[0]
    y = torch.empty(rows, outputs)
    added = _nothing(outputs) if bias is None else _floats(bias)
    loops.product(_floats(x), flat(weight), added, flat(y), rows, inputs, outputs, threads())
    return y.to(x.dtype)


def product_applies(x: Tensor, weight: Tensor) -> bool:
    """Whether `product` can take these tensors as they are."""
    return (
        weight.device.type == "cpu"
        and x.device.type == "cpu"
        and weight.dtype in _DTYPES
        and x.dtype == weight.dtype
        and weight.shape[1] % WIDTH == 0
        and weight.is_contiguous()
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    )


@torch.no_grad()
def selective_step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = True,
) -> Tensor:
    """See `kernels.selective_step`."""
    batch, width, n = state.shape
    fits = width % WIDTH == 0 and n % WIDTH == 0 and dt_softplus and x.dtype in _DTYPES
    if not fits or not state.is_contiguous() or state.dtype != torch.float32:
        return reference.selective_step(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    y = torch.empty(batch, width)
    nothing = _nothing(width)
    dense_x = _floats(x)
    loops.step(
        flat(state), dense_x, _floats(dt), _floats(A), _floats(B), _floats(C), nothing if D is None else _floats(D),
        dense_x if z is None else _floats(z), nothing if dt_bias is None else _floats(dt_bias), flat(y),
        batch, width, n, z is not None, threads() if batch * width >= 2048 else 1,
    )  # fmt: skip
    return y.to(x.dtype)


def projected_step(state: Tensor, x: Tensor, dt: Tensor, weight: Tensor, *scanned: Tensor | None) -> Tensor:
    """See `kernels.projected_step`; two kernels, each of which reads its weights or its state once."""
    return selective_step(state, x, linear(dt, weight), *scanned)  # type: ignore[arg-type]


@torch.no_grad()
def conv_step(window: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `kernels.conv_step`."""
    batch, width, before = window.shape
    if width % WIDTH or not window.is_contiguous() or window.dtype != torch.float32 or x.dtype not in _DTYPES:
        return reference.conv_step(window, x, weight, bias)
    y = torch.empty(batch, width)
    bias_d = _nothing(width) if bias is None else _floats(bias)
    loops.conv_step(flat(window), _floats(x), _floats(weight), bias_d, flat(y), batch, width, before + 1)
    return y.to(x.dtype)


class _Conv(torch.autograd.Function):
    """The convolution with SiLU over many positions; its backward pass is written by hand, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None) -> Tensor:
        batch, width, length = x.shape
        taps = weight.shape[1]
        x_bld = x.detach().transpose(1, 2)
        dense = x_bld.stride(2) == 1 and x_bld.stride(0) == length * x_bld.stride(1) and x_bld.stride(1) >= width
        if ctx is not None or not dense:
            x_bld = (x_bld.float() if ctx is not None else x_bld).contiguous()
        stride = x_bld.stride(1) if length else width
        # x may be one half of wider rows (the other is the gate): the loops are told the distance between rows
        span = x_bld.as_strided(((batch * length - 1) * stride + width if batch * length else 0,), (1,))
        before = torch.zeros(batch, taps - 1, width)
        if window is not None:
            before.copy_(window.detach().transpose(1, 2))
        taps_td = weight.detach().float().t().contiguous()
        bias_d = torch.zeros(width) if bias is None else bias.detach().float().contiguous()
        y = torch.empty(batch, length, width, dtype=x_bld.dtype)
        sizes = (length, width, taps, stride)
        loops.conv(flat(span), flat(before), flat(taps_td), flat(bias_d), flat(y), sizes, batch, threads())
        if ctx is not None:
            ctx.kept = x_bld, before, taps_td, bias_d, sizes
            ctx.dtypes = [None if v is None else v.dtype for v in (x, weight, bias, window)]
        return y.transpose(1, 2).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x_bld, before, taps_td, bias_d, sizes = ctx.kept
        dy = gradients[0].transpose(1, 2).float().contiguous()
        dinner, dx = torch.empty_like(dy), torch.empty_like(dy)
        dbefore, dweight, dbias = torch.zeros_like(before), torch.zeros_like(taps_td), torch.zeros_like(bias_d)
        tensors = (x_bld, before, taps_td, bias_d, dy, dinner, dx, dbefore, dweight, dbias)
        loops.conv_backward(*(flat(tensor) for tensor in tensors), sizes, x_bld.shape[0])
        values = (dx.transpose(1, 2), dweight.t(), dbias, dbefore.transpose(1, 2))
        return tuple(None if kind is None else v.to(kind) for v, kind in zip(values, ctx.dtypes, strict=True))


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None) -> tuple[Tensor, Tensor]:
    """See `kernels.causal_conv`."""
    if x.shape[1] % WIDTH or x.dtype not in _DTYPES:
        return reference.causal_conv(x, weight, bias, window)
    given = (x, weight, bias, window)
    if torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in given):
        y = _Conv.apply(x, weight, bias, window)
    else:
        y = _Conv.forward(None, x, weight, bias, window)
    return y, _moved(x, weight.shape[1] - 1, window)


def _moved(x: Tensor, kept: int, window: Tensor | None) -> Tensor:
    """The last `kept` inputs, (B, d, kept)."""
    if x.shape[2] >= kept:
        return x[:, :, x.shape[2] - kept :]
    if window is None:
        return F.pad(x, (kept - x.shape[2], 0))
    return torch.cat([window[:, :, x.shape[2] :].to(x.dtype), x], dim=2)
