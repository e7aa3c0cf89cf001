"""Sums of products of packed weights with activations in int16: the vectors that `packed_loops` is written in."""

# numba infers the types of compiled functions from their bytecode; annotations there would only repeat them
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

from vlcompare.models.kernels.cpu.simd import WIDTH, intrinsic, lanes
from vlcompare.models.kernels.cpu.variants import (
    BYTE,
    INT,
    VARIANTS,
    WORD,
    call,
    join,
    shuffle,
    undefined,
    vector,
)
from vlcompare.models.kernels.packed_format import BLOCK, NF4

UNIT = 2 * BLOCK  # activations are padded with zeros to whole units
LARGEST = 16383  # of an int16 activation and of a table's entry: eight such products fit an int32
_FLOAT = ir.FloatType()
_I32 = ir.VectorType(INT, WIDTH)
_F32 = ir.VectorType(_FLOAT, WIDTH)

TABLE = tuple(round(value * LARGEST) for value in NF4)


class IntLanesType(types.Type):
    """numba's type of sixteen int32 lanes."""

    def __init__(self) -> None:
        super().__init__(name=f"i32x{WIDTH}")


int_lanes = IntLanesType()


@register_model(IntLanesType)
class _IntLanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _I32)


def _load(context: Any, builder: Any, kind: Any, array: Any, index: Any, vector: Any, align: int = 1) -> Any:
    data = cgutils.create_struct_proxy(kind)(context, builder, value=array).data
    return builder.load(builder.bitcast(builder.gep(data, [index]), vector.as_pointer()), align=align)


