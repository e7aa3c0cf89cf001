"""Products with packed weights on CPU: tensors to and from the loops of `packed_loops`.

Each function returns None for dtypes, sizes and layouts that its loops do not take.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlcompare.models.kernels.autograd import needs_gradient
from vlcompare.models.kernels.cpu import packed_loops, quantize_loops, unpack_loops
from vlcompare.models.kernels.cpu.arrays import LOOP_DTYPES, flat, floats, floats_or_zeros
from vlcompare.models.kernels.cpu.openmp import threads
from vlcompare.models.kernels.cpu.simd import WIDTH
from vlcompare.models.kernels.cpu.tiles import product as tiled
from vlcompare.models.kernels.cpu.tiles.instructions import CONFIG, LINE, PAIR, allowed
from vlcompare.models.kernels.cpu.variants import VARIANTS, supported
from vlcompare.models.kernels.packed_format import BLOCK

__all__ = ["product", "quantized", "supported", "tiled_product", "unpack"]
_scratch: deque[np.ndarray[Any, Any]] = deque(maxlen=2)  # as many products as run side by side
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


def tiled_product(
    variant: str, method: str, x: Tensor, packed: Tensor, absmax: Tensor, bias: Tensor | None, outputs: int
) -> Tensor | None:
    """`product` for many rows in bfloat16, by AMX: weights are rounded to bfloat16, sums are in float32."""
    rows, inputs = x.shape
    if not rows or inputs % BLOCK or outputs % PAIR or x.dtype != torch.bfloat16 or needs_gradient(x):
        return None
    if not VARIANTS[variant].permutes_numbers or not allowed():  # a processor with AMX has AVX512
        return None
    count = threads()
    sizes = tiled.sizes_of(rows, inputs, outputs, count)
    y = torch.empty(rows, outputs, dtype=torch.bfloat16)
    turned = torch.empty(-(-rows // PAIR) * PAIR * inputs // 2)
    given = flat(x.contiguous()).view(np.float32), flat(turned), flat(packed), flat(absmax)
    with _scratch_of(count * tiled.scratch_bytes(sizes)) as scratch:
        arrays = *given, floats_or_zeros(bias, outputs), flat(y), scratch.view(np.uint16), scratch.view(np.float32)
        tiled.loop(method, variant)(*arrays, CONFIG, sizes, count)
    return y


@contextmanager
def _scratch_of(size: int) -> Iterator[np.ndarray[Any, Any]]:
    """`size` bytes from the beginning of a line of the cache. Some are kept: new memory is cleared page by page."""
    try:
        held = _scratch.pop()
    except IndexError:
        held = np.empty(0, np.uint8)
    if len(held) < size:
        whole = np.empty(size + LINE, np.uint8)
        held = whole[-whole.ctypes.data % LINE :][:size]
    yield held[:size]
    _scratch.append(held)


def unpack(variant: str, method: str, packed: Tensor, absmax: Tensor, first: int, out: Tensor) -> Tensor | None:
    """Write rows of a packed weight, from `first` on, into `out` (rows, K), which is returned."""
    rows, inputs = out.shape
    if inputs % BLOCK or out.dtype not in LOOP_DTYPES or not out.is_contiguous():
        return None
    unpack_loops.loop(method, variant)(flat(packed), flat(absmax), first, flat(out), rows, inputs, threads())
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
