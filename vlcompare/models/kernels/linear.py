"""A Linear whose products at few rows take the fastest kernel of the device. Same parameters as torch's own.

On a CPU the choice depends on the processor, the dtype and the sizes alone, never on a measurement, so that a result
can be reproduced. On a GPU a product of one row is done by a kernel of our own where that is right and was found to be
faster on the card (`speed`); cuBLAS and bitsandbytes do the rest.

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

from vlcompare.models.interruption import check
from vlcompare.models.kernels import agreement, fallback, reference
from vlcompare.models.kernels.reference import Nf4Weight

PRODUCT, NF4, INT8 = "cuda.product", "cuda.nf4", "cuda.int8"
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
        y = _row_product(x, weight, bias, False)
        return F.linear(x, weight, bias) if y is None else y
    rows = x.numel() // max(1, x.shape[-1])
    if rows <= FEW_ROWS:
        if rows and weight.numel() >= SMALLEST:
            product = fallback.call("numba", "cpu.step", "product", x.reshape(rows, -1), weight, bias)
            if product is not None:
                return product.view(*x.shape[:-1], weight.shape[0])
    elif x.dtype == weight.dtype == torch.bfloat16 and not native_bfloat16():
        return _widened(x, weight, bias)
    return F.linear(x, weight, bias)


def scores(x: Tensor, weight: Tensor) -> Tensor:
    """`linear` in float32, rounded as the product is."""
    y = _row_product(x, weight, None, True)
    return linear(x, weight).float() if y is None else y


def _row_product(x: Tensor, weight: Tensor, bias: Tensor | None, wide: bool) -> Tensor | None:
    """One row on CUDA, where our own kernel is faster; else None."""
    if not x.is_cuda or torch.is_grad_enabled() or x.numel() != x.shape[-1] or weight.numel() < SMALLEST:
        return None
    return agreement.call("triton", PRODUCT, "row_product", x.device, x, weight, bias, wide)  # type: ignore[no-any-return]


def nf4_product(x: Tensor, weight: Nf4Weight, bias: Tensor | None, *, asked_for: bool = False) -> Tensor | None:
    """See `reference.nf4_product`: one row on CUDA, where our own kernel is faster, or is asked for; else None."""
    if not x.is_cuda or torch.is_grad_enabled() or x.numel() != x.shape[-1]:
        return None
    if asked_for:
        return fallback.call("triton", NF4, "nf4_product", x, weight, bias)  # type: ignore[no-any-return]
    return agreement.call("triton", NF4, "nf4_product", x.device, x, weight, bias)  # type: ignore[no-any-return]


def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.int8_rows`; one kernel on CUDA."""
    found = None
    if x.is_cuda and not torch.is_grad_enabled():
        found = agreement.call("triton", INT8, "int8_rows", x.device, x)
    return reference.int8_rows(x) if found is None else found


def int8_result(sums: Tensor, row_scales: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """See `reference.int8_result`; one kernel on CUDA."""
    given, found = (sums, row_scales, scales, bias, dtype), None
    if sums.is_cuda and not torch.is_grad_enabled():
        found = agreement.call("triton", INT8, "int8_result", sums.device, *given)
    return reference.int8_result(*given) if found is None else found


def _widened(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The bfloat16 product through float32: exact products, one rounding at the end as native instructions do."""
    outputs, inputs = weight.shape
    wide, step = x.float(), max(1, _SLICE // max(1, inputs))
    parts = []
    for o in range(0, outputs, step):
        check()
        added = None if bias is None else bias[o : o + step].float()
        parts.append(F.linear(wide, weight[o : o + step].float(), added).to(x.dtype))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class Linear(nn.Linear):
    """torch's Linear with the same parameters; only its product is computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
