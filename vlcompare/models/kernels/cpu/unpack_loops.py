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
from numba import types
from numba.core import cgutils

from vlcompare.models.kernels.cpu.packed_loops import named
from vlcompare.models.kernels.cpu.packed_simd import load_int8
from vlcompare.models.kernels.cpu.simd import WIDTH, bfloat16_bits, compiled, intrinsic, lanes, splat, store
from vlcompare.models.kernels.cpu.threads import share_out
from vlcompare.models.kernels.cpu.variants import BYTE, INT, VARIANTS, join, shuffle, undefined, vector
from vlcompare.models.kernels.packed_format import BLOCK, NF4

_I32 = ir.VectorType(INT, WIDTH)
_F32 = ir.VectorType(ir.FloatType(), WIDTH)


def _pointer(context: Any, builder: Any, signature: Any, args: Any, number: int, index: Any, kind: Any) -> Any:
    """To element `index` of the array that is argument `number`, as a vector of the type `kind`."""
    data = cgutils.create_struct_proxy(signature.args[number])(context, builder, value=args[number]).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _interleaved(builder: Any, a: Any, b: Any) -> Any:
    """a[0], b[0], a[1], b[1] and so on."""
    count = a.type.count
    return shuffle(builder, a, b, [at for k in range(count) for at in (k, count + k)])


def _numbers_of_block(builder: Any, variant: Any, packed: Any, planes: list[Any]) -> Any:
    """Bytes of the 64 numbers that `packed` (32 bytes) stands for; planes: of all sixteen numbers each byte in turn."""
    nibbles = vector(BYTE, [15] * packed.type.count)
    upper = builder.lshr(packed, vector(BYTE, [4] * packed.type.count))
    index = _interleaved(builder, upper, builder.and_(packed, nibbles))
    size = variant.size
    pieces = [shuffle(builder, index, undefined(index.type), range(at, at + size)) for at in range(0, BLOCK, size)]
    found = []
    for plane in planes:
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


@functools.cache
def _nf4_block(name: str) -> Any:
    """unpack(packed, at, absmax, out, out_at): a block of 64 weights."""
    variant = VARIANTS[name]

    @intrinsic
    def unpack(typing: Any, packed: Any, at: Any, absmax: Any, out: Any, out_at: Any) -> Any:
        half = out.dtype == types.uint16

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bytes_type = ir.VectorType(BYTE, BLOCK // 2)
            scale = builder.insert_element(undefined(_F32), args[2], ir.Constant(INT, 0))
            scale = shuffle(builder, scale, undefined(_F32), [0] * WIDTH)
            numbers = builder.fmul(ir.Constant(_F32, [float(np.float32(value)) for value in NF4]), scale)
            bits = bfloat16_bits(builder, numbers) if half else builder.bitcast(numbers, _I32)
            planes = [
                builder.trunc(builder.lshr(bits, vector(INT, [shift] * WIDTH)), ir.VectorType(BYTE, WIDTH))
                for shift in ((16, 24) if half else (0, 8, 16, 24))
            ]
            packed_bytes = builder.load(_pointer(context, builder, signature, args, 0, args[1], bytes_type), align=1)
            result = _numbers_of_block(builder, variant, packed_bytes, planes)
            pointer = _pointer(context, builder, signature, args, 3, args[4], result.type)
            builder.store(result, pointer, align=2 if half else 4)
            return context.get_dummy_value()

        flat = types.Array(types.uint8, 1, "C")
        return types.void(flat, types.intp, types.float32, out, types.intp), generate

    return unpack


@functools.cache
def unpack_nf4(variant: str) -> Any:
    """unpack(packed, absmax, first, out, rows, inputs, threads): rows of the weight from `first` on into out
    (rows, inputs), float32 or bfloat16, with a variant's look-ups.
    """
    block_of = _nf4_block(variant)

    def unpack_row(packed, absmax, first, out, inputs, row):
        blocks = inputs // BLOCK
        begin = (first + row) * blocks
        for block in range(blocks):
            byte = (begin + block) * (BLOCK // 2)
            block_of(packed, byte, absmax[begin + block], out, row * inputs + block * BLOCK)

    unpack_row = compiled(inner=True)(named(unpack_row, variant))

    def unpack(packed, absmax, first, out, rows, inputs, threads):
        share_out(unpack_row, (packed, absmax, first, out, inputs), rows, threads)

    return compiled()(named(unpack, f"nf4_{variant}"))


@intrinsic
def _unpack_sixteen(typing: Any, weight: Any, at: Any, scale: Any, out: Any, out_at: Any) -> Any:
    """out[out_at : out_at + 16] = weight[at : at + 16] * scale, none of which is NaN."""
    half = out.dtype == types.uint16

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        narrow, words = ir.VectorType(BYTE, WIDTH), ir.VectorType(ir.IntType(16), WIDTH)
        whole = builder.load(_pointer(context, builder, signature, args, 0, args[1], narrow), align=1)
        numbers = builder.fmul(builder.sitofp(builder.sext(whole, _I32), _F32), args[2])
        if half:
            bits = bfloat16_bits(builder, numbers, nan=False)
            numbers = builder.trunc(builder.lshr(bits, vector(INT, [16] * WIDTH)), words)
        pointer = _pointer(context, builder, signature, args, 3, args[4], numbers.type)
        builder.store(numbers, pointer, align=2 if half else 4)
        return context.get_dummy_value()

    flat = types.Array(types.int8, 1, "C")
    return types.void(flat, types.intp, lanes, out, types.intp), generate


@compiled(inner=True)
def _unpack_int8_row(weight, absmax, first, out, inputs, row):
    scale = absmax[first + row] / np.float32(127)
    if scale - scale == np.float32(0):
        for k in range(0, inputs, WIDTH):
            _unpack_sixteen(weight, (first + row) * inputs + k, splat(scale), out, row * inputs + k)
    else:  # infinite or NaN: zero times it is NaN
        for k in range(0, inputs, WIDTH):
            numbers = load_int8(weight, (first + row) * inputs + k)
            store(out, row * inputs + k, numbers * splat(scale))


@compiled()
def unpack_int8(weight, absmax, first, out, rows, inputs, threads):
    """The same for int8, whose loop is one for all variants."""
    share_out(_unpack_int8_row, (weight, absmax, first, out, inputs), rows, threads)
