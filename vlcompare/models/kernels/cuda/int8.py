"""Around an integer product, as Triton kernels for CUDA: activations to int8 by rows, and integer sums back.

In the range of the activations' own dtype: bitsandbytes' kernels for this are float16's. Names as in `reference`.
"""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

OUTPUTS = 1024  # of one program


@triton.jit
def _rows(x_ptr, values_ptr, largest_ptr, width, BLOCK: tl.constexpr):
    """One row: its largest magnitude, NaN where there is one, and its numbers as whole multiples of a 127th of it."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * width + k, mask=k < width, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(x), 0)
    broken = tl.max((x != x).to(tl.int32), 0) > 0
    scaled = x * (127.0 / tl.maximum(largest, 1.1754943508222875e-38))
    scaled = tl.minimum(tl.maximum(tl.where(scaled == scaled, scaled, 0.0), -127.0), 127.0)
    whole = (scaled + 12582912.0) - 12582912.0  # 1.5 x 2^23: to the nearest whole number, of two the even one
    tl.store(values_ptr + row * width + k, whole.to(tl.int8), mask=k < width)
    tl.store(largest_ptr + row, tl.where(broken, float("nan"), largest))


@triton.jit
def _result(
    sums_ptr, row_scales_ptr, scales_ptr, bias_ptr, y_ptr, outputs, BLOCK: tl.constexpr, BIASED: tl.constexpr
):  # fmt: skip
    """BLOCK outputs of one row."""
    row = tl.program_id(0).to(tl.int64)
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = o < outputs
    y = tl.load(sums_ptr + row * outputs + o, mask=here, other=0).to(tl.float32)
    y = y * (tl.load(row_scales_ptr + row) / 127.0) * (tl.load(scales_ptr + o, mask=here, other=0.0) / 127.0)
    if BIASED:
        y += tl.load(bias_ptr + o, mask=here, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * outputs + o, y, mask=here)


@torch.no_grad()
def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.int8_rows`; x is contiguous."""
    rows, width = x.shape
    values = torch.empty(rows, width, dtype=torch.int8, device=x.device)
    largest = torch.empty(rows, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _rows[(rows,)](x, values, largest, width, BLOCK=triton.next_power_of_2(width), num_warps=8)
    return values, largest


@torch.no_grad()
def int8_result(sums: Tensor, row_scales: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """See `reference.int8_result`; all are contiguous."""
    rows, outputs = sums.shape
    y = torch.empty(rows, outputs, dtype=dtype, device=sums.device)
    with torch.cuda.device_of(sums):
        _result[rows, triton.cdiv(outputs, OUTPUTS)](
            sums, row_scales, scales, scales if bias is None else bias, y, outputs,
            BLOCK=OUTPUTS, BIASED=bias is not None,
        )  # fmt: skip
    return y
