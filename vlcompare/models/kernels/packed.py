"""Linears whose weights stay packed in memory, NF4 or int8: .56 and 1.00 bytes a weight with their scales. CPU only.

The weights are `packed_format`'s values, whichever way a product takes:

- Few rows: straight from the packed form, by the loops of `cpu.packed_loops` with the best of the processor's
  instructions (a *variant*). Activations are rounded to 15 bits by blocks of 64, and NF4's values to 15 bits, which
  changes a product by some 5e-5 of its size. A variant is used after one real call of it agreed with the unpacked
  product (`packed_proofs`).
- Five rows and more in bfloat16, on processors with AMX: by tiles (`cpu.tiles`), which weights are unpacked for in the
  cache. Weights are rounded to bfloat16, as in slices.
- Other numbers of rows, gradients, and processors for which there is no variant: a slice of the weight is unpacked at a
  time, by `cpu.unpack_loops` where that is proven, and multiplied by torch, in bfloat16 where activations are and the
  processor can, else in float32.

The choice depends on the processor and the sizes alone, never on a measurement.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.models.interruption import check
from vlcompare.models.kernels import fallback, packed_format, packed_proofs
from vlcompare.models.kernels.linear import native_bfloat16
from vlcompare.models.kernels.packed_format import BLOCK, unpacked
from vlcompare.models.kernels.scoped import scoped

TILED_ROWS = 5  # from here on tiles take less time than to look every weight up for each four rows
FEW_ROWS = 16  # above this unpacking once costs less than looking every weight up for each four rows
PLAIN = "plain"  # the variant that is no variant: torch's products of unpacked slices
_SLICE = 20 << 20  # bytes of weights unpacked at a time: smaller slices multiply slower, larger ones cost memory
_EVEN = 64  # outputs: slices of other sizes are slower to multiply
_forced: ContextVar[str | None] = ContextVar("forced packed variant", default=None)


@functools.cache
def supported() -> tuple[str, ...]:
    """Names of the variants whose instructions this processor has, best first; not yet proven."""
    return fallback.call("numba", "cpu.packed", "supported") or ()


@functools.cache
def _chosen(method: str) -> str:
    for name in supported():
        if packed_proofs.proven(packed_proofs.packed_product_agrees, name, method):
            return name
        fallback.tell(
            f"packed {name}", "cpu",
            f"The {name} kernels for {method} weights give wrong numbers on this processor and are not used.",
        )  # fmt: skip
    return PLAIN


def variant(method: str) -> str:
    """The variant that products of few rows take; "plain" where there is none. The first call proves it."""
    return _forced.get() or _chosen(method)


def use(name: str) -> AbstractContextManager[None]:
    """Take the variant `name` in this thread inside the block (tests and measurements)."""
    return scoped(_forced, name)


class KeepsScales(nn.Module):
    """A module whose buffer `absmax` stays in float32 when the model is cast: loops read it as that."""

    absmax: Tensor

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Self:
        before = self.absmax
        super()._apply(fn, recurse)
        if self.absmax.dtype != before.dtype:
            self.absmax = before.to(self.absmax.device)
        return self


class PackedLinear(KeepsScales):
    """x W^T + b with W in NF4 or int8. Parts as `unpacked` takes them; not trainable."""

    packed: Tensor

    def __init__(
        self, method: str, packed: Tensor, absmax: Tensor, shape: tuple[int, int], bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.method = method
        self.out_features, self.in_features = shape
        self.register_buffer("packed", packed)
        self.register_buffer("absmax", absmax)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) in x's dtype."""
        rows = x.reshape(-1, self.in_features)
        y = self._by_tiles(rows) if len(rows) >= TILED_ROWS else None
        if y is None and 0 < len(rows) <= FEW_ROWS:
            y = self._few_rows(rows)
        if y is None:
            y = self._by_slices(rows)
        return y.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.method}, in_features={self.in_features}, out_features={self.out_features}"

    def _few_rows(self, rows: Tensor) -> Tensor | None:
        name = variant(self.method)
        if name == PLAIN:
            return None
        given = rows, self.packed, self.absmax, self.bias, self.out_features
        return fallback.call("numba", "cpu.packed", "product", name, self.method, *given)

    def _by_tiles(self, rows: Tensor) -> Tensor | None:
        name = variant(self.method)
        if rows.dtype != torch.bfloat16 or name == PLAIN or not tiled(self.method):
            return None
        check()
        given = rows, self.packed, self.absmax, self.bias, self.out_features
        return fallback.call("numba", "cpu.packed", "tiled_product", name, self.method, *given)

    def _by_slices(self, rows: Tensor) -> Tensor:
        dtype = torch.bfloat16 if rows.dtype == torch.bfloat16 and native_bfloat16() else torch.float32
        dtype = rows.dtype if rows.dtype == torch.float64 else dtype
        values, bias = rows.to(dtype), None if self.bias is None else self.bias.to(dtype)
        if torch.is_grad_enabled() and rows.requires_grad:  # which keeps every slice, and forbids to write into `out`
            parts = [F.linear(values, weight, of) for weight, of, _ in self._slices(bias, dtype, keep=True)]
            return torch.cat(parts, dim=-1).to(rows.dtype)
        out = torch.empty(len(rows), self.out_features, dtype=dtype)
        for weight, of, columns in self._slices(bias, dtype):
            if of is None:
                torch.mm(values, weight.t(), out=out[:, columns])
            else:
                torch.addmm(of, values, weight.t(), out=out[:, columns])
        return out.to(rows.dtype)

    def _step(self, dtype: torch.dtype) -> int:
        """Outputs of a slice: about as many in each."""
        count = max(1, -(-self.out_features * self.in_features * dtype.itemsize // _SLICE))
        return max(1, -(-self.out_features // (count * _EVEN))) * _EVEN

    def _slices(
        self, bias: Tensor | None, dtype: torch.dtype, keep: bool = False
    ) -> Iterator[tuple[Tensor, Tensor | None, slice]]:
        """Each slice of the weight, of the bias, and its columns of the product. keep: each has memory of its own."""
        held, step = None, self._step(dtype)
        for first in range(0, self.out_features, step):
            check()
            columns = slice(first, min(first + step, self.out_features))
            if held is None or keep:
                held = torch.empty(min(step, self.out_features), self.in_features, dtype=dtype)
            yield self.unpacked_rows(first, columns.stop, held), None if bias is None else bias[columns], columns

    def unpacked_rows(self, first: int, last: int, held: Tensor) -> Tensor:
        """Rows first .. last - 1 of the weight, (last - first, in), written into `held` or in memory of their own."""
        out, name = held[: last - first], variant(self.method)
        if name != PLAIN and _unpacks(self.method, name):
            given = self.packed, self.absmax, first, out
            if fallback.call("numba", "cpu.packed", "unpack", name, self.method, *given) is not None:
                return out
        per_row = self.in_features // BLOCK if self.method == "nf4" else 1
        columns = self.in_features // 2 if self.method == "nf4" else self.in_features
        packed = self.packed.view(-1, columns)[first:last]
        absmax = self.absmax[first * per_row : last * per_row]
        return unpacked(self.method, packed, absmax, (last - first, self.in_features), held.dtype)


def tiled(method: str) -> bool:
    """Whether products of many rows in bfloat16 go by tiles. The first call proves it."""
    name = variant(method)
    return name != PLAIN and packed_proofs.proven(packed_proofs.tiles_agree, name, method)


@functools.cache
def _unpacks(method: str, name: str) -> bool:
    """Whether the compiled unpacking with a variant's instructions gives the reference's bits here."""
    return packed_proofs.proven(packed_proofs.unpacking_agrees, method, name)


def quantized(weight: Tensor, method: str) -> tuple[Tensor, Tensor]:
    """`packed_format.quantized`, on CPU by compiled loops on all threads: the same bits in a tenth of the time."""
    if weight.device.type == "cpu" and weight.numel() and packed_proofs.proven(packed_proofs.quantizing_agrees, method):
        parts = fallback.call("numba", "cpu.packed", "quantized", weight, method)
        if parts is not None:
            return parts[0], parts[1]
    return packed_format.quantized(weight, method)


def compile_for(method: str) -> None:
    """Compile what products with packed weights need, by proving it."""
    if (name := variant(method)) != PLAIN and not tiled(method):
        _unpacks(method, name)
