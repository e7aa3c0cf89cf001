"""The compiled loops of products with packed weights (NF4, int8), for each variant of the processor's instructions.

`loops(variant)` compiles one set. Flat arrays in, flat arrays out; no torch in here.
"""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vlcompare.models.kernels.cpu.packed_simd import (
    BLOCK,
    LARGEST,
    UNIT,
    int8_sums,
    largest,
    magnitude,
    nf4_order,
    nf4_sums,
    pair_scales,
    prefetch,
    widen,
    words_in_order,
)
from vlcompare.models.kernels.cpu.simd import WIDTH, compiled, fma, load, splat, spread, store, total
from vlcompare.models.kernels.cpu.threads import share_out
from vlcompare.models.kernels.cpu.variants import VARIANTS

SHARE = 64  # output rows that are one task
AHEAD = 6144  # bytes between the weights that are asked for and those that are multiplied
TINY = 1e-30  # a block of activations this small is a block of zeros


class Loops(NamedTuple):
    """Compiled for one variant. x (rows, K) float32, K a multiple of BLOCK."""

    nf4: Any  # (x, packed, absmax, bias, y, rows, inputs, outputs, threads)
    int8: Any  # (x, weight, absmax, bias, y, rows, inputs, outputs, threads)


class Parts(NamedTuple):
    """What a product with packed weights consists of, for other compiled functions."""

    prepare: Any  # (x, rows, inputs, scaled, scales, words): activations as int16; `scaled` is scratch
    some: Any  # (words, scales, weight, absmax, bias, y, rows, inputs, outputs, first, last): outputs first .. last - 1


def named(function: Callable[..., Any], variant: str) -> Callable[..., Any]:
    """Under a name of its own: numba's symbols and the files of machine code go by it."""
    function.__name__ = function.__qualname__ = f"{function.__name__}_{variant}"
    return function


@functools.cache
def loops(variant: str) -> Loops:
    """The loops with a variant's instructions; each is compiled when it is first called."""
    return Loops(*(_product(f"{method}_{variant}", parts(variant, method)) for method in ("nf4", "int8")))


@functools.cache
def parts(variant: str, method: str) -> Parts:
    """The two halves of a product, which `loops` joins."""
    if method == "nf4":
        return _parts(f"nf4_{variant}", *_nf4_rows(variant), nf4_order(VARIANTS[variant]))
    return _parts(f"int8_{variant}", *_int8_rows(variant), list(range(UNIT)))


@compiled(inner=True)
def padded_to_units(inputs):
    return (inputs + UNIT - 1) // UNIT * UNIT


