"""AMX's instructions as functions for numba: whether they may be used, products of tiles, and turned blocks of numbers.

Tiles belong to the thread. Tiles 0-3 hold sums, 4 and 5 weights of two times 16 outputs, 6 and 7 two times 16 rows.
"""

# llvmlite has no type hints
# mypy: disable-error-code="misc"

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target

from vlcompare.models.kernels.cpu.simd import WIDTH, intrinsic
from vlcompare.models.kernels.cpu.unpack_loops import PIECE, BFloat16
from vlcompare.models.kernels.cpu.variants import BYTE, INT, call, shuffle, undefined, vector

PAIR = 2 * WIDTH  # outputs, and rows, of two tiles
LINE = 64  # bytes of a tile's row, and of a line of the cache
TILE = WIDTH * PIECE  # bfloat16 numbers of a tile
SUMS = WIDTH * WIDTH  # float32 numbers of a tile

CONFIG = np.zeros(64, np.uint8)  # eight whole tiles: palette, bytes of a row, rows
CONFIG[0], CONFIG[16:32:2], CONFIG[48:56] = 1, LINE, WIDTH

# avx512bf16: LLVM rounds to bfloat16 with it, and without it calls a function that is not there, which ends the process
_FEATURES = frozenset({"+amx-tile", "+amx-bf16", "+avx512bw", "+avx512bf16"})
# the system call arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA); "The Linux Kernel", arch/x86/xstate
_ALLOW_TILES = 158, 0x1023, 18
_LONG, _NOTHING = ir.IntType(64), ir.VoidType()
_WORDS = ir.VectorType(INT, WIDTH)
_FLOATS, _HALVES = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(BFloat16(), WIDTH)


@functools.cache
def allowed() -> bool:
    """Whether this processor has tiles for bfloat16, and what else their loops need, and the system lets this process
    use them.
    """
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    if not _FEATURES.issubset(str(features).split(",")):
        return False
    if not sys.platform.startswith("linux") or not str(triple).startswith("x86_64"):
        return False
    return ctypes.CDLL(None).syscall(*map(ctypes.c_long, _ALLOW_TILES)) == 0


def _address(context: Any, builder: Any, signature: Any, args: Any, number: int) -> Any:
    """Of element args[number + 1] of the array args[number]."""
    data = cgutils.create_struct_proxy(signature.args[number])(context, builder, value=args[number]).data
    return builder.bitcast(builder.gep(data, [args[number + 1]]), BYTE.as_pointer())


def _at(builder: Any, pointer: Any, offset: Any, kind: Any) -> Any:
    offset = ir.Constant(_LONG, offset) if isinstance(offset, int) else offset
    return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())


def _tile(number: int) -> ir.Constant:
    return ir.Constant(BYTE, number)


def _move(builder: Any, name: str, tile: int, pointer: Any, place: int) -> None:
    """Load or store a tile; place: how many whole tiles lie before it in memory."""
    pointer = _at(builder, pointer, place * WIDTH * LINE, BYTE)
    call(builder, f"llvm.x86.{name}", _NOTHING, _tile(tile), pointer, ir.Constant(_LONG, LINE))


def _products(wide: bool) -> list[tuple[int, int, int]]:
    """(sums, weights, rows) of the tiles that are multiplied; wide: both tiles of rows."""
    return [(2 * a + b, 4 + a, 6 + b) for a in range(2) for b in range(1 + wide)]


@intrinsic
def configure(typing: Any, config: Any) -> Any:
    """Take the 64 bytes of `config` for this thread's tiles."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=args[0]).data
        call(builder, "llvm.x86.ldtilecfg", _NOTHING, builder.bitcast(data, BYTE.as_pointer()))
        return context.get_dummy_value()

    return types.void(config), generate


@intrinsic
def release(typing: Any) -> Any:
    """Forget this thread's tiles, which the system would save with each change of threads."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        call(builder, "llvm.x86.tilerelease", _NOTHING)
        return context.get_dummy_value()

    return types.void(), generate


