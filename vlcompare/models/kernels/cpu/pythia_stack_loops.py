"""One position through all layers of a Pythia, as one compiled call. Names as in `models.pythia`; no torch in here.

In parallel blocks the queries, keys and values and the MLP's first product read the same sum, so that a layer has three
barriers: before attention, after it, and after the products back.
"""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from vlcompare.models.kernels.cpu.attention_loops import one_head
from vlcompare.models.kernels.cpu.packed_loops import named
from vlcompare.models.kernels.cpu.pointers import floats_at, halves_at, integers_at, words_at
from vlcompare.models.kernels.cpu.simd import WIDTH, compiled, gelu, load, store
from vlcompare.models.kernels.cpu.stack_loops import LINEAR, add_to, copy, finish, linears, norm, share
from vlcompare.models.kernels.cpu.threads import barrier, in_each_thread

# a layer's integers in the table: two norms and four Linears
_QKV, _DENSE, _UP, _DOWN = 4, 4 + LINEAR, 4 + 2 * LINEAR, 4 + 3 * LINEAR
FIELDS = 4 + 4 * LINEAR


@compiled(inner=True)
def _rotated(source, at, cos, sin, table_at, rotated, target, scale):
    """The first `rotated` channels of a head at source[at] turned by their angles, times `scale`."""
    half = rotated // 2
    for k in range(half):
        a, b = source[at + k], source[at + half + k]
        target[k] = (a * cos[table_at + k] + b * sin[table_at + k]) * scale
        target[half + k] = (b * cos[table_at + half + k] + a * sin[table_at + half + k]) * scale


@compiled(inner=True)
def _attend(qkv, at, table_at, cos, sin, rotated, keys, values, begin, position, size, query, weights, out, out_at):
    """One head of one row: its key and value into the cache at `position`, then attention to all slots so far."""
    scale = np.float32(1 / math.sqrt(size))
    for k in range(size):
        query[k] = qkv[at + size + k]
    _rotated(qkv, at + size, cos, sin, table_at, rotated, query, np.float32(1))
    cell = begin + position * size
    for k in range(0, size, WIDTH):
        store(keys, cell + k, load(query, k))
        store(values, cell + k, load(qkv, at + 2 * size + k))
    for k in range(size):
        query[k] = qkv[at + k] * scale
    _rotated(qkv, at, cos, sin, table_at, rotated, query, scale)
    one_head(query, 0, keys, values, begin, position + 1, size, weights, out, out_at)


@compiled(inner=True)
def _heads(places, sizes, layer, qkv, query, weights, attended, first, last):
    """Heads first .. last - 1 of those of all rows."""
    rows, _, width, heads, rotated, capacity, _, _, half = sizes
    size = width // heads
    positions, cos, sin = integers_at(places[13]), floats_at(places[14]), floats_at(places[15])
    for head in range(first, last):
        row = head // heads
        at, begin = head * 3 * size, (layer * rows * heads + head) * capacity * size
        if half:
            keys, values = halves_at(places[16]), halves_at(places[17])
            _attend(
                qkv, at, row * rotated, cos, sin, rotated, keys, values, begin, positions[row], size, query, weights,
                attended, head * size,
            )  # fmt: skip
        else:
            keys32, values32 = floats_at(places[16]), floats_at(places[17])
            _attend(
                qkv, at, row * rotated, cos, sin, rotated, keys32, values32, begin, positions[row], size, query,
                weights, attended, head * size,
            )  # fmt: skip


@functools.cache
def _expand(variant: str) -> Any:
    """This thread's share of gelu(up(norm(x)))."""
    prepare, product = linears(variant)

    def expand(table, at, own, inner, sizes, eps, thread, count):
        rows, _, width, _, _, _, between, _, _ = sizes
        x, normed, scaled, scales, words, _, _ = own
        norm(x, floats_at(table[at + 2]), floats_at(table[at + 3]), normed, rows, width, eps, True)
        first, last = share(between, thread, count), share(between, thread + 1, count)
        prepare(table[at + _UP], normed, rows, width, scaled, scales, words)
        product(table, at + _UP, normed, scales, words, inner, rows, width, between, first, last)
        for row in range(rows):
            for k in range(row * between + first, row * between + last, WIDTH):
                store(inner, k, gelu(load(inner, k)))

    return compiled(inner=True)(named(expand, variant))


