"""The instructions that processors have for look-ups in a table of sixteen values and for sums of int16 products.

Each class is a variant, which generates LLVM's code for them; none is run before `supported` has named it.
"""

# llvmlite has no type hints
# mypy: disable-error-code="misc"

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target

BYTE, WORD, INT = ir.IntType(8), ir.IntType(16), ir.IntType(32)


def vector(element: Any, values: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(element, len(values)), list(values))


def shuffle(builder: Any, a: Any, b: Any, order: Sequence[int]) -> Any:
    return builder.shuffle_vector(a, b, vector(INT, order))


def undefined(vector: Any) -> ir.Constant:
    return ir.Constant(vector, ir.Undefined)


def join(builder: Any, a: Any, b: Any) -> Any:
    return shuffle(builder, a, b, range(2 * a.type.count))


def repeated(builder: Any, a: Any, times: int) -> Any:
    return shuffle(builder, a, undefined(a.type), list(range(a.type.count)) * times)


def call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    function_type = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


class Avx2:
    """Tables of 16 bytes by pshufb, one for each half of an entry; pairs of products by pmaddwd."""

    name, architecture = "avx2", "x86"
    features: tuple[str, ...] = ("avx2",)
    size = 32  # bytes of weights looked up at a time
    permutes_numbers = False  # whether a table of sixteen 32-bit numbers is looked up in one instruction

    @staticmethod
    def look_up(builder: Any, table: Any, index: Any) -> Any:
        """Bytes of a table of sixteen for `size` indices below sixteen."""
        return call(builder, "llvm.x86.avx2.pshuf.b", index.type, repeated(builder, table, 2), index)

    @staticmethod
    def add_pairs(builder: Any, total: Any, a: Any, b: Any) -> Any:
        """total + a b for int16 vectors a and b, whose products of neighbours are summed into one int32."""
        return builder.add(total, call(builder, "llvm.x86.avx2.pmadd.wd", total.type, a, b))


class AvxVnni(Avx2):
    """AVX2 with VNNI's products, which add to a sum in the same instruction."""

    name, features = "avx_vnni", ("avx2", "avxvnni")

    @staticmethod
    def add_pairs(builder: Any, total: Any, a: Any, b: Any) -> Any:
        parts = (builder.bitcast(part, total.type) for part in (a, b))
        return call(builder, "llvm.x86.avx512.vpdpwssd.256", total.type, total, *parts)


class Neon(Avx2):
    """128-bit registers: tables by tbl, and multiplications that widen."""

    name, architecture = "neon", "aarch64"
    features = ("neon",)
    size = 16

    @staticmethod
    def look_up(builder: Any, table: Any, index: Any) -> Any:
        return call(builder, "llvm.aarch64.neon.tbl1.v16i8", index.type, table, index)

    @staticmethod
    def add_pairs(builder: Any, total: Any, a: Any, b: Any) -> Any:
        half = a.type.count // 2
        for begin in (0, half):
            parts = (shuffle(builder, x, undefined(x.type), range(begin, begin + half)) for x in (a, b))
            total = builder.add(total, builder.mul(*(builder.sext(part, total.type) for part in parts)))
        return total


class Avx512:
    """Tables of 32 words by vpermw, which reads an index's lowest five bits: no masks, no halves; bytes by pshufb."""

    name, architecture = "avx512", "x86"
    features: tuple[str, ...] = ("avx512bw",)
    size = 64
    permutes_numbers = True

    @staticmethod
    def look_up(builder: Any, table: Any, index: Any) -> Any:
        return call(builder, "llvm.x86.avx512.pshuf.b.512", index.type, repeated(builder, table, 4), index)

    @staticmethod
    def permute(builder: Any, table: Any, index: Any) -> Any:
        """Entries of a table of sixteen 32-bit numbers by the lowest four bits of each index."""
        return call(builder, "llvm.x86.avx512.permvar.si.512", table.type, table, index)

    @staticmethod
    def add_pairs(builder: Any, total: Any, a: Any, b: Any) -> Any:
        return builder.add(total, call(builder, "llvm.x86.avx512.pmaddw.d.512", total.type, a, b))


class Avx512Vnni(Avx512):
    """AVX512 with VNNI's products, which add to a sum in the same instruction."""

    name, features = "avx512_vnni", ("avx512bw", "avx512vnni")

    @staticmethod
    def add_pairs(builder: Any, total: Any, a: Any, b: Any) -> Any:
        parts = (builder.bitcast(part, total.type) for part in (a, b))
        return call(builder, "llvm.x86.avx512.vpdpwssd.512", total.type, total, *parts)


VARIANTS: dict[str, Any] = {variant.name: variant for variant in (Avx512Vnni, Avx512, AvxVnni, Avx2, Neon)}


@functools.cache
def supported() -> tuple[str, ...]:
    """Names of the variants whose instructions numba may use on this processor, best first."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    present = set(str(features).split(","))
    machine = str(triple).replace("arm64", "aarch64")
    return tuple(
        variant.name
        for variant in VARIANTS.values()
        if variant.architecture in machine and present.issuperset(f"+{feature}" for feature in variant.features)
    )
