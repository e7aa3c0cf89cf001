"""A Linear whose products at few rows take the fastest kernel of the device. Same parameters as torch's own.

The choice depends on the processor, the dtype and the sizes alone, never on a measurement, so that a result can be
reproduced.

On CPU a product of one row is bound by memory, and torch's reaches about 60 % of it (18 of 30 GB/s measured on a Zen 4
server); the compiled loops of `cpu.step_loops` read the weights once on all threads. Many rows in bfloat16 on a
processor without bfloat16 instructions go through float32, a slice of the weights at a time: torch would otherwise
multiply number by number.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.models.kernels import fallback

FEW_ROWS = 4  # above this torch's blocked products read the weights from the cache more cleverly
SMALLEST = 1 << 16  # weights; below this a call costs more than the product
_SLICE = 1 << 23  # weights widened to float32 at a time: 32 MB


@functools.cache
def native_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 matrices with this processor's own instructions."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in) weight (out, in)^T + bias, in x's dtype."""
    if x.device.type != "cpu" or weight.device.type != "cpu":
        return F.linear(x, weight, bias)
    rows = x.numel() // max(1, x.shape[-1])
    if rows <= FEW_ROWS:
        if rows and weight.numel() >= SMALLEST:
            product = fallback.call("numba", "cpu.step", "product", x.reshape(rows, -1), weight, bias)
            if product is not None:
                return product.view(*x.shape[:-1], weight.shape[0])
    elif x.dtype == weight.dtype == torch.bfloat16 and not native_bfloat16():
        return _widened(x, weight, bias)
    return F.linear(x, weight, bias)


def _widened(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The bfloat16 product through float32: exact products, one rounding at the end as native instructions do."""
    outputs, inputs = weight.shape
    wide, step = x.float(), max(1, _SLICE // max(1, inputs))
    parts = [
        F.linear(wide, weight[o : o + step].float(), None if bias is None else bias[o : o + step].float()).to(x.dtype)
        for o in range(0, outputs, step)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Linear(nn.Linear):
    """torch's Linear with the same parameters; only its product is computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