def _words(builder: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """Bytes and the bytes above them as int16: interleaved within each 16 bytes, as processors do it in one step."""
    count = low.type.count
    words = ir.VectorType(WORD, count // 2)
    parts = []
    for begin in (0, 8):
        order = []
        for byte in range(0, count, 16):
            for at in range(byte + begin, byte + begin + 8):
                order += [at, count + at]
        parts.append(builder.bitcast(shuffle(builder, low, high, order), words))
    return parts[0], parts[1]


# ------------------------------------------------------------------------------------------------ four bits


def _nf4_words(builder: Any, variant: Any, packed: Any) -> list[Any]:
    """The table's entries of all weights of `packed`, as vectors of int16 in the order of `nf4_order`."""
    if variant.size == 64:
        words = builder.bitcast(packed, ir.VectorType(WORD, 32))
        table = vector(WORD, TABLE * 2)
        return [
            call(
                builder,
                "llvm.x86.avx512.permvar.hi.512",
                words.type,
                table,
                builder.lshr(words, vector(WORD, [shift] * 32)) if shift else words,
            )
            for shift in (0, 4, 8, 12)
        ]
    low = vector(BYTE, [entry & 255 for entry in TABLE])
    high = vector(BYTE, [entry >> 8 & 255 for entry in TABLE])
    count = packed.type.count
    nibbles = vector(BYTE, [15] * count)
    # the shift moves words, since processors have none for bytes; what crosses from the byte above is masked
    wide = builder.bitcast(packed, ir.VectorType(WORD, count // 2))
    upper = builder.bitcast(builder.lshr(wide, vector(WORD, [4] * (count // 2))), packed.type)
    found: list[Any] = []
    for half in (upper, packed):
        index = builder.and_(half, nibbles)
        found += _words(builder, *(variant.look_up(builder, table, index) for table in (low, high)))
    return found


def nf4_order(variant: Any) -> list[int]:
    """Which weight of `variant.size` packed bytes stands where in `_nf4_words`; the first of two in the upper half."""
    if variant.size == 64:  # the nibbles of a word from the lowest one on: weights 1, 0, 3, 2
        return [4 * word + weight for weight in (1, 0, 3, 2) for word in range(32)]
    order = []
    for second in (0, 1):
        for begin in (0, 8):
            for byte in range(0, variant.size, 16):
                order += [2 * at + second for at in range(byte + begin, byte + begin + 8)]
    return order


def _nf4_sums(context: Any, builder: Any, variant: Any, blocks: int, kinds: Any, args: Any) -> list[Any]:
    packed, at, x, *places = args
    size = BLOCK // 2 * blocks
    step = min(variant.size, size)
    sums: list[list[Any]] = [[] for _ in places]
    for begin in range(0, size, step):
        part = ir.VectorType(BYTE, step)
        weights = _load(context, builder, kinds[0], packed, builder.add(at, ir.Constant(at.type, begin)), part)
        if step < variant.size:  # half a register: zeros behind, whose activations are zeros, too
            weights = join(builder, weights, ir.Constant(part, [0] * step))
        width = variant.size // 2  # int16 numbers in a register
        looked_up = _nf4_words(builder, variant, weights)
        for row, x_at in enumerate(places):
            total = ir.Constant(ir.VectorType(INT, variant.size // 4), [0] * (variant.size // 4))
            for number, entries in enumerate(looked_up):
                where = builder.add(x_at, ir.Constant(x_at.type, 2 * begin + number * width))
                values = _load(context, builder, kinds[2], x, where, entries.type, 2)
                total = variant.add_pairs(builder, total, entries, values)
            sums[row].append(total)
    return [_gathered(builder, parts, blocks) for parts in sums]


def _gathered(builder: Any, sums: list[Any], blocks: int) -> Any:
    """int32 sums of one or two blocks, in order, as sixteen lanes: eight of each block."""
    while len(sums) > blocks and sums[0].type.count == 4:  # four lanes a register: two or four registers a block
        per = len(sums) // blocks
        sums = [
            join(builder, builder.add(*sums[b : b + per : 2]) if per == 4 else sums[b],
                  builder.add(*sums[b + 1 : b + per : 2]) if per == 4 else sums[b + 1])
            for b in range(0, len(sums), per)
        ]  # fmt: skip
    if sums[0].type.count == WIDTH:
        return sums[0]
    second = sums[1] if len(sums) > 1 else ir.Constant(sums[0].type, [0] * sums[0].type.count)
    return join(builder, sums[0], second)


# ------------------------------------------------------------------------------------------------ eight bits


def _int8_sums(context: Any, builder: Any, variant: Any, kinds: Any, args: Any) -> list[Any]:
    weight, at, x, *places = args
    width = variant.size // 2
    registers = WIDTH * 4 // variant.size  # that sixteen sums fill
    zero = ir.Constant(ir.VectorType(INT, variant.size // 4), [0] * (variant.size // 4))
    sums: list[list[Any]] = [[zero] * registers for _ in places]
    for number, begin in enumerate(range(0, BLOCK, width)):
        narrow, wide = ir.VectorType(BYTE, width), ir.VectorType(WORD, width)
        numbers = _load(context, builder, kinds[0], weight, builder.add(at, ir.Constant(at.type, begin)), narrow)
        entries, register = builder.sext(numbers, wide), number % registers
        for parts, x_at in zip(sums, places, strict=True):
            values = _load(context, builder, kinds[2], x, builder.add(x_at, ir.Constant(x_at.type, begin)), wide, 2)
            parts[register] = variant.add_pairs(builder, parts[register], entries, values)
    while len(sums[0]) > 1:
        sums = [[join(builder, a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)] for parts in sums]
    return [parts[0] for parts in sums]


# ------------------------------------------------------------------------------------------------ for loops


def _of_weights(generate: Callable[..., list[Any]], element: Any) -> tuple[Any, Any]:
    """Of one row of activations, and of four: sums(packed, at, x, x_at) and sums(packed, at, x, x_at, .., ..) as a
    tuple. What weights stand for is found once for all four.
    """
    flat_bytes, flat_words = (types.Array(kind, 1, "C") for kind in (element, types.int16))
    given = flat_bytes, types.intp, flat_words

    @intrinsic
    def one(typing: Any, packed: Any, at: Any, x: Any, x_at: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return generate(context, builder, signature.args, args)[0]

        return int_lanes(*given, types.intp), lower

    @intrinsic
    def four(typing: Any, packed: Any, at: Any, x: Any, a_at: Any, b_at: Any, c_at: Any, d_at: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return context.make_tuple(builder, signature.return_type, generate(context, builder, signature.args, args))

        return types.UniTuple(int_lanes, 4)(*given, *[types.intp] * 4), lower

    return one, four


def nf4_sums(name: str, blocks: int) -> tuple[Any, Any]:
    """See `_of_weights`: of one or two blocks of NF4 weights with activations, eight int32 lanes a block."""
    variant = VARIANTS[name]
    return _of_weights(
        lambda context, builder, kinds, args: _nf4_sums(context, builder, variant, blocks, kinds, args), types.uint8
    )


def int8_sums(name: str) -> tuple[Any, Any]:
    """See `_of_weights`: of 64 int8 weights with activations, sixteen int32 lanes."""
    variant = VARIANTS[name]
    return _of_weights(
        lambda context, builder, kinds, args: _int8_sums(context, builder, variant, kinds, args), types.int8
    )


@intrinsic
def widen(typing: Any, value: Any) -> Any:
    """int32 lanes as float32 lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sitofp(args[0], _F32)

    return lanes(int_lanes), generate


@intrinsic
def pair_scales(typing: Any, absmax: Any, at: Any, scales: Any, scale_at: Any) -> Any:
    """absmax[at + h] * scales[scale_at + h], eight lanes for each h of 0 and 1."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        two = ir.VectorType(_FLOAT, 2)
        a = _load(context, builder, signature.args[0], args[0], args[1], two, 4)
        b = _load(context, builder, signature.args[2], args[2], args[3], two, 4)
        return shuffle(builder, builder.fmul(a, b), undefined(two), [0] * 8 + [1] * 8)

    floats = types.Array(types.float32, 1, "C")
    return lanes(floats, types.intp, floats, types.intp), generate


@intrinsic
def magnitude(typing: Any, a: Any, b: Any) -> Any:
    """Elementwise the larger of a and |b|; NaN wins."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = call(builder, f"llvm.fabs.v{WIDTH}f32", _F32, args[1])
        # the order of the operands matters: a comparison with NaN is false
        larger = builder.fcmp_unordered(">", size, args[0])
        nan = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.select(builder.or_(nan, builder.not_(larger)), args[0], size)

    return lanes(lanes, lanes), generate


@intrinsic
def largest(typing: Any, value: Any) -> Any:
    """The largest of the lanes, none of which is negative; NaN wins."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, width = args[0], WIDTH
        while width > 1:
            width //= 2
            low, high = (
                shuffle(builder, value, undefined(value.type), range(begin, begin + width)) for begin in (0, width)
            )
            # of two numbers the first where it is NaN or not smaller: a comparison with NaN is false
            smaller = builder.fcmp_unordered("<", low, high)
            nan = builder.fcmp_unordered("uno", low, low)
            value = builder.select(builder.and_(smaller, builder.not_(nan)), high, low)
        return builder.extract_element(value, ir.Constant(INT, 0))

    return types.float32(lanes), generate


def words_in_order(order: Sequence[int]) -> Any:
    """store(x, at, words, word_at): the float32 numbers x[at : at + len(order)], rounded to int16, in that order.

    Rounded to nearest, ties to even; numbers beyond int16 wrap around.
    """
    count = len(order)
    wide, bits = ir.VectorType(_FLOAT, count), ir.VectorType(INT, count)

    @intrinsic
    def store_words(typing: Any, x: Any, at: Any, words: Any, word_at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, at, target, target_at = args
            values = _load(context, builder, signature.args[0], x, at, wide, 4)
            magic = ir.Constant(wide, [12582912.0] * count)  # adding it leaves the nearest number in the lowest bits
            rounded = builder.bitcast(builder.fadd(values, magic), bits)
            narrow = builder.trunc(rounded, ir.VectorType(WORD, count))
            data = cgutils.create_struct_proxy(signature.args[2])(context, builder, value=target).data
            pointer = builder.bitcast(builder.gep(data, [target_at]), narrow.type.as_pointer())
            builder.store(shuffle(builder, narrow, undefined(narrow.type), order), pointer, align=2)
            return context.get_dummy_value()

        floats, integers = types.Array(types.float32, 1, "C"), types.Array(types.int16, 1, "C")
        return types.void(floats, types.intp, integers, types.intp), generate

    return store_words


@intrinsic
def load_int8(typing: Any, array: Any, index: Any) -> Any:
    """array[index : index + 16], int8, as lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = _load(context, builder, signature.args[0], args[0], args[1], ir.VectorType(BYTE, WIDTH))
        return builder.sitofp(builder.sext(value, _I32), _F32)

    return lanes(types.Array(types.int8, 1, "C"), types.intp), generate


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index], which may lie beyond its end."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), BYTE.as_pointer())
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, INT, INT, INT])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        # to read, to stay in all caches, data
        builder.call(function, [pointer, *(ir.Constant(INT, number) for number in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate
