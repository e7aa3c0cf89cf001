"""Arrays at addresses: how one compiled call reaches the hundreds of tensors of all layers of a model.

The addresses come in one table of integers. Whoever fills it keeps the tensors alive and knows their dtypes; the length
of such an array is not known, so nothing but an index from 0 on may be used with it.
"""

# llvmlite has no type hints
# mypy: disable-error-code="misc"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.np.arrayobj import make_array, populate_array

from vlcompare.models.kernels.cpu.simd import intrinsic

_LENGTH = 1 << 40


def _array_at(element: Any) -> Any:
    array_type = types.Array(element, 1, "C")

    @intrinsic
    def at(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            array = make_array(array_type)(context, builder)
            size = context.get_abi_sizeof(context.get_data_type(element))
            populate_array(
                array,
                data=builder.inttoptr(args[0], context.get_data_type(element).as_pointer()),
                shape=cgutils.pack_array(builder, [ir.Constant(ir.IntType(64), _LENGTH)]),
                strides=cgutils.pack_array(builder, [ir.Constant(ir.IntType(64), size)]),
                itemsize=context.get_constant(types.intp, size),
                meminfo=None,
            )
            return array._getvalue()

        return array_type(types.intp), generate

    return at


floats_at = _array_at(types.float32)
halves_at = _array_at(types.uint16)  # bfloat16's bits
integers_at = _array_at(types.int64)
words_at = _array_at(types.int16)
bytes_at = _array_at(types.uint8)
small_integers_at = _array_at(types.int8)
