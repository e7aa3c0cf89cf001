"""The compiled loops of one position's attention on CPU: flat arrays in, flat arrays out. No torch in here.

One query a head against the cache: the keys and values are read once each, in the order in which they lie, in the
cache's own precision; scores, weights and sums are float32. torch's fused attention is made for many queries and takes
several times as long for one. The number of channels of a head is a multiple of 16.
"""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import numpy as np

from vlcompare.models.kernels.cpu.simd import LOG2E, WIDTH, compiled, exp2, fma, load, splat, store, total
from vlcompare.models.kernels.cpu.threads import share_out


@compiled(inner=True)
def one_head(query, query_at, keys, values, begin, count, size, weights, out, out_at):
    """out = softmax(keys query) values over `count` slots, from keys[begin] and values[begin] on; query is scaled.

    weights: scratch for `count` numbers, rounded up to whole vectors.
    """
    vectors = size // WIDTH
    largest = np.float32(-np.inf)
    for slot in range(count):
        at = begin + slot * size
        score = splat(np.float32(0))
        for v in range(vectors):
            score = fma(load(query, query_at + v * WIDTH), load(keys, at + v * WIDTH), score)
        weights[slot] = total(score)
        largest = max(largest, weights[slot])
    for slot in range(count, (count + WIDTH - 1) // WIDTH * WIDTH):
        weights[slot] = np.float32(-np.inf)
    for slot in range(0, count, WIDTH):
        store(weights, slot, exp2((load(weights, slot) - splat(largest)) * splat(np.float32(LOG2E))))
    whole = np.float32(0)
    for slot in range(count):
        whole += weights[slot]
    for v in range(vectors):
        store(out, out_at + v * WIDTH, splat(np.float32(0)))
    for slot in range(count):
        at = begin + slot * size
        weight = splat(np.float32(weights[slot] / whole))
        for v in range(vectors):
            cell = out_at + v * WIDTH
            store(out, cell, fma(weight, load(values, at + v * WIDTH), load(out, cell)))


@compiled(inner=True)
def _head(query, keys, values, out, counts, heads, capacity, size, head):
    """Heads of all rows are counted."""
    count = counts[head // heads]
    weights = np.empty(count + WIDTH, np.float32)
    one_head(query, head * size, keys, values, head * capacity * size, count, size, weights, out, head * size)


@compiled()
def attend(query, keys, values, out, counts, heads, capacity, size, threads):
    given = (query, keys, values, out, counts, heads, capacity, size)
    share_out(_head, given, counts.shape[0] * heads, threads)
