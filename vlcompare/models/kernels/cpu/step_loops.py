"""The compiled loops of single positions on CPU: products of few rows, Mamba's convolution (one position or many), and
the step of its state. Flat arrays in, flat arrays out; no torch in here.

A product of one row reads every weight once, so it is as fast as memory is: four output rows at a time, sixteen numbers
of each, bfloat16 widened on the way, sums in float32. The order of summation depends on the sizes alone, never on the
number of threads.
"""

# numba reads these functions' bytecode and knows every type itself; annotations would only repeat it
# mypy: disable-error-code="no-untyped-def,misc"

from __future__ import annotations

import numpy as np

from vlcompare.models.kernels.cpu.packed_simd import prefetch
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

OUTPUTS = 4  # output rows whose weights are read side by side
SHARE = 64  # output rows, or positions, that are one task


@compiled(inner=True)
def _outputs(x, weight, bias, y, row, first, last, inputs, outputs):
    """y[row, first..last - 1] = weight[first..last - 1] x[row] + bias."""
    nothing = splat(0.0)
    own = row * inputs
    ahead = OUTPUTS * inputs  # the same place in the rows that follow these
    for o in range(first, last, OUTPUTS):
        # at the end of the matrix the last row is computed again in place of those that are not there
        b, c, d = min(o + 1, last - 1), min(o + 2, last - 1), min(o + 3, last - 1)
        at_a, at_b, at_c, at_d = o * inputs, b * inputs, c * inputs, d * inputs
        sum_a, sum_b, sum_c, sum_d = nothing, nothing, nothing, nothing
        for k in range(0, inputs, WIDTH):
            value = load(x, own + k)
            prefetch(weight, at_a + k + ahead)
            prefetch(weight, at_b + k + ahead)
            prefetch(weight, at_c + k + ahead)
            prefetch(weight, at_d + k + ahead)
            sum_a = fma(load(weight, at_a + k), value, sum_a)
            sum_b = fma(load(weight, at_b + k), value, sum_b)
            sum_c = fma(load(weight, at_c + k), value, sum_c)
            sum_d = fma(load(weight, at_d + k), value, sum_d)
        y[row * outputs + o] = total(sum_a) + bias[o]
        y[row * outputs + b] = total(sum_b) + bias[b]
        y[row * outputs + c] = total(sum_c) + bias[c]
        y[row * outputs + d] = total(sum_d) + bias[d]


@compiled(inner=True)
def some_outputs(x, weight, bias, y, rows, inputs, outputs, first, last):
    """Outputs first .. last - 1 of all rows."""
    for begin in range(first, last, SHARE):
        for row in range(rows):  # a share of the weights stays in the cache for the next row
            _outputs(x, weight, bias, y, row, begin, min(begin + SHARE, last), inputs, outputs)


@compiled(inner=True)
def _product_share(x, weight, bias, y, rows, inputs, outputs, task):
    first = task * SHARE
    some_outputs(x, weight, bias, y, rows, inputs, outputs, first, min(first + SHARE, outputs))


@compiled()
def product(x, weight, bias, y, rows, inputs, outputs, threads):
    """y (rows, outputs) = x (rows, inputs) weight^T + bias; weight (outputs, inputs) float32 or bfloat16."""
    shares = (outputs + SHARE - 1) // SHARE
    share_out(_product_share, (x, weight, bias, y, rows, inputs, outputs), shares, threads)


@compiled(inner=True)
def channels_step(state, step, value, A, B, B_at, C, C_at, D, near, at, first, n):
    """C h + D x of sixteen channels, from `first` on; their states h, from state[at * n] on, move on by one position.

    step: the time steps, after softplus. value: x. The state (d, n) has its n side by side, so a channel's states are
    the vectors. near: 32 numbers of scratch.
    """
    store(near, 0, step * splat(LOG2E))
    store(near, WIDTH, step * value)
    for channel in range(WIDTH):
        step2, drive = spread(near, channel), spread(near, WIDTH + channel)
        out = splat(0.0)
        for s in range(0, n, WIDTH):
            cell = (at + channel) * n + s
            decay = exp2(step2 * load(A, (first + channel) * n + s))
            h = fma(decay, load(state, cell), drive * load(B, B_at + s))
            store(state, cell, h)
            out = fma(h, load(C, C_at + s), out)
        near[channel] = total(out)
    return fma(load(D, first), value, load(near, 0))


@compiled(inner=True)
def _step_channels(state, x, dt, A, B, C, D, z, bias, y, width, n, gated, task):
    """Sixteen channels."""
    vectors = width // WIDTH
    row, first = task // vectors, (task % vectors) * WIDTH
    near = np.empty(2 * WIDTH, np.float32)
    at = row * width + first
    step = softplus(load(dt, at) + load(bias, first))
    result = channels_step(state, step, load(x, at), A, B, row * n, C, row * n, D, near, at, first, n)
    if gated:
        gate = load(z, at)
        result = result * (gate * sigmoid(gate))
    store(y, at, result)


