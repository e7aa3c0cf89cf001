"""The compiled loops that unpack NF4 and int8 weights to float32 or bfloat16, bit for bit as `packed_format` does.

A block of NF4 holds no more than sixteen different numbers: these are multiplied and rounded once, and its 64 weights
are looked up among them, a byte of each number at a time. Flat arrays in, flat arrays out; no torch in here.
"""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils

from vlcompare.models.kernels.cpu.packed_loops import named
from vlcompare.models.kernels.cpu.packed_simd import load_int8
from vlcompare.models.kernels.cpu.simd import WIDTH, bfloat16_bits, compiled, intrinsic, lanes, splat, store
from vlcompare.models.kernels.cpu.threads import share_out
from vlcompare.models.kernels.cpu.variants import BYTE, INT, VARIANTS, join, shuffle, undefined, vector
from vlcompare.models.kernels.packed_format import BLOCK, NF4

PIECE = BLOCK // 2  # numbers of a row that always lie side by side
_I32 = ir.VectorType(INT, WIDTH)
_F32 = ir.VectorType(ir.FloatType(), WIDTH)


class BFloat16(ir.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BFloat16)

    def __hash__(self) -> int:
        return hash(BFloat16)


def _pointer(context: Any, builder: Any, signature: Any, args: Any, number: int, index: Any, kind: Any) -> Any:
    """To element `index` of the array that is argument `number`, as a vector of the type `kind`."""
    data = cgutils.create_struct_proxy(signature.args[number])(context, builder, value=args[number]).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _interleaved(builder: Any, a: Any, b: Any) -> Any:
    """a[0], b[0], a[1], b[1] and so on."""
    count = a.type.count
    return shuffle(builder, a, b, [at for k in range(count) for at in (k, count + k)])


