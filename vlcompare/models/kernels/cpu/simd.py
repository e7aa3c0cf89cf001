"""Vectors of sixteen float32 numbers as one value inside numba functions: explicit SIMD without a C compiler.

LLVM does not vectorise numba's loops over many arrays (it cannot prove that they do not overlap), so the kernels here
work on sixteen lanes explicitly; LLVM maps them to one AVX-512, two AVX or four NEON registers. Arrays are
one-dimensional and contiguous, float32, or uint16 holding bfloat16 bit patterns.
"""

# numba infers the types of compiled functions from their bytecode; annotations there would only repeat them
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import config, extending, njit, types
from numba.core import cgutils
from numba.core.registry import CPUDispatcher
from numba.extending import models, overload, register_model

from vlcompare.models.kernels.cpu.disk_cache import DiskCache, not_kept

if getattr(config, "DISABLE_JIT", 0):  # the functions would run in Python, thousands of times slower than torch
    raise ImportError("NUMBA_DISABLE_JIT is set")

WIDTH = 16
intrinsic: Any = extending.intrinsic  # its type hints ignore that numba passes the first argument
_F32 = ir.VectorType(ir.FloatType(), WIDTH)
_I32 = ir.VectorType(ir.IntType(32), WIDTH)
_I16 = ir.VectorType(ir.IntType(16), WIDTH)


class _CachedDispatcher(CPUDispatcher):
    """A function compiled by numba, cached on disk by `DiskCache`."""

    def enable_caching(self) -> None:
        try:
            self._cache = DiskCache(self.py_func)
        except (RuntimeError, OSError):  # neither the source's folder nor the user's cache folder can be written
            not_kept("no folder for them can be written")


def compiled(inner: bool = False) -> Any:
    """Decorator: numba's njit, cached on disk where a folder for that can be written.

    inner: called only from compiled functions, so that it needs no entry point for Python and is cached with them.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if inner:
        options |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

    def decorate(function: Callable[..., Any]) -> Any:
        if inner:
            return njit(**options)(function)
        dispatcher = _CachedDispatcher(function, targetoptions={"nopython": True, **options})
        dispatcher.enable_caching()
        return dispatcher

    return decorate


class LanesType(types.Type):
    """numba's type of the sixteen lanes."""

    def __init__(self) -> None:
        super().__init__(name=f"f32x{WIDTH}")


lanes = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _F32)


def _constant(value: float, vector: ir.VectorType = _F32) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _call(builder: Any, name: str, *args: Any) -> Any:
    """An LLVM intrinsic over whole vectors, e.g. llvm.floor.v16f32."""
    function_type = ir.FunctionType(_F32, [_F32] * len(args))
    function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.{name}.v{WIDTH}f32")
    return builder.call(function, args)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, "fmuladd", a, b, c)  # fused where the processor can


def _pointer(
    context: Any, builder: Any, array_type: types.Array, array: Any, index: Any, element: ir.VectorType
) -> Any:
    data = cgutils.create_struct_proxy(array_type)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [index]), element.as_pointer())


def _check(array: Any) -> bool:
    """True for bfloat16 bits, False for float32; raises TypeError for anything else."""
    if not isinstance(array, types.Array) or array.ndim != 1 or array.dtype not in (types.float32, types.uint16):
        raise TypeError(f"lanes need a flat float32 or uint16 array, got {array}")
    return array.dtype == types.uint16