@compiled()
def step(state, x, dt, A, B, C, D, z, bias, y, batch, width, n, gated, threads):
    """One position of the scan for a batch: state (B, d, n) in place, y (B, d); d and n are multiples of 16."""
    given = (state, x, dt, A, B, C, D, z, bias, y, width, n, gated)
    share_out(_step_channels, given, batch * (width // WIDTH), threads)


@compiled(inner=True)
def conv_channels(window, window_at, x, x_at, weight, bias, y, y_at, first, last, taps):
    """One position of the convolution and SiLU for channels first .. last - 1, whole vectors of them; indices count
    from the row's places in window (d, taps - 1), x (d,) and y (d,). The window moves on by one. weight (d, taps).
    """
    for channel in range(first, last):
        at = window_at + channel * (taps - 1)
        value = x[x_at + channel]
        result = bias[channel] + weight[channel * taps + taps - 1] * value
        for tap in range(taps - 1):
            result += weight[channel * taps + tap] * window[at + tap]
        for tap in range(taps - 2):
            window[at + tap] = window[at + tap + 1]
        if taps > 1:
            window[at + taps - 2] = value
        y[y_at + channel] = result
    for channel in range(first, last, WIDTH):
        result = load(y, y_at + channel)
        store(y, y_at + channel, result * sigmoid(result))


@compiled()
def conv_step(window, x, weight, bias, y, batch, width, taps):
    """One position of the convolution and SiLU: window (B, d, taps - 1) moves on by one; weight (d, taps)."""
    for row in range(batch):
        at = row * width
        conv_channels(window, at * (taps - 1), x, at, weight, bias, y, at, 0, width, taps)


@compiled(inner=True)
def _conv_rows(x, before, weight, bias, y, sizes, task):
    """SHARE positions of one batch row. x has `stride` numbers a position; before: (B, taps - 1, d)."""
    length, width, taps, stride = sizes
    pieces = (length + SHARE - 1) // SHARE
    row, first = task // pieces, (task % pieces) * SHARE
    last = min(first + SHARE, length)
    for t in range(first, last):
        for channel in range(0, width, WIDTH):
            result = load(bias, channel)
            for tap in range(taps):
                source = t - taps + 1 + tap
                if source >= 0:
                    value = load(x, (row * length + source) * stride + channel)
                else:
                    value = load(before, (row * (taps - 1) + source + taps - 1) * width + channel)
                result = fma(load(weight, tap * width + channel), value, result)
            store(y, (row * length + t) * width + channel, result * sigmoid(result))


@compiled()
def conv(x, before, weight, bias, y, sizes, batch, threads):
    """y (B, L, d) = SiLU of the causal convolution; weight (taps, d)."""
    pieces = (sizes[0] + SHARE - 1) // SHARE
    share_out(_conv_rows, (x, before, weight, bias, y, sizes), batch * pieces, threads)


@compiled()
def conv_backward(x, before, weight, bias, dy, dinner, dx, dbefore, dweight, dbias, sizes, batch):
    """Gradients of `conv` (x dense, stride = d); dweight (taps, d), dbias (d,) and dbefore are added to.

    dinner (B, L, d): scratch for the gradient before SiLU.
    """
    length, width, taps, stride = sizes
    one = splat(1.0)
    for row in range(batch):
        for t in range(length):
            for channel in range(0, width, WIDTH):
                inner = load(bias, channel)
                for tap in range(taps):
                    source = t - taps + 1 + tap
                    if source >= 0:
                        value = load(x, (row * length + source) * width + channel)
                    else:
                        value = load(before, (row * (taps - 1) + source + taps - 1) * width + channel)
                    inner = fma(load(weight, tap * width + channel), value, inner)
                at = (row * length + t) * width + channel
                sig = sigmoid(inner)
                grad = load(dy, at) * (sig * fma(inner, one - sig, one))  # silu'(x) = sig (1 + x (1 - sig))
                store(dinner, at, grad)
                store(dbias, channel, load(dbias, channel) + grad)
                for tap in range(taps):
                    source = t - taps + 1 + tap
                    cell = tap * width + channel
                    if source >= 0:
                        value = load(x, (row * length + source) * width + channel)
                    else:
                        past = (row * (taps - 1) + source + taps - 1) * width + channel
                        value = load(before, past)
                        store(dbefore, past, fma(grad, load(weight, cell), load(dbefore, past)))
                    store(dweight, cell, fma(grad, value, load(dweight, cell)))
        for t in range(length):
            for channel in range(0, width, WIDTH):
                result = splat(0.0)
                for tap in range(taps):
                    target = t + taps - 1 - tap
                    if target < length:
                        grad = load(dinner, (row * length + target) * width + channel)
                        result = fma(grad, load(weight, tap * width + channel), result)
                store(dx, (row * length + t) * width + channel, result)
