"""The compiled loops of the CPU scan, forward and backward: flat arrays in, flat arrays out. No torch in here.

Glossary as in `reference`. Arrays are flat views of (B, L, d) or (B, L, n), so that sixteen neighbouring channels are
one vector; A comes transposed and times log2(e), (n, d); states are (B, n, d). d is a multiple of 16. One task of
`forward` or `backward` is one batch row and a group of up to `GROUP` vectors of channels. The backward pass keeps one
state in `every` and computes those between again, a stretch at a time, in a scratch that stays in the first-level
cache: storing all would be n times the size of the input.
What the inner loops touch again and again is copied into small dense arrays first: rows of (n, d) often lie 4096 bytes
apart, and then all of them compete for the same few lines of the cache.
"""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import numpy as np

from vlcompare.models.kernels.cpu.simd import (
    LOG2E,
    WIDTH,
    compiled,
    exp2,
    fma,
    load,
    sigmoid,
    softplus,
    splat,
    spread,
    store,
    total,
)
from vlcompare.models.kernels.cpu.threads import share_out

GROUP = 4
TILE = 8  # positions whose time steps and gates are computed together, before and after the recurrence


@compiled(inner=True)
def _gather(source, start, stride, rows, width):
    """`rows` rows of `width` numbers, `stride` apart, side by side in a fresh array."""
    out = np.empty(rows * width, np.float32)
    for row in range(rows):
        for i in range(0, width, WIDTH):
            store(out, row * width + i, load(source, start + row * stride + i))
    return out


@compiled(inner=True)
def _scatter(source, target, start, stride, rows, width):
    """The inverse of `_gather`."""
    for row in range(rows):
        for i in range(0, width, WIDTH):
            store(target, start + row * stride + i, load(source, row * width + i))


