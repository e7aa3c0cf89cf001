"""The compiled loops that round weights to NF4 and int8, bit for bit as `packed_format.quantized` does.

Flat arrays in, flat arrays out; no torch in here. A checkpoint of a billion weights takes a second instead of sixteen.
"""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from vlcompare.models.kernels.cpu.packed_simd import largest, magnitude
from vlcompare.models.kernels.cpu.simd import WIDTH, compiled, intrinsic, lanes, load, splat
from vlcompare.models.kernels.cpu.threads import share_out
from vlcompare.models.kernels.cpu.variants import BYTE, INT, shuffle, undefined, vector
from vlcompare.models.kernels.packed_format import BLOCK, NF4

_CODE = np.array(NF4, np.float32)
_EDGES = tuple(float(edge) for edge in (_CODE[1:] + _CODE[:-1]) / np.float32(2))
_TINY = float(np.finfo(np.float32).tiny)


@intrinsic
def _store_nf4(typing: Any, packed: Any, at: Any, value: Any) -> Any:
    """Eight bytes: for sixteen numbers of -1 .. 1 how many edges lie below each, the first of two in the upper half."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[2]
        index = vector(INT, [0] * WIDTH)
        for edge in _EDGES:
            below = builder.fcmp_unordered("<", ir.Constant(value.type, [edge] * WIDTH), value)  # NaN: all of them
            index = builder.add(index, builder.zext(below, index.type))
        first, second = (shuffle(builder, index, undefined(index.type), range(odd, WIDTH, 2)) for odd in (0, 1))
        both = builder.or_(builder.shl(first, vector(INT, [4] * (WIDTH // 2))), second)
        narrow = builder.trunc(both, ir.VectorType(BYTE, WIDTH // 2))
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=args[0]).data
        builder.store(narrow, builder.bitcast(builder.gep(data, [args[1]]), narrow.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.Array(types.uint8, 1, "C"), types.intp, lanes), generate


@intrinsic
def _store_int8(typing: Any, numbers: Any, at: Any, value: Any) -> Any:
    """Sixteen numbers of -127 .. 127, rounded to nearest, ties to even."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = args[2]
        magic = ir.Constant(value.type, [12582912.0] * WIDTH)  # adding it leaves the nearest number in the lowest bits
        bits = builder.bitcast(builder.fadd(value, magic), ir.VectorType(INT, WIDTH))
        narrow = builder.trunc(bits, ir.VectorType(BYTE, WIDTH))
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=args[0]).data
        builder.store(narrow, builder.bitcast(builder.gep(data, [args[1]]), narrow.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.Array(types.int8, 1, "C"), types.intp, lanes), generate


@compiled(inner=True)
def _most(weight, begin, count):
    """The largest magnitude; NaN wins."""
    most = splat(np.float32(0))
    for k in range(begin, begin + count, WIDTH):
        most = magnitude(most, load(weight, k))
    return largest(most)


@compiled(inner=True)
def _not_zero(absmax):
    return np.float32(_TINY) if absmax < np.float32(_TINY) else absmax


@compiled(inner=True)
def _nf4_row(weight, packed, absmax, columns, row):
    for block in range(row * columns // BLOCK, (row + 1) * columns // BLOCK):
        absmax[block] = _most(weight, block * BLOCK, BLOCK)
        over = splat(_not_zero(absmax[block]))
        for k in range(block * BLOCK, (block + 1) * BLOCK, WIDTH):
            _store_nf4(packed, k // 2, load(weight, k) / over)


@compiled()
def nf4(weight, packed, absmax, rows, columns, threads):
    """weight (rows, columns) float32 or bfloat16, columns a multiple of BLOCK."""
    share_out(_nf4_row, (weight, packed, absmax, columns), rows, threads)


@compiled(inner=True)
def _int8_row(weight, numbers, absmax, columns, row):
    absmax[row] = _most(weight, row * columns, columns)
    over = splat(_not_zero(absmax[row]))
    for k in range(row * columns, (row + 1) * columns, WIDTH):
        _store_int8(numbers, k, load(weight, k) * splat(np.float32(127)) / over)


@compiled()
def int8(weight, numbers, absmax, rows, columns, threads):
    """The same for int8; columns a multiple of WIDTH."""
    share_out(_int8_row, (weight, numbers, absmax, columns), rows, threads)
