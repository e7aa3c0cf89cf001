"""The compiled loops of one position's attention on CPU: flat arrays in, flat arrays out. No torch in here.

One query a head against the cache: the keys and values are read once each, in the order in which they lie, in the
cache's own precision; scores, weights and sums are float32. torch's fused attention is made for many queries and takes
several times as long for one. The number of channels of a head is a multiple of 16.
"""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import math

import numpy as np

from vlcompare.models.kernels.cpu.simd import WIDTH, compiled, fma, load, splat, store, total
from vlcompare.models.kernels.cpu.threads import share_out


@compiled(inner=True)
def _one_head(query, keys, values, out, counts, heads, capacity, size, head):
    """out[head] = softmax(keys query) values over the filled slots; query is scaled. Heads of all rows are counted."""
    begin, count = head * capacity * size, counts[head // heads]
    vectors = size // WIDTH
    weights = np.empty(count, np.float32)
    largest = np.float32(-np.inf)
    for slot in range(count):
        at = begin + slot * size
        score = splat(np.float32(0))
        for v in range(vectors):
            score = fma(load(query, head * size + v * WIDTH), load(keys, at + v * WIDTH), score)
        weights[slot] = total(score)
        largest = max(largest, weights[slot])
    whole = np.float32(0)
    for slot in range(count):
        weights[slot] = math.exp(weights[slot] - largest)
        whole += weights[slot]
    for v in range(vectors):
        store(out, head * size + v * WIDTH, splat(np.float32(0)))
    for slot in range(count):
        at = begin + slot * size
        weight = splat(np.float32(weights[slot] / whole))
        for v in range(vectors):
            cell = head * size + v * WIDTH
            store(out, cell, fma(weight, load(values, at + v * WIDTH), load(out, cell)))


@compiled()
def attend(query, keys, values, out, counts, heads, capacity, size, threads):
    given = (query, keys, values, out, counts, heads, capacity, size)
    share_out(_one_head, given, counts.shape[0] * heads, threads)