@compiled(inner=True)
def _forward_group(u, dt, z, A2, B, C, D, bias, state, marks, y, sizes, task):
    """y and last state of one batch row and one group of channels; marks: the state before each stretch."""
    length, width, n, every, flags = sizes
    groups = (width // WIDTH + GROUP - 1) // GROUP
    row, first = task // groups, (task % groups) * GROUP * WIDTH
    block = min(GROUP * WIDTH, width - first)
    near_A = _gather(A2, first, width, n, block)
    near = _gather(state, row * n * width + first, width, n, block)
    steps, drives, outs = np.empty((3, TILE * block), np.float32)
    stretches = (length + every - 1) // every if every else 0
    for start in range(0, length, TILE):
        end = min(start + TILE, length)
        for t in range(start, end):  # many independent chains: what is slow here overlaps
            at = (row * length + t) * width + first
            for v in range(0, block, WIDTH):
                x = load(u, at + v)
                step = load(dt, at + v) + load(bias, first + v)
                if flags & 1:
                    step = softplus(step)
                i = (t - start) * block + v
                store(steps, i, step)
                store(drives, i, step * x)
                store(outs, i, load(D, first + v) * x)
        for t in range(start, end):
            small = (row * length + t) * n
            if every and t % every == 0:
                _scatter(near, marks, (row * stretches + t // every) * n * width + first, width, n, block)
            for v in range(0, block, WIDTH):
                i = (t - start) * block + v
                step, drive, out = load(steps, i), load(drives, i), load(outs, i)
                for s in range(n):
                    cell = s * block + v
                    decay = exp2(step * load(near_A, cell))
                    h = fma(decay, load(near, cell), drive * spread(B, small + s))
                    store(near, cell, h)
                    out = fma(h, spread(C, small + s), out)
                store(outs, i, out)
        for t in range(start, end):
            at = (row * length + t) * width + first
            for v in range(0, block, WIDTH):
                out = load(outs, (t - start) * block + v)
                if flags & 2:
                    gate = load(z, at + v)
                    out = out * (gate * sigmoid(gate))
                store(y, at + v, out)
    _scatter(near, state, row * n * width + first, width, n, block)


@compiled()
def forward(u, dt, z, A2, B, C, D, bias, state, marks, y, sizes, batch, threads):
    groups = (sizes[1] // WIDTH + GROUP - 1) // GROUP
    share_out(_forward_group, (u, dt, z, A2, B, C, D, bias, state, marks, y, sizes), batch * groups, threads)


@compiled(inner=True)
def _stretch_forward(u, dt, near_A, B, bias, hs, decays, steps, sizes, row, channel, start, end, block, v):
    """States, decays and time steps of positions start..end - 1 for sixteen channels; hs begins with the mark.

    near_A (n, block), of which these channels are v .. v + 15.
    """
    length, width, n, every, flags = sizes
    for t in range(start, end):
        step = load(dt, (row * length + t) * width + channel) + load(bias, channel)
        if flags & 1:
            step = softplus(step)
        store(steps, (t - start) * WIDTH, step)
    for t in range(start, end):
        k = t - start
        step = load(steps, k * WIDTH)
        drive = step * load(u, (row * length + t) * width + channel)
        small = (row * length + t) * n
        for s in range(n):
            cell = (k * n + s) * WIDTH
            decay = exp2(step * load(near_A, s * block + v))
            store(decays, cell, decay)
            store(hs, cell + n * WIDTH, fma(decay, load(hs, cell), drive * spread(B, small + s)))


@compiled(inner=True)
def _recurrence_backward(near_A, B, C, hs, decays, step, drive, inner, out, carry, dA, near_dB, near_dC, n, k, small,
                         block, v):  # fmt: skip
    """One position of sixteen channels, backwards; carry: gradient of the state behind it, in and out.

    Returns the output before the gate (added to `out`), and the gradients of drive and of the exponent / A log2(e).
    near_A, carry and dA (n, block), of which these channels are v .. v + 15; dA, near_dB and near_dC are added to.
    """
    ddrive, dexponent = splat(0.0), splat(0.0)
    for s in range(n):
        cell, own = (k * n + s) * WIDTH, s * block + v
        h, c = load(hs, cell + n * WIDTH), spread(C, small + s)
        g = fma(inner, c, load(carry, own))  # gradient of h_t
        out = fma(h, c, out)
        ddrive = fma(g, spread(B, small + s), ddrive)
        back = g * load(decays, cell)
        store(carry, own, back)
        change = back * load(hs, cell)  # gradient of the exponent step * A
        dexponent = fma(change, load(near_A, own), dexponent)
        store(dA, own, fma(change, step, load(dA, own)))
        store(near_dB, cell, fma(g, drive, load(near_dB, cell)))
        store(near_dC, cell, fma(inner, h, load(near_dC, cell)))
    return out, ddrive, dexponent


@compiled(inner=True)
def _stretch_backward(u, z, near_A, B, C, skip, dy, hs, decays, steps, carry, dA, sums, near, du, ddt, dz, near_dB,
                      near_dC, sizes, row, channel, start, end, block, v):  # fmt: skip
    """Gradients of positions end - 1 .. start of sixteen channels. sums (2, block: D and the bias) is added to.

    near (4, every, 16): scratch for what passes between the three loops; only the middle one is a recurrence.
    near_dB, near_dC (every, n, 16): the gradients of B and C, summed over vectors of channels but not inside one.
    """
    length, width, n, every, flags = sizes
    one = splat(1.0)
    inners, outs, ddrives, dexponents = 0, every * WIDTH, 2 * every * WIDTH, 3 * every * WIDTH
    for t in range(start, end):
        at = (row * length + t) * width + channel
        inner = load(dy, at)
        if flags & 2:
            gate = load(z, at)
            inner = inner * gate * sigmoid(gate)  # gradient of the output before the gate
        store(near, inners + (t - start) * WIDTH, inner)
    for t in range(end - 1, start - 1, -1):
        i = (t - start) * WIDTH
        x, step, inner = load(u, (row * length + t) * width + channel), load(steps, i), load(near, inners + i)
        out, ddrive, dexponent = _recurrence_backward(
            near_A, B, C, hs, decays, step, step * x, inner, skip * x, carry, dA, near_dB, near_dC,
            n, t - start, (row * length + t) * n, block, v,
        )  # fmt: skip
        store(near, outs + i, out)
        store(near, ddrives + i, ddrive)
        store(near, dexponents + i, dexponent)
    for t in range(start, end):
        at = (row * length + t) * width + channel
        i = (t - start) * WIDTH
        x, step, inner, ddrive = load(u, at), load(steps, i), load(near, inners + i), load(near, ddrives + i)
        store(du, at, fma(ddrive, step, inner * skip))
        dstep = fma(ddrive, x, load(near, dexponents + i) * splat(1.0 / LOG2E))  # near_A is A log2(e)
        if flags & 1:
            dstep = dstep * (one - exp2(step * splat(-LOG2E)))  # softplus' = sigmoid = 1 - e^-softplus
        store(ddt, at, dstep)
        store(sums, v, fma(inner, x, load(sums, v)))
        store(sums, block + v, load(sums, block + v) + dstep)
        if flags & 2:
            gate = load(z, at)
            sig = sigmoid(gate)
            # silu'(z) = sig (1 + z (1 - sig))
            store(dz, at, load(dy, at) * load(near, outs + i) * (sig * fma(gate, one - sig, one)))


@compiled(inner=True)
def _total_rows(near, target, into, count):
    """`count` sums over sixteen channels, to `target` from `into` on; `near` is zeros afterwards."""
    for i in range(count):
        target[np.uint64(into + i)] = total(load(near, i * WIDTH))
        store(near, i * WIDTH, splat(0.0))


@compiled(inner=True)
def _backward_group(u, dt, z, A2, B, C, D, bias, marks, dy, dlast, du, ddt, dz, dA, dB, dC, dsums, dfirst, sizes,
                    task):  # fmt: skip
    """All gradients of one row and one group of channels; dB, dC (groups, B, L, n): the sums over this group."""
    length, width, n, every, flags = sizes
    batch = dlast.size // (n * width)
    groups = (width // WIDTH + GROUP - 1) // GROUP
    row, group = task // groups, task % groups
    first = group * GROUP * WIDTH
    block = min(GROUP * WIDTH, width - first)
    stretches = (length + every - 1) // every
    hs = np.empty((every + 1) * n * WIDTH, np.float32)
    decays = np.empty(every * n * WIDTH, np.float32)
    steps = np.empty(every * WIDTH, np.float32)
    near = np.empty(4 * every * WIDTH, np.float32)
    near_dB, near_dC = np.zeros((2, every * n * WIDTH), np.float32)
    cell = row * n * width + first
    near_A = _gather(A2, first, width, n, block)
    carry = _gather(dlast, cell, width, n, block)
    near_dA = np.zeros(n * block, np.float32)
    sums = np.zeros(2 * block, np.float32)
    for stretch in range(stretches - 1, -1, -1):
        start = stretch * every
        end = min(start + every, length)
        for v in range(0, block, WIDTH):
            channel = first + v
            for s in range(n):
                store(hs, s * WIDTH, load(marks, ((row * stretches + stretch) * n + s) * width + channel))
            _stretch_forward(u, dt, near_A, B, bias, hs, decays, steps, sizes, row, channel, start, end, block, v)
            _stretch_backward(u, z, near_A, B, C, load(D, channel), dy, hs, decays, steps, carry, near_dA, sums, near,
                              du, ddt, dz, near_dB, near_dC, sizes, row, channel, start, end, block, v)  # fmt: skip
        into = ((group * batch + row) * length + start) * n
        _total_rows(near_dB, dB, into, (end - start) * n)
        _total_rows(near_dC, dC, into, (end - start) * n)
    _scatter(near_dA, dA, cell, width, n, block)
    _scatter(carry, dfirst, cell, width, n, block)
    _scatter(sums, dsums, row * 2 * width + first, width, 2, block)


@compiled()
def backward(u, dt, z, A2, B, C, D, bias, marks, dy, dlast, du, ddt, dz, dA, dB, dC, dsums, dfirst, sizes, batch,
             threads):  # fmt: skip
    groups = (sizes[1] // WIDTH + GROUP - 1) // GROUP
    given = (u, dt, z, A2, B, C, D, bias, marks, dy, dlast, du, ddt, dz, dA, dB, dC, dsums, dfirst, sizes)
    share_out(_backward_group, given, batch * groups, threads)
