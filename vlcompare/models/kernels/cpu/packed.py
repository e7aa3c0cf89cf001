"""Products with packed weights on CPU: tensors to and from the loops of `packed_loops`.

Each function returns None for dtypes, sizes and layouts that its loops do not take.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlcompare.models.kernels.autograd import needs_gradient
from vlcompare.models.kernels.cpu import packed_loops, quantize_loops, unpack_loops
from vlcompare.models.kernels.cpu.arrays import LOOP_DTYPES, flat, floats, floats_or_zeros
from vlcompare.models.kernels.cpu.openmp import threads
from vlcompare.models.kernels.cpu.simd import WIDTH
from vlcompare.models.kernels.cpu.variants import supported
from vlcompare.models.kernels.packed_format import BLOCK

__all__ = ["product", "quantized", "supported", "unpack"]
_CHUNK = 1 << 22  # weights of other dtypes widened at a time


def product(
    variant: str, method: str, x: Tensor, packed: Tensor, absmax: Tensor, bias: Tensor | None, outputs: int
) -> Tensor | None:
    """x (R, K) times the packed weight (outputs, K), transposed, + bias -> (R, outputs) in x's dtype.

    variant: of `supported()`. Activations are rounded to 15 bits by blocks of 64; K is a multiple of 64.
    """
    rows, inputs = x.shape
    if inputs % BLOCK or x.dtype not in LOOP_DTYPES or needs_gradient(x):
        return None
    y = torch.empty(rows, outputs)
    loop = getattr(packed_loops.loops(variant), method)
    given = floats(x), flat(packed), flat(absmax), floats_or_zeros(bias, outputs)
    loop(*given, flat(y), rows, inputs, outputs, threads())
    return y.to(x.dtype)


def unpack(variant: str, method: str, packed: Tensor, absmax: Tensor, first: int, out: Tensor) -> Tensor | None:
    """Write rows of a packed weight, from `first` on, into `out` (rows, K), which is returned."""
    rows, inputs = out.shape
    if inputs % BLOCK or out.dtype not in LOOP_DTYPES or not out.is_contiguous():
        return None
    loop = unpack_loops.unpack_nf4(variant) if method == "nf4" else unpack_loops.unpack_int8
    loop(flat(packed), flat(absmax), first, flat(out), rows, inputs, threads())
    return out


def quantized(weight: Tensor, method: str) -> tuple[Tensor, Tensor] | None:
    """See `packed_format.quantized`; columns a multiple of 64 for NF4, of 16 for int8."""
    rows, columns = weight.shape
    if columns % (BLOCK if method == "nf4" else WIDTH) or not weight.dtype.is_floating_point:
        return None
    if weight.dtype == torch.float64:
        return None
    if method == "nf4":
        packed, absmax = torch.empty(rows, columns // 2, dtype=torch.uint8), torch.empty(rows, columns // BLOCK)
    else:
        packed, absmax = torch.empty(rows, columns, dtype=torch.int8), torch.empty(rows)
    loop = quantize_loops.nf4 if method == "nf4" else quantize_loops.int8
    step = rows if weight.dtype in LOOP_DTYPES else max(1, _CHUNK // columns)
    for first in range(0, rows, step):
        some = slice(first, first + step)
        part = weight.detach()[some].contiguous()
        part = part if part.dtype in LOOP_DTYPES else part.float()
        loop(flat(part), flat(packed[some]), flat(absmax[some]), len(part), columns, threads())
    return packed.view(-1) if method == "nf4" else packed, absmax.view(-1)
