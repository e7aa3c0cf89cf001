"""One position through all layers of a Mamba, as one compiled call. Names as in `models.mamba`; no torch in here.

A block's input projection, convolution and gate are about channels, of which every thread has its share, so that a
layer has four barriers: before x_proj, which reads the convolution of all channels; after it; before the projection
back, which reads all channels; after it.
"""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from vlcompare.models.kernels.cpu.packed_loops import named
from vlcompare.models.kernels.cpu.pointers import floats_at, words_at
from vlcompare.models.kernels.cpu.simd import WIDTH, compiled, load, sigmoid, softplus, store
from vlcompare.models.kernels.cpu.stack_loops import LINEAR, add_to, copy, finish, linears, norm, share
from vlcompare.models.kernels.cpu.step_loops import channels_step, conv_channels
from vlcompare.models.kernels.cpu.threads import barrier, in_each_thread

# a layer's integers in the table: norm, four Linears, and the addresses of convolution, its bias, A and D
_NORM, _IN, _X, _DT, _OUT = 0, 2, 2 + LINEAR, 2 + 2 * LINEAR, 2 + 3 * LINEAR
_CONV = 2 + 4 * LINEAR
FIELDS = _CONV + 4


@compiled(inner=True)
def _channels(table, at, state, state_at, xz, u, dt, chosen, y, near, rows, inner, rank, n, first, last):
    """The recurrence and the gate for channels first .. last - 1."""
    A, D = floats_at(table[at + 2]), floats_at(table[at + 3])
    many = rank + 2 * n
    for row in range(rows):
        for channel in range(first, last, WIDTH):
            cell = row * inner + channel
            step, value = softplus(load(dt, cell)), load(u, cell)
            B_at = row * many + rank
            result = channels_step(
                state, step, value, A, chosen, B_at, chosen, B_at + n, D, near, state_at + cell, channel, n
            )
            gate = load(xz, row * 2 * inner + inner + channel)
            store(y, cell, result * (gate * sigmoid(gate)))


@functools.cache
def _enter(variant: str) -> Any:
    """From the residual to the convolution of this thread's channels."""
    prepare, product = linears(variant)

    def enter(table, at, own, shared, sizes, eps, layer, first, last):
        rows, _, width, inner, _, _, taps, centred = sizes
        x, normed, scaled, scales, words, _, _ = own
        _, xz, u, _, _, _, windows, _ = shared
        norm(x, floats_at(table[at]), floats_at(table[at + 1]), normed, rows, width, eps, centred != 0)
        prepare(table[at + _IN], normed, rows, width, scaled, scales, words)
        for begin in range(0, 2 * inner, inner):  # x, then z
            product(
                table, at + _IN, normed, scales, words, xz, rows, width, 2 * inner, begin + first, begin + last
            )  # fmt: skip
        conv, bias = floats_at(table[at + _CONV]), floats_at(table[at + _CONV + 1])
        for row in range(rows):
            cell = row * inner
            window_at = (layer * rows * inner + cell) * (taps - 1)
            conv_channels(windows, window_at, xz, 2 * cell, conv, bias, u, cell, first, last, taps)

    return compiled(inner=True)(named(enter, variant))


@functools.cache
def _mix(variant: str) -> Any:
    """From the convolution of all channels to the gated result of this thread's."""
    prepare, product = linears(variant)

    def mix(table, at, own, shared, sizes, layer, first, last, thread, count):
        rows, _, _, inner, rank, n, _, _ = sizes
        _, _, scaled, scales, words, raw, near = own
        _, xz, u, chosen, dt, y, _, states = shared
        many = rank + 2 * n
        begin, end = share(many, thread, count), share(many, thread + 1, count)
        prepare(table[at + _X], u, rows, inner, scaled, scales, words)
        product(table, at + _X, u, scales, words, chosen, rows, inner, many, begin, end)
        barrier()
        for row in range(rows):
            for k in range(0, rank, WIDTH):
                store(raw, row * rank + k, load(chosen, row * many + k))
        prepare(table[at + _DT], raw, rows, rank, scaled, scales, words)
        product(table, at + _DT, raw, scales, words, dt, rows, rank, inner, first, last)
        state_at = layer * rows * inner
        _channels(
            table, at + _CONV, states, state_at, xz, u, dt, chosen, y, near, rows, inner, rank, n, first, last
        )  # fmt: skip

    return compiled(inner=True)(named(mix, variant))


@functools.cache
def stack(variant: str) -> Any:
    """run(table, places, sizes, eps, threads), for one variant of packed products or none ("").

    places: addresses, see below. sizes: rows, layers, hidden size, inner channels, rank, states, taps, LayerNorm.
    """
    (prepare, product), enter, mix = linears(variant), _enter(variant), _mix(variant)

    def mamba(table, places, sizes, eps, thread, count):
        rows, layers, width, inner, _, _, _, centred = sizes
        skip = thread * places[0]  # bytes from one thread's scratch to the next one's
        x, normed, scaled = floats_at(places[1] + skip), floats_at(places[2] + skip), floats_at(places[3] + skip)
        scales, words = floats_at(places[4] + skip), words_at(places[5] + skip)
        raw, near = floats_at(places[6] + skip), floats_at(places[7] + skip)
        out, xz, u, chosen = floats_at(places[8]), floats_at(places[9]), floats_at(places[10]), floats_at(places[11])
        dt, y = floats_at(places[12]), floats_at(places[13])
        windows, states = floats_at(places[14]), floats_at(places[15])
        own, shared = (x, normed, scaled, scales, words, raw, near), (out, xz, u, chosen, dt, y, windows, states)
        first, last = share(inner, thread, count), share(inner, thread + 1, count)
        copy(out, x, rows * width)  # where the embeddings are
        barrier()
        for layer in range(layers):
            at = layer * FIELDS
            if layer > 0:
                add_to(x, out, rows * width)
            enter(table, at, own, shared, sizes, eps, layer, first, last)
            barrier()
            mix(table, at, own, shared, sizes, layer, first, last, thread, count)
            barrier()
            prepare(table[at + _OUT], y, rows, inner, scaled, scales, words)
            begin, end = share(width, thread, count), share(width, thread + 1, count)
            product(table, at + _OUT, y, scales, words, out, rows, inner, width, begin, end)
            barrier()
        add_to(x, out, rows * width)
        finish(table, layers * FIELDS, x, normed, out, rows, width, eps, centred != 0, thread)

    body = compiled(inner=True)(named(mamba, variant))

    def mamba_stack(table, places, sizes, eps, threads):
        in_each_thread(body, (table, places, sizes, np.float32(eps)), threads)

    return compiled()(named(mamba_stack, variant))
