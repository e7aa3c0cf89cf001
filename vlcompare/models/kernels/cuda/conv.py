"""The causal convolution before the scan, and its step, as Triton kernels for CUDA: SiLU fused, sums in float32.

Names as in `reference`.
"""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlcompare.models.kernels.autograd import needs_gradient
from vlcompare.models.kernels.cuda.common import dense

POSITIONS, CHANNELS = 16, 128  # of one program; channels lie side by side in memory


@triton.jit(do_not_specialize=["length"])  # one compilation for prompts of any length
def _conv(
    x_ptr, weight_ptr, bias_ptr, window_ptr, y_ptr, width, length, x_b, x_d, x_l, y_b, y_d, y_l,
    TAPS: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr, BIASED: tl.constexpr, STARTED: tl.constexpr,
):  # fmt: skip
    """BL positions of one batch row and BD channels; weight (d, TAPS) and window (B, d, TAPS - 1) dense."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    t = tl.program_id(2) * BL + tl.arange(0, BL)
    here = (d < width)[None, :]
    y = tl.zeros((BL, BD), tl.float32)
    for tap in tl.static_range(TAPS):
        at = t + tap - (TAPS - 1)
        inside = here & ((at >= 0) & (at < length))[:, None]
        x = tl.load(x_ptr + row * x_b + d[None, :] * x_d + at[:, None] * x_l, mask=inside, other=0.0).to(tl.float32)
        if STARTED:
            past_at = (row * width + d[None, :]) * (TAPS - 1) + at[:, None] + TAPS - 1
            x += tl.load(window_ptr + past_at, mask=here & (at < 0)[:, None], other=0.0).to(tl.float32)
        y += x * tl.load(weight_ptr + d * TAPS + tap, mask=d < width, other=0.0).to(tl.float32)[None, :]
    if BIASED:
        y += tl.load(bias_ptr + d, mask=d < width, other=0.0).to(tl.float32)[None, :]
    there = here & (t < length)[:, None]
    tl.store(y_ptr + row * y_b + d[None, :] * y_d + t[:, None] * y_l, y * tl.sigmoid(y), mask=there)


@triton.jit
def _conv_step(
    window_ptr, x_ptr, weight_ptr, bias_ptr, y_ptr, width, x_b,
    TAPS: tl.constexpr, BD: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """One position of the convolution and SiLU; window (B, d, TAPS - 1) moves on by one; weight (d, TAPS)."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    here = d < width
    x = tl.load(x_ptr + row * x_b + d, mask=here, other=0.0).to(tl.float32)
    y = x * tl.load(weight_ptr + d * TAPS + TAPS - 1, mask=here, other=0.0).to(tl.float32)
    if BIASED:
        y += tl.load(bias_ptr + d, mask=here, other=0.0).to(tl.float32)
    at = (row * width + d) * (TAPS - 1)
    before = x
    for tap in tl.static_range(TAPS - 1):
        past = tl.load(window_ptr + at + tap, mask=here, other=0.0)
        y += past * tl.load(weight_ptr + d * TAPS + tap, mask=here, other=0.0).to(tl.float32)
        # stored one iteration late: no load may overtake a store, and one that waits for it waits for memory again
        if tap > 1:
            tl.store(window_ptr + at + tap - 2, before, mask=here)
        before = past
    if TAPS > 2:
        tl.store(window_ptr + at + TAPS - 3, before, mask=here)
    if TAPS > 1:
        tl.store(window_ptr + at + TAPS - 2, x, mask=here)
    tl.store(y_ptr + row * width + d, y * tl.sigmoid(y), mask=here)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """See `dispatch.causal_conv`. Not for training: it has no gradients."""
    if needs_gradient(x, weight, bias, window):
        return None
    batch, width, length = x.shape
    taps = weight.shape[1]
    weight = weight.contiguous()
    # channels side by side, as the projections around the convolution have them
    y = torch.empty(batch, length, width, dtype=x.dtype, device=x.device).transpose(1, 2)
    if length:
        with torch.cuda.device_of(x):
            _conv[batch, triton.cdiv(width, CHANNELS), triton.cdiv(length, POSITIONS)](
                x, weight, weight if bias is None else bias, weight if window is None else window.contiguous(), y,
                width, length, *x.stride(), *y.stride(),
                TAPS=taps, BL=POSITIONS, BD=CHANNELS, BIASED=bias is not None, STARTED=window is not None,
            )  # fmt: skip
    before = x.new_zeros(batch, width, taps - 1) if window is None else window.to(x.dtype)
    last = torch.cat([before, x[:, :, max(0, length - taps + 1) :]], dim=2)
    return y, last[:, :, last.shape[2] - taps + 1 :]


@torch.no_grad()
def conv_step(window: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See `dispatch.conv_step`; one kernel, capturable in a CUDA graph."""
    if not window.is_contiguous() or window.dtype != torch.float32:
        raise ValueError(f"the window must be contiguous float32, got {window.dtype} with strides {window.stride()}")
    batch, width, before = window.shape
    x, weight = dense(x), weight.contiguous()
    y = torch.empty(batch, width, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(window):
        _conv_step[batch, triton.cdiv(width, CHANNELS)](
            window, x, weight, weight if bias is None else bias, y, width, x.stride(0),
            TAPS=before + 1, BD=CHANNELS, BIASED=bias is not None,
        )  # fmt: skip
    return y