def _numbers_of_block(builder: Any, variant: Any, packed: Any, table: Any) -> Any:
    """The 64 numbers that `packed` (32 bytes) stands for; table: the sixteen that there are, of 16 or 32 bits."""
    width = table.type.element.width
    if width == 16 and variant.permutes_numbers:
        return _pairs_of_block(builder, variant, packed, table)
    index = _interleaved(builder, builder.lshr(packed, _bytes(4)), builder.and_(packed, _bytes(15)))
    size = variant.size
    pieces = [shuffle(builder, index, undefined(index.type), range(at, at + size)) for at in range(0, BLOCK, size)]
    found = []
    for shift in range(0, width, 8):
        plane = builder.lshr(table, vector(table.type.element, [shift] * WIDTH))
        plane = builder.trunc(plane, ir.VectorType(BYTE, WIDTH))
        parts = [variant.look_up(builder, plane, part) for part in pieces]
        while len(parts) > 1:
            parts = [join(builder, a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        found.append(parts[0])
    width = 8
    while len(found) > 1:  # bytes to words, words to numbers
        width *= 2
        pairs = [_interleaved(builder, a, b) for a, b in zip(found[::2], found[1::2], strict=True)]
        found = [builder.bitcast(pair, ir.VectorType(ir.IntType(width), BLOCK)) for pair in pairs]
    return found[0]


def _bytes(value: int) -> ir.Constant:
    return vector(BYTE, [value] * (BLOCK // 2))


def _pairs_of_block(builder: Any, variant: Any, packed: Any, table: Any) -> Any:
    """The same for 16 bits, two numbers at a time: each byte's first one is the lower half of 32 bits."""
    first = builder.zext(table, _I32)
    second = builder.shl(first, vector(INT, [16] * WIDTH))
    parts = []
    for begin in (0, WIDTH):
        index = shuffle(builder, packed, undefined(packed.type), range(begin, begin + WIDTH))
        index = builder.zext(index, _I32)
        upper = variant.permute(builder, first, builder.lshr(index, vector(INT, [4] * WIDTH)))
        parts.append(builder.or_(upper, variant.permute(builder, second, index)))
    return builder.bitcast(join(builder, *parts), ir.VectorType(ir.IntType(16), BLOCK))


def _rounded(builder: Any, values: Any, exact: bool, nan: bool) -> Any:
    """float32 lanes as bits of bfloat16. nan: there may be NaN among them; not exact: smallest numbers may become 0."""
    words = ir.VectorType(ir.IntType(16), WIDTH)
    if not exact:  # one instruction where the processor has it
        return builder.bitcast(builder.fptrunc(values, ir.VectorType(BFloat16(), WIDTH)), words)
    bits = bfloat16_bits(builder, values, nan=nan)
    return builder.trunc(builder.lshr(bits, vector(INT, [16] * WIDTH)), words)


@functools.cache
def _nf4_block(name: str, exact: bool) -> Any:
    """unpack(packed, at, absmax, out, out_at, then_at): a block of 64 weights, the second half of them to `then_at`."""
    variant = VARIANTS[name]

    @intrinsic
    def unpack(typing: Any, packed: Any, at: Any, absmax: Any, out: Any, out_at: Any, then_at: Any) -> Any:
        half = out.dtype == types.uint16

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bytes_type = ir.VectorType(BYTE, BLOCK // 2)
            scale = builder.insert_element(undefined(_F32), args[2], ir.Constant(INT, 0))
            scale = shuffle(builder, scale, undefined(_F32), [0] * WIDTH)
            numbers = builder.fmul(ir.Constant(_F32, [float(np.float32(value)) for value in NF4]), scale)
            packed_bytes = builder.load(_pointer(context, builder, signature, args, 0, args[1], bytes_type), align=1)
            bits = _rounded(builder, numbers, exact, True) if half else builder.bitcast(numbers, _I32)
            result = _numbers_of_block(builder, variant, packed_bytes, bits)
            for begin, place in ((0, args[4]), (PIECE, args[5])):
                piece = shuffle(builder, result, undefined(result.type), range(begin, begin + PIECE))
                pointer = _pointer(context, builder, signature, args, 3, place, piece.type)
                builder.store(piece, pointer, align=2 if half else 4)
            return context.get_dummy_value()

        flat = types.Array(types.uint8, 1, "C")
        return types.void(flat, types.intp, types.float32, out, types.intp, types.intp), generate

    return unpack


@functools.cache
def _int8_piece(exact: bool) -> Any:
    """unpack(weight, at, scale, out, out_at): 32 numbers; exact: none of them is NaN."""

    @intrinsic
    def unpack(typing: Any, weight: Any, at: Any, scale: Any, out: Any, out_at: Any) -> Any:
        half = out.dtype == types.uint16

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bytes_type = ir.VectorType(BYTE, PIECE)
            whole = builder.load(_pointer(context, builder, signature, args, 0, args[1], bytes_type), align=1)
            parts = []
            for begin in range(0, PIECE, WIDTH):
                part = shuffle(builder, whole, undefined(whole.type), range(begin, begin + WIDTH))
                numbers = builder.fmul(builder.sitofp(builder.sext(part, _I32), _F32), args[2])
                parts.append(_rounded(builder, numbers, exact, False) if half else numbers)
            result = join(builder, *parts)
            builder.store(
                result, _pointer(context, builder, signature, args, 3, args[4], result.type), align=2 if half else 4
            )
            return context.get_dummy_value()

        flat = types.Array(types.int8, 1, "C")
        return types.void(flat, types.intp, lanes, out, types.intp), generate

    return unpack


@functools.cache
def block_of(method: str, variant: str, exact: bool = True) -> Any:
    """unpack(weight, absmax, row, number, out, at, then_at): block `number` of the weight, 64 numbers of its row `row`,
    into out, float32 or bfloat16: 32 from `at` on, 32 from `then_at` on.

    exact: bit for bit; else smallest numbers may become 0.
    """
    block = _nf4(_nf4_block(variant, exact)) if method == "nf4" else _int8(_int8_piece(exact), exact)
    return njit(inline="always")(named(block, f"{variant}_{'exact' if exact else 'quick'}"))


def _nf4(block: Any) -> Any:
    def nf4(packed, absmax, row, number, out, at, then_at):
        block(packed, number * (BLOCK // 2), absmax[number], out, at, then_at)

    return nf4


def _int8(piece: Any, exact: bool) -> Any:
    def int8(weight, absmax, row, number, out, at, then_at):
        scale, begin = absmax[row] / np.float32(127), number * BLOCK
        if not exact or scale - scale == np.float32(0):
            piece(weight, begin, splat(scale), out, at)
            piece(weight, begin + PIECE, splat(scale), out, then_at)
        else:  # infinite or NaN: zero times it is NaN
            for k in range(0, PIECE, WIDTH):
                store(out, at + k, load_int8(weight, begin + k) * splat(scale))
                store(out, then_at + k, load_int8(weight, begin + PIECE + k) * splat(scale))

    return int8


@functools.cache
def loop(method: str, variant: str) -> Any:
    """unpack(weight, absmax, first, out, rows, inputs, threads): rows of the weight from `first` on into out
    (rows, inputs), with a variant's look-ups.
    """
    block = block_of(method, variant)

    def unpack_row(weight, absmax, first, out, inputs, row):
        number = (first + row) * (inputs // BLOCK)
        for k in range(inputs // BLOCK):
            at = row * inputs + k * BLOCK
            block(weight, absmax, first + row, number + k, out, at, at + PIECE)

    unpack_row = compiled(inner=True)(named(unpack_row, f"{method}_{variant}"))

    def unpack(weight, absmax, first, out, rows, inputs, threads):
        share_out(unpack_row, (weight, absmax, first, out, inputs), rows, threads)

    return compiled()(named(unpack, f"{method}_{variant}"))