@compiled(inner=True)
def _scaled(x, at, scaled, scales, scale_at, inputs):
    """x[at : at + inputs] with the largest magnitude of each block at LARGEST; scales: what multiplies it back."""
    for block in range(inputs // BLOCK):
        begin = at + block * BLOCK
        most = splat(np.float32(0))
        for k in range(0, BLOCK, WIDTH):
            most = magnitude(most, load(x, begin + k))
        most_of_all = largest(most)  # NaN stays
        scales[scale_at + block] = most_of_all / np.float32(LARGEST)
        factor = np.float32(LARGEST) / most_of_all if most_of_all > np.float32(TINY) else np.float32(0)
        for k in range(0, BLOCK, WIDTH):
            store(scaled, block * BLOCK + k, load(x, begin + k) * splat(factor))


def _parts(name: str, one: Any, four: Any, order: list[int]) -> Parts:
    """`one` does a share of one row's outputs, `four` of four rows'; they take activations in `order`."""
    store_words, step = words_in_order(order), len(order)

    def prepare(x, rows, inputs, scaled, scales, words):
        padded = padded_to_units(inputs)
        for k in range(inputs, padded, WIDTH):
            store(scaled, k, splat(np.float32(0)))
        for row in range(rows):
            _scaled(x, row * inputs, scaled, scales, row * padded // BLOCK, inputs)
            if padded > inputs:
                scales[row * padded // BLOCK + inputs // BLOCK] = np.float32(0)
            for at in range(0, padded, step):
                store_words(scaled, at, words, row * padded + at)

    def some(words, scales, weight, absmax, bias, y, rows, inputs, outputs, first, last):
        padded = padded_to_units(inputs)
        for begin in range(first, last, SHARE):
            end = min(begin + SHARE, last)  # a share of the weights stays in the cache for the next rows
            for row in range(0, rows - 3, 4):
                four(words, scales, weight, absmax, bias, y, row, padded, begin, end, inputs, outputs)
            for row in range(rows - rows % 4, rows):
                one(words, scales, weight, absmax, bias, y, row, padded, begin, end, inputs, outputs)

    return Parts(*(compiled(inner=True)(named(half, name)) for half in (prepare, some)))


def _product(name: str, halves: Parts) -> Any:
    """y (rows, outputs) = x (rows, inputs) weight^T + bias."""
    prepare, some = halves

    def share(words, scales, weight, absmax, bias, y, rows, inputs, outputs, task):
        first = task * SHARE
        some(words, scales, weight, absmax, bias, y, rows, inputs, outputs, first, min(first + SHARE, outputs))

    share = compiled(inner=True)(named(share, name))

    def product(x, weight, absmax, bias, y, rows, inputs, outputs, threads):
        padded = padded_to_units(inputs)
        scaled = np.empty(padded, np.float32)
        scales = np.empty(rows * padded // BLOCK, np.float32)
        words = np.empty(rows * padded, np.int16)
        prepare(x, rows, inputs, scaled, scales, words)
        shares = (outputs + SHARE - 1) // SHARE
        share_out(share, (words, scales, weight, absmax, bias, y, rows, inputs, outputs), shares, threads)

    return compiled()(named(product, name))


def _nf4_rows(variant: str) -> tuple[Any, Any]:
    """One row's outputs first .. last - 1, and those of four rows; a row of weights is read in the order in which it
    lies.
    """
    (two, two_of_four), (one, one_of_four) = nf4_sums(variant, 2), nf4_sums(variant, 1)

    def nf4(words, scales, packed, absmax, bias, y, row, padded, first, last, inputs, outputs):
        at, scale_at = row * padded, row * padded // BLOCK
        whole = inputs // UNIT * UNIT
        for o in range(first, last):
            byte, block = o * (inputs // 2), o * (inputs // BLOCK)
            sums = splat(np.float32(0))
            prefetch(absmax, block + AHEAD // (BLOCK // 2))
            for k in range(0, whole, UNIT):
                prefetch(packed, byte + k // 2 + AHEAD)
                scale = pair_scales(absmax, block + k // BLOCK, scales, scale_at + k // BLOCK)
                sums = fma(widen(two(packed, byte + k // 2, words, at + k)), scale, sums)
            value = total(sums)
            if whole < inputs:  # a last block alone
                scale = absmax[block + whole // BLOCK] * scales[scale_at + whole // BLOCK]
                value += total(widen(one(packed, byte + whole // 2, words, at + whole))) * scale
            y[row * outputs + o] = value * np.float32(1 / LARGEST) + bias[o]

    def nf4_of_four(words, scales, packed, absmax, bias, y, row, padded, first, last, inputs, outputs):
        at, down = row * padded, padded // BLOCK
        whole = inputs // UNIT * UNIT
        for o in range(first, last):
            byte, block = o * (inputs // 2), o * (inputs // BLOCK)
            a = b = c = d = splat(np.float32(0))
            prefetch(absmax, block + AHEAD // (BLOCK // 2))
            for k in range(0, whole, UNIT):
                prefetch(packed, byte + k // 2 + AHEAD)
                begin, scale_at = at + k, row * down + k // BLOCK
                p, q, r, s = two_of_four(
                    packed, byte + k // 2, words, begin, begin + padded, begin + 2 * padded, begin + 3 * padded
                )
                place = block + k // BLOCK
                a = fma(widen(p), pair_scales(absmax, place, scales, scale_at), a)
                b = fma(widen(q), pair_scales(absmax, place, scales, scale_at + down), b)
                c = fma(widen(r), pair_scales(absmax, place, scales, scale_at + 2 * down), c)
                d = fma(widen(s), pair_scales(absmax, place, scales, scale_at + 3 * down), d)
            values = total(a), total(b), total(c), total(d)
            if whole < inputs:
                begin, scale_at = at + whole, row * down + whole // BLOCK
                sums = one_of_four(
                    packed, byte + whole // 2, words, begin, begin + padded, begin + 2 * padded, begin + 3 * padded
                )
                scale = absmax[block + whole // BLOCK]
                values = (
                    values[0] + total(widen(sums[0])) * (scale * scales[scale_at]),
                    values[1] + total(widen(sums[1])) * (scale * scales[scale_at + down]),
                    values[2] + total(widen(sums[2])) * (scale * scales[scale_at + 2 * down]),
                    values[3] + total(widen(sums[3])) * (scale * scales[scale_at + 3 * down]),
                )
            for k in range(4):
                y[(row + k) * outputs + o] = values[k] * np.float32(1 / LARGEST) + bias[o]

    return compiled(inner=True)(named(nf4, variant)), compiled(inner=True)(named(nf4_of_four, variant))


def _int8_rows(variant: str) -> tuple[Any, Any]:
    """As for NF4; a row of weights has one scale."""
    one, of_four = int8_sums(variant)

    def int8(words, scales, weight, absmax, bias, y, row, padded, first, last, inputs, outputs):
        at, scale_at = row * padded, row * padded // BLOCK
        for o in range(first, last):
            byte = o * inputs
            sums = splat(np.float32(0))
            for k in range(0, inputs, BLOCK):
                prefetch(weight, byte + k + AHEAD)
                sums = fma(widen(one(weight, byte + k, words, at + k)), spread(scales, scale_at + k // BLOCK), sums)
            y[row * outputs + o] = total(sums) * (absmax[o] * np.float32(1 / 127)) + bias[o]

    def int8_of_four(words, scales, weight, absmax, bias, y, row, padded, first, last, inputs, outputs):
        at, down = row * padded, padded // BLOCK
        for o in range(first, last):
            byte = o * inputs
            a = b = c = d = splat(np.float32(0))
            for k in range(0, inputs, BLOCK):
                prefetch(weight, byte + k + AHEAD)
                begin, scale_at = at + k, row * down + k // BLOCK
                p, q, r, s = of_four(
                    weight, byte + k, words, begin, begin + padded, begin + 2 * padded, begin + 3 * padded
                )
                a = fma(widen(p), spread(scales, scale_at), a)
                b = fma(widen(q), spread(scales, scale_at + down), b)
                c = fma(widen(r), spread(scales, scale_at + 2 * down), c)
                d = fma(widen(s), spread(scales, scale_at + 3 * down), d)
            values = total(a), total(b), total(c), total(d)
            for k in range(4):
                y[(row + k) * outputs + o] = values[k] * (absmax[o] * np.float32(1 / 127)) + bias[o]

    return compiled(inner=True)(named(int8, variant)), compiled(inner=True)(named(int8_of_four, variant))