@functools.cache
def _layer(variant: str) -> Any:
    """A block, from the residual to what is added to it: `back` of the attention, `out` of the MLP.

    Where they are one after the other, `back` has been added already.
    """
    (prepare, product), expand = linears(variant), _expand(variant)

    def layer(table, at, number, own, shared, places, sizes, eps, thread, count):
        rows, _, width, heads, _, _, between, parallel, _ = sizes
        x, normed, scaled, scales, words, query, weights = own
        out, back, qkv, inner, attended = shared
        norm(x, floats_at(table[at]), floats_at(table[at + 1]), normed, rows, width, eps, True)
        prepare(table[at + _QKV], normed, rows, width, scaled, scales, words)
        first, last = share(3 * width, thread, count), share(3 * width, thread + 1, count)
        product(table, at + _QKV, normed, scales, words, qkv, rows, width, 3 * width, first, last)
        if parallel:
            expand(table, at, own, inner, sizes, eps, thread, count)
        barrier()
        first, last = rows * heads * thread // count, rows * heads * (thread + 1) // count
        _heads(places, sizes, number, qkv, query, weights, attended, first, last)
        barrier()
        prepare(table[at + _DENSE], attended, rows, width, scaled, scales, words)
        first, last = share(width, thread, count), share(width, thread + 1, count)
        product(table, at + _DENSE, attended, scales, words, back, rows, width, width, first, last)
        if not parallel:
            barrier()
            add_to(x, back, rows * width)
            expand(table, at, own, inner, sizes, eps, thread, count)
            barrier()
        prepare(table[at + _DOWN], inner, rows, between, scaled, scales, words)
        product(table, at + _DOWN, inner, scales, words, out, rows, between, width, first, last)
        barrier()

    return compiled(inner=True)(named(layer, variant))


@functools.cache
def stack(variant: str) -> Any:
    """run(table, places, sizes, eps, threads), for one variant of packed products or none ("").

    places: addresses, see below. sizes: rows, layers, hidden size, heads, rotated channels, capacity, intermediate
    size, parallel, cache in bfloat16.
    """
    layer = _layer(variant)

    def pythia(table, places, sizes, eps, thread, count):
        rows, layers, width, _, _, _, _, parallel, _ = sizes
        skip = thread * places[0]  # bytes from one thread's scratch to the next one's
        x, normed, scaled = floats_at(places[1] + skip), floats_at(places[2] + skip), floats_at(places[3] + skip)
        scales, words = floats_at(places[4] + skip), words_at(places[5] + skip)
        query, weights = floats_at(places[6] + skip), floats_at(places[7] + skip)
        out, back = floats_at(places[8]), floats_at(places[9])
        qkv, inner, attended = floats_at(places[10]), floats_at(places[11]), floats_at(places[12])
        own, shared = (x, normed, scaled, scales, words, query, weights), (out, back, qkv, inner, attended)
        copy(out, x, rows * width)  # where the embeddings are
        barrier()
        for number in range(layers):
            layer(table, number * FIELDS, number, own, shared, places, sizes, eps, thread, count)
            if parallel:
                add_to(x, back, rows * width)
            add_to(x, out, rows * width)
        finish(table, layers * FIELDS, x, normed, out, rows, width, eps, True, thread)

    body = compiled(inner=True)(named(pythia, variant))

    def pythia_stack(table, places, sizes, eps, threads):
        in_each_thread(body, (table, places, sizes, np.float32(eps)), threads)

    return compiled()(named(pythia_stack, variant))
