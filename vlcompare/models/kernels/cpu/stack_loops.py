"""What the compiled steps through all layers of both families consist of: norms, Linears of any kind, shares.

A whole step is one call: every thread of `in_each_thread` goes through all layers, does its share of each product, and
waits for the others where it needs what they did. What is small (residual, norm, rounded activations) every thread
computes for itself, which takes less time than waiting.
"""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from vlcompare.models.kernels.cpu.packed_loops import named, parts
from vlcompare.models.kernels.cpu.pointers import bytes_at, floats_at, halves_at, small_integers_at
from vlcompare.models.kernels.cpu.simd import WIDTH, compiled, fma, load, splat, store, total
from vlcompare.models.kernels.cpu.step_loops import some_outputs
from vlcompare.models.kernels.cpu.threads import barrier

# how a Linear's weight is held; a Linear is four integers: this, and the addresses of weight, scales and bias
FLOAT, HALF, NF4, INT8 = range(4)
LINEAR = 4


@compiled(inner=True)
def share(size, thread, count):
    """Where the share of a thread begins; that of `count` is the end. Shares are whole vectors."""
    return size // WIDTH * thread // count * WIDTH


@compiled(inner=True)
def copy(source, target, count):
    for k in range(0, count, WIDTH):
        store(target, k, load(source, k))


@compiled(inner=True)
def add_to(x, term, count):
    for k in range(0, count, WIDTH):
        store(x, k, load(term, k) + load(x, k))


@compiled(inner=True)
def norm(x, weight, bias, y, rows, width, eps, centred):
    """y (rows, width): LayerNorm of x where `centred`, else RMSNorm."""
    for row in range(rows):
        at = row * width
        mean = np.float32(0)
        if centred:
            sums = splat(np.float32(0))
            for k in range(0, width, WIDTH):
                sums = sums + load(x, at + k)
            mean = total(sums) / np.float32(width)
        squares = splat(np.float32(0))
        for k in range(0, width, WIDTH):
            value = load(x, at + k) - splat(mean)
            squares = fma(value, value, squares)
        scale = np.float32(1 / math.sqrt(total(squares) / np.float32(width) + eps))
        for k in range(0, width, WIDTH):
            value = (load(x, at + k) - splat(mean)) * splat(scale)
            store(y, at + k, fma(value, load(weight, k), load(bias, k)))


@compiled(inner=True)
def finish(table, at, x, normed, out, rows, width, eps, centred, thread):
    """The last norm of the residual, whose weight and bias are at table[at], into `out`. x, normed: this thread's."""
    norm(x, floats_at(table[at]), floats_at(table[at + 1]), normed, rows, width, eps, centred)
    barrier()  # everyone has read `out`
    if thread == 0:
        copy(normed, out, rows * width)


class Linears(NamedTuple):
    """Compiled for one variant of packed products, or for none ("")."""

    prepare: Any  # (kind, x, rows, inputs, scaled, scales, words): what `product` takes beside x
    product: Any  # (table, at, x, scales, words, y, rows, inputs, outputs, first, last): outputs first .. last - 1


@compiled(inner=True)
def _unpacked(table, at, x, y, rows, inputs, outputs, first, last):
    bias = floats_at(table[at + 3])
    if table[at] == FLOAT:
        some_outputs(x, floats_at(table[at + 1]), bias, y, rows, inputs, outputs, first, last)
    else:
        some_outputs(x, halves_at(table[at + 1]), bias, y, rows, inputs, outputs, first, last)


@functools.cache
def linears(variant: str) -> Linears:
    """Products with Linears that `table` describes at `at`."""
    if not variant:

        def nothing(kind, x, rows, inputs, scaled, scales, words):
            """Plain weights take activations as they are."""

        def unpacked(table, at, x, scales, words, y, rows, inputs, outputs, first, last):
            _unpacked(table, at, x, y, rows, inputs, outputs, first, last)

        return Linears(compiled(inner=True)(nothing), compiled(inner=True)(unpacked))

    nf4_prepare, nf4_some = parts(variant, "nf4")
    int8_prepare, int8_some = parts(variant, "int8")

    def prepare(kind, x, rows, inputs, scaled, scales, words):
        if kind == NF4:
            nf4_prepare(x, rows, inputs, scaled, scales, words)
        elif kind == INT8:
            int8_prepare(x, rows, inputs, scaled, scales, words)

    def product(table, at, x, scales, words, y, rows, inputs, outputs, first, last):
        bias, absmax = floats_at(table[at + 3]), floats_at(table[at + 2])
        if table[at] == NF4:
            weight = bytes_at(table[at + 1])
            nf4_some(words, scales, weight, absmax, bias, y, rows, inputs, outputs, first, last)
        elif table[at] == INT8:
            numbers = small_integers_at(table[at + 1])
            int8_some(words, scales, numbers, absmax, bias, y, rows, inputs, outputs, first, last)
        else:
            _unpacked(table, at, x, y, rows, inputs, outputs, first, last)

    return Linears(*(compiled(inner=True)(named(half, variant)) for half in (prepare, product)))
