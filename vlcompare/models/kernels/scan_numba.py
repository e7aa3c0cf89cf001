"""The compiled loops of the CPU scan, forward and backward: flat arrays in, flat arrays out. No torch in here.

Glossary as in `reference`. Arrays are flat views of (B, L, d) or (B, L, n), so that sixteen neighbouring channels are
one vector; A comes transposed and times log2(e), (n, d); states are (B, n, d). d is a multiple of 16. One call of
`forward_group` or `backward_group` does one batch row and a group of up to `GROUP` vectors of channels; the drivers
spread these over threads. The backward pass keeps one state in `every` and computes those between again, a stretch at a
time, in a scratch that stays in the cache: storing all of them would be n times the size of the input.
"""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import numpy as np
from numba import prange

from vlcompare.models.kernels.lanes import WIDTH, compiled, exp2, fma, load, sigmoid, softplus, splat, store, total

GROUP = 4


@compiled()
def forward_group(u, dt, z, A2, B, C, D, bias, state, marks, y, sizes, row, first, vectors):
    """y and last state of one row, `vectors` x 16 channels from `first`; marks: the state before each stretch."""
    length, width, n, every, flags = sizes
    smooth, gated = flags & 1, flags & 2
    here = row * n * width + first
    stretches = (length + every - 1) // every if every else 0
    for t in range(length):
        at = (row * length + t) * width + first
        small = (row * length + t) * n
        if every and t % every == 0:
            mark = (row * stretches + t // every) * n * width + first
            for s in range(n):
                for v in range(vectors):
                    store(marks, mark + s * width + v * WIDTH, load(state, here + s * width + v * WIDTH))
        for v in range(vectors):
            x = load(u, at + v * WIDTH)
            step = load(dt, at + v * WIDTH) + load(bias, first + v * WIDTH)
            if smooth:
                step = softplus(step)
            drive = step * x
            out = load(D, first + v * WIDTH) * x
            for s in range(n):
                cell = here + s * width + v * WIDTH
                decay = exp2(step * load(A2, s * width + first + v * WIDTH))
                h = fma(decay, load(state, cell), drive * splat(B[small + s]))
                store(state, cell, h)
                out = fma(h, splat(C[small + s]), out)
            if gated:
                gate = load(z, at + v * WIDTH)
                out = out * (gate * sigmoid(gate))
            store(y, at + v * WIDTH, out)


@compiled()
def forward_serial(u, dt, z, A2, B, C, D, bias, state, marks, y, sizes, batch):
    vectors = sizes[1] // WIDTH
    for row in range(batch):
        for v in range(0, vectors, GROUP):
            count = min(GROUP, vectors - v)
            forward_group(u, dt, z, A2, B, C, D, bias, state, marks, y, sizes, row, v * WIDTH, count)


@compiled(parallel=True)
def forward_parallel(u, dt, z, A2, B, C, D, bias, state, marks, y, sizes, batch):
    vectors = sizes[1] // WIDTH
    groups = (vectors + GROUP - 1) // GROUP
    for task in prange(batch * groups):
        v = (task % groups) * GROUP
        count = min(GROUP, vectors - v)
        forward_group(u, dt, z, A2, B, C, D, bias, state, marks, y, sizes, task // groups, v * WIDTH, count)


@compiled()
def _stretch_forward(u, dt, A2, B, bias, marks, hs, decays, steps, sizes, row, channel, start, end):
    """States, decays and time steps of positions start..end - 1, from the mark before them, for sixteen channels."""
    length, width, n, every, flags = sizes
    stretches = (length + every - 1) // every
    mark = (row * stretches + start // every) * n * width + channel
    for s in range(n):
        store(hs, s * WIDTH, load(marks, mark + s * width))
    for t in range(start, end):
        k = t - start
        x = load(u, (row * length + t) * width + channel)
        step = load(dt, (row * length + t) * width + channel) + load(bias, channel)
        if flags & 1:
            step = softplus(step)
        store(steps, k * WIDTH, step)
        drive = step * x
        small = (row * length + t) * n
        for s in range(n):
            decay = exp2(step * load(A2, s * width + channel))
            store(decays, (k * n + s) * WIDTH, decay)
            h = fma(decay, load(hs, (k * n + s) * WIDTH), drive * splat(B[small + s]))
            store(hs, ((k + 1) * n + s) * WIDTH, h)


@compiled()
def _stretch_backward(
    u, z, A, B, C, D, dy, hs, decays, steps, carry, dA, du, ddt, dz, dB, dC, sizes, row, channel, start, end
):  # fmt: skip
    """Gradients of positions end - 1 .. start. carry: gradient of the state behind them, (n, 16), in and out.

    dB and dC are sums over channels: added to (n, 16) lanes per position here, summed over lanes by the caller.
    Returns nothing; the gradients of D come from the caller (they need no state).
    """
    length, width, n, every, flags = sizes
    one = splat(1.0)
    skip = load(D, channel)
    for t in range(end - 1, start - 1, -1):
        k = t - start
        at = (row * length + t) * width + channel
        small = (row * length + t) * n
        x, step, grad = load(u, at), load(steps, k * WIDTH), load(dy, at)
        drive = step * x
        gate, sig = one, one
        inner = grad
        if flags & 2:
            gate = load(z, at)
            sig = sigmoid(gate)
            inner = grad * gate * sig  # gradient of the output before the gate
        out = skip * x
        ddrive = inner - inner
        dstep = ddrive
        for s in range(n):
            cell = (k * n + s) * WIDTH
            h, decay = load(hs, cell + n * WIDTH), load(decays, cell)
            g = fma(inner, splat(C[small + s]), load(carry, s * WIDTH))  # gradient of h_t
            out = fma(h, splat(C[small + s]), out)
            ddrive = fma(g, splat(B[small + s]), ddrive)
            back = g * decay
            store(carry, s * WIDTH, back)
            change = back * load(hs, cell)  # gradient of the exponent step * A
            dstep = fma(change, load(A, s * width + channel), dstep)
            store(dA, s * WIDTH, fma(change, step, load(dA, s * WIDTH)))
            store(dB, cell, fma(g, drive, load(dB, cell)))
            store(dC, cell, fma(inner, h, load(dC, cell)))
        store(du, at, fma(ddrive, step, inner * skip))
        dstep = fma(ddrive, x, dstep)
        if flags & 1:
            dstep = dstep * (one - exp2(step * splat(-1.4426950408889634)))  # softplus' = sigmoid = 1 - e^-softplus
        store(ddt, at, dstep)
        if flags & 2:
            # silu'(z) = sig (1 + z (1 - sig))
            store(dz, at, grad * out * (sig * fma(gate, one - sig, one)))


@compiled()
def backward_group(u, dt, z, A2, A, B, C, D, bias, marks, dy, dlast, du, ddt, dz, dA, dB, dC, dfirst, sizes,
                   row, group, vectors):  # fmt: skip
    """All gradients of one row and one group of channels; dB, dC: this group's part, (groups, B, L, n)."""
    length, width, n, every, flags = sizes
    batch = dlast.size // (n * width)
    hs = np.empty((every + 1) * n * WIDTH, np.float32)
    decays = np.empty(every * n * WIDTH, np.float32)
    steps = np.empty(every * WIDTH, np.float32)
    lanes_dB = np.empty(every * n * WIDTH, np.float32)
    lanes_dC = np.empty(every * n * WIDTH, np.float32)
    carry = np.empty(vectors * n * WIDTH, np.float32)
    sum_dA = np.zeros(vectors * n * WIDTH, np.float32)
    first = group * GROUP * WIDTH
    for v in range(vectors):
        for s in range(n):
            store(carry, (v * n + s) * WIDTH, load(dlast, (row * n + s) * width + first + v * WIDTH))
    start = (length - 1) // every * every
    end = length
    while start >= 0:
        lanes_dB[:] = 0
        lanes_dC[:] = 0
        for v in range(vectors):
            channel = first + v * WIDTH
            mine = carry[v * n * WIDTH : (v + 1) * n * WIDTH]
            mine_dA = sum_dA[v * n * WIDTH : (v + 1) * n * WIDTH]
            _stretch_forward(u, dt, A2, B, bias, marks, hs, decays, steps, sizes, row, channel, start, end)
            _stretch_backward(u, z, A, B, C, D, dy, hs, decays, steps, mine, mine_dA, du, ddt, dz,
                              lanes_dB, lanes_dC, sizes, row, channel, start, end)  # fmt: skip
        into = ((group * batch + row) * length + start) * n
        for i in range((end - start) * n):
            dB[into + i] = total(load(lanes_dB, i * WIDTH))
            dC[into + i] = total(load(lanes_dC, i * WIDTH))
        end = start
        start -= every
    for v in range(vectors):
        for s in range(n):
            cell = (row * n + s) * width + first + v * WIDTH
            store(dA, cell, load(sum_dA, (v * n + s) * WIDTH))
            store(dfirst, cell, load(carry, (v * n + s) * WIDTH))


@compiled()
def backward_serial(u, dt, z, A2, A, B, C, D, bias, marks, dy, dlast, du, ddt, dz, dA, dB, dC, dfirst, sizes, batch):
    vectors = sizes[1] // WIDTH
    groups = (vectors + GROUP - 1) // GROUP
    for task in range(batch * groups):
        group = task % groups
        backward_group(u, dt, z, A2, A, B, C, D, bias, marks, dy, dlast, du, ddt, dz, dA, dB, dC, dfirst, sizes,
                       task // groups, group, min(GROUP, vectors - group * GROUP))  # fmt: skip


@compiled(parallel=True)
def backward_parallel(u, dt, z, A2, A, B, C, D, bias, marks, dy, dlast, du, ddt, dz, dA, dB, dC, dfirst, sizes, batch):
    vectors = sizes[1] // WIDTH
    groups = (vectors + GROUP - 1) // GROUP
    for task in prange(batch * groups):
        group = task % groups
        backward_group(u, dt, z, A2, A, B, C, D, bias, marks, dy, dlast, du, ddt, dz, dA, dB, dC, dfirst, sizes,
                       task // groups, group, min(GROUP, vectors - group * GROUP))  # fmt: skip