def bfloat16_bits(builder: Any, value: Any, *, nan: bool = True) -> Any:
    """Lanes rounded to bfloat16, to nearest, ties to even: int32 lanes whose upper halves are its bits.

    nan: there may be NaN among them, to find which takes as long as to round.
    """
    bits = builder.bitcast(value, _I32)
    odd = builder.and_(builder.lshr(bits, _constant(16, _I32)), _constant(1, _I32))
    rounded = builder.add(builder.add(bits, _constant(0x7FFF, _I32)), odd)
    if not nan:
        return rounded
    return builder.select(builder.fcmp_unordered("uno", value, value), _constant(0x7FC00000, _I32), rounded)


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """array[index : index + 16]."""
    is_bfloat16 = _check(array)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], args[0], args[1], _I16 if is_bfloat16 else _F32)
        value = builder.load(pointer, align=2 if is_bfloat16 else 4)
        if is_bfloat16:  # its bits are the upper half of a float32
            value = builder.shl(builder.zext(value, _I32), _constant(16, _I32))
            value = builder.bitcast(value, _F32)
        return value

    return lanes(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """array[index : index + 16] = value; into bfloat16 with rounding to nearest, ties to even."""
    is_bfloat16 = _check(array)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array, index, value = args
        pointer = _pointer(context, builder, signature.args[0], array, index, _I16 if is_bfloat16 else _F32)
        if is_bfloat16:
            value = builder.trunc(builder.lshr(bfloat16_bits(builder, value), _constant(16, _I32)), _I16)
        builder.store(value, pointer, align=2 if is_bfloat16 else 4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """The same number in all lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = builder.insert_element(ir.Constant(_F32, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, ir.Constant(_F32, ir.Undefined), _constant(0, _I32))

    return lanes(types.float32), generate


@intrinsic
def spread(typing: Any, array: Any, index: Any) -> Any:
    """array[index] in all lanes, without numba's check for a negative index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=args[0]).data
        number = builder.load(builder.gep(data, [args[1]]))
        one = builder.insert_element(ir.Constant(_F32, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, ir.Constant(_F32, ir.Undefined), _constant(0, _I32))

    return lanes(types.Array(types.float32, 1, "C"), types.intp), generate


@intrinsic
def total(typing: Any, value: Any) -> Any:
    """Sum over the lanes (as a tree, so not in the order of a loop)."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function_type = ir.FunctionType(ir.FloatType(), [ir.FloatType(), _F32])
        function = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.vector.reduce.fadd.v{WIDTH}f32")
        return builder.call(function, [ir.Constant(ir.FloatType(), 0.0), args[0]], fastmath=("reassoc",))

    return types.float32(lanes), generate


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fma(builder, *args)

    return lanes(lanes, lanes, lanes), generate


# 2**f on [-1/2, 1/2]: minimax polynomial of degree 5 with 2**0 = 1, relative error 9.2e-8, highest power first
_EXP2 = (1.3264727e-3, 9.6715127e-3, 5.550733744e-2, 2.4022242084e-1, 6.9314697760e-1, 1.0)
_MAGIC = 12582912.0  # 1.5 * 2**23: adding it leaves the nearest whole number in the lowest bits


@intrinsic
def exp2(typing: Any, x: Any) -> Any:
    """2**x for x < 128: integer part into the exponent bits, the rest by a polynomial. Below -126 it is 2**-126."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # the order of the two operands matters: a comparison with NaN is false, so that NaN stays NaN
        x = builder.select(builder.fcmp_ordered("<", args[0], _constant(-126.0)), _constant(-126.0), args[0])
        shifted = builder.fadd(x, _constant(_MAGIC))
        part = builder.fsub(x, builder.fsub(shifted, _constant(_MAGIC)))
        # Estrin's scheme: one more multiplication, but a shorter chain of dependent operations
        c5, c4, c3, c2, c1, c0 = (_constant(coefficient) for coefficient in _EXP2)
        square = builder.fmul(part, part)
        value = _fma(builder, square, _fma(builder, c5, part, c4), _fma(builder, c3, part, c2))
        value = _fma(builder, square, value, _fma(builder, c1, part, c0))
        exponent = builder.shl(builder.bitcast(shifted, _I32), _constant(23, _I32))
        # added to the exponent field of the polynomial's value (which lies in 0.7..1.42, so it cannot overflow)
        return builder.bitcast(builder.add(builder.bitcast(value, _I32), exponent), _F32)

    return lanes(lanes), generate


def _operator(function: Callable[..., Any], instruction: str) -> None:
    @intrinsic
    def apply(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args)

        return lanes(lanes, lanes), generate

    @overload(function, inline="always")
    def choose(a, b):  # numba compares this signature with the lambda's, so neither has annotations
        if isinstance(a, LanesType) and isinstance(b, LanesType):
            return lambda a, b: apply(a, b)
        return None


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_function, _instruction)


@intrinsic
def relu(typing: Any, x: Any) -> Any:
    """max(x, 0), NaN stays NaN."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], _constant(0.0)), _constant(0.0), args[0])

    return lanes(lanes), generate


@intrinsic
def select_positive(typing: Any, x: Any, yes: Any, no: Any) -> Any:
    """yes where x >= 0 (or NaN), else no."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_unordered(">=", args[0], _constant(0.0)), args[1], args[2])

    return lanes(lanes, lanes, lanes), generate


LOG2E = 1.4426950408889634
_ATANH = tuple(1.0 / odd for odd in (13, 11, 9, 7, 5, 3, 1))


@njit(inline="always")
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log1p(e), e = e^-|x|; log1p(e) = 2 atanh(e / (2 + e)), a series of at most 1/3."""
    positive = relu(x)
    e = exp2((x - positive - positive) * splat(LOG2E))  # -|x| = x - 2 max(x, 0)
    s = e / (splat(2.0) + e)
    square = s * s
    series = splat(_ATANH[0])
    for k in range(1, 7):
        series = fma(series, square, splat(_ATANH[k]))
    return fma(s + s, series, positive)


@njit(inline="always")
def sigmoid(x):
    """1 / (1 + e^-x), by e^-|x| so that nothing overflows."""
    positive = relu(x)
    e = exp2((x - positive - positive) * splat(LOG2E))
    one = splat(1.0)
    # x >= 0: 1 / (1 + e); x < 0: e / (1 + e)
    return select_positive(x, one, e) / (one + e)


# erfc(x) e^(x^2) for x >= 0 as a polynomial in 1 / (1 + 0.3275911 x), highest power first: "Handbook of Mathematical
# Functions" by Abramowitz and Stegun, 7.1.26; its error is at most 1.5e-7
_ERFC = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


@njit(inline="always")
def gelu(x):
    """x times the normal distribution's share below x, the exact GELU."""
    size = relu(x) + relu(splat(0.0) - x)
    t = splat(1.0) / fma(size, splat(0.3275911 * 0.7071067811865476), splat(1.0))
    series = splat(_ERFC[0])
    for k in range(1, 5):
        series = fma(series, t, splat(_ERFC[k]))
    above = splat(0.5) * series * t * exp2(x * x * splat(-0.5 * LOG2E))  # the share above |x|
    return x * select_positive(x, splat(1.0) - above, above)