@functools.cache
def begin(wide: bool) -> Any:
    """begin(sums, at, fresh): four tiles of sums from there on, or zeros."""

    @intrinsic
    def begin(typing: Any, sums: Any, at: Any, fresh: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            memory = _address(context, builder, signature, args, 0)
            with builder.if_else(builder.trunc(args[2], ir.IntType(1))) as (new, old):
                with new:
                    for total, _, _ in _products(wide):
                        call(builder, "llvm.x86.tilezero", _NOTHING, _tile(total))
                with old:
                    for total, _, _ in _products(wide):
                        _move(builder, "tileloadd64", total, memory, total)
            return context.get_dummy_value()

        return types.void(sums, types.intp, types.boolean), generate

    return begin


@functools.cache
def add(wide: bool) -> Any:
    """add(weights, at, rows, rows_at): the products of two tiles of weights and two of rows to four of sums."""

    @intrinsic
    def add(typing: Any, weights: Any, at: Any, rows: Any, rows_at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            memory = {
                4: _address(context, builder, signature, args, 0),
                6: _address(context, builder, signature, args, 2),
            }
            loaded = set()
            for total, a, b in _products(wide):
                for tile, first in ((a, 4), (b, 6)):
                    if tile not in loaded:
                        _move(builder, "tileloadd64", tile, memory[first], tile - first)
                        loaded.add(tile)
                call(builder, "llvm.x86.tdpbf16ps", _NOTHING, _tile(total), _tile(a), _tile(b))
            return context.get_dummy_value()

        return types.void(weights, types.intp, rows, types.intp), generate

    return add


@functools.cache
def end(wide: bool) -> Any:
    """end(sums, at): the tiles of sums, to there."""

    @intrinsic
    def end(typing: Any, sums: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            memory = _address(context, builder, signature, args, 0)
            for total, _, _ in _products(wide):
                _move(builder, "tilestored64", total, memory, total)
            return context.get_dummy_value()

        return types.void(sums, types.intp), generate

    return end


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Sixteen vectors of sixteen 32-bit numbers, turned: number j of vector i becomes number i of vector j."""
    rows = list(rows)
    for bit in (1, 2, 4, 8):  # exchange the blocks beside the diagonal, of ever larger ones
        low = [lane if not lane & bit else WIDTH + (lane ^ bit) for lane in range(WIDTH)]
        high = [lane ^ bit if not lane & bit else WIDTH + lane for lane in range(WIDTH)]
        for row in (row for row in range(WIDTH) if not row & bit):
            a, b = rows[row], rows[row | bit]
            rows[row], rows[row | bit] = shuffle(builder, a, b, low), shuffle(builder, a, b, high)
    return rows


@intrinsic
def turn(typing: Any, source: Any, at: Any, stride: Any, count: Any, target: Any, to: Any) -> Any:
    """target[to + 16 j + i] = source[at + i stride + j] for i and j below 16; 32 bits each, whatever they stand for.

    Only `count` rows are read: each further one is the first one again.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = _address(context, builder, signature, args, 0), _address(context, builder, signature, args, 4)
        stride = builder.mul(args[2], ir.Constant(args[2].type, 4))
        rows = []
        for row in range(WIDTH):
            number = ir.Constant(args[3].type, row)
            there = builder.icmp_signed("<", number, args[3])
            offset = builder.mul(stride, builder.select(there, number, ir.Constant(args[3].type, 0)))
            rows.append(builder.load(_at(builder, source, offset, _WORDS), align=4))
        for row, value in enumerate(_turned(builder, rows)):
            builder.store(value, _at(builder, target, row * LINE, _WORDS), align=4)
        return context.get_dummy_value()

    numbers = types.intp
    return types.void(source, numbers, numbers, numbers, target, numbers), generate


@intrinsic
def write(typing: Any, sums: Any, at: Any, bias: Any, first: Any, y: Any, to: Any, stride: Any, count: Any) -> Any:
    """y[to + i stride + j] = sum + bias[first + j] for i below `count`, at most 16, and j below 32; y in bfloat16.

    sums: from `at` on a tile of 16 outputs by 16 rows; after one other tile that of the next 16 outputs.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of_sums, of_bias, of_y = (_address(context, builder, signature, args, number) for number in (0, 2, 4))

        def rounded(output: int) -> Any:
            """One output's sums, in the lower halves of 32 bits."""
            place = (output // WIDTH * 2 * WIDTH + output % WIDTH) * LINE
            number = builder.load(_at(builder, of_bias, output * 4, ir.FloatType()))
            bias = builder.insert_element(undefined(_FLOATS), number, ir.Constant(INT, 0))
            value = builder.load(_at(builder, of_sums, place, _FLOATS), align=4)
            value = builder.fadd(value, shuffle(builder, bias, undefined(_FLOATS), [0] * WIDTH))
            bits = builder.bitcast(builder.fptrunc(value, _HALVES), ir.VectorType(ir.IntType(16), WIDTH))
            return builder.zext(bits, _WORDS)

        pairs = []
        for output in range(0, PAIR, 2):
            second = builder.shl(rounded(output + 1), vector(INT, [16] * WIDTH))
            pairs.append(builder.or_(rounded(output), second))
        stride = builder.mul(args[6], ir.Constant(args[6].type, 2))
        for row, value in enumerate(_turned(builder, pairs)):
            number = ir.Constant(args[7].type, row)
            with builder.if_then(builder.icmp_signed("<", number, args[7]), likely=True):
                builder.store(value, _at(builder, of_y, builder.mul(stride, number), _WORDS), align=2)
        return context.get_dummy_value()

    numbers = types.intp
    return types.void(sums, numbers, bias, numbers, y, numbers, numbers, numbers), generate
