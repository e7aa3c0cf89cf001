"""One position of a Mamba block between its projections, as two Triton kernels for CUDA. Names as in `reference`.

The first convolves and multiplies: each program has some channels and gives its share of `x_proj`'s sums, which needs
all channels. The second adds the shares up, does the step (`step`), and moves state and windows on: where one of the
two cannot be launched, nothing has changed. What the reference rounds between its functions is rounded here as well;
sums are float32, always in the same order.
"""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlcompare.models.kernels.cuda.common import dense, early, softplus, wide
from vlcompare.models.kernels.reference import MixWeights

CONVOLVED = 128  # channels of a program that convolves: the fewer, the more shares
PROJECTED = 32  # rows of x_proj that it multiplies at once
STEPPED = 32  # channels of a program that steps
ADDED = 8  # shares that it reads at once
MAX_ROWS = 4  # of a batch: each reads all of x_proj and dt_proj


@triton.jit
def _rows(proj_ptr, o, d, width, SUMS: tl.constexpr):
    """Rows o and columns d of x_proj; 0 behind the end."""
    there = (o < SUMS)[:, None] & (d < width)[None, :]
    return tl.load(proj_ptr + o[:, None] * width + d[None, :], mask=there, other=0.0)


@triton.jit
def _convolve_and_project(
    window_ptr, xz_ptr, weight_ptr, bias_ptr, proj_ptr, x_ptr, shares_ptr, width, shares, xz_b,
    TAPS: tl.constexpr, BD: tl.constexpr, BO: tl.constexpr, SUMS: tl.constexpr, BIASED: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """BD channels of one row: convolution and SiLU, then their share of each of x_proj's SUMS sums."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    row, program = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = program * BD + tl.arange(0, BD)
    here = d < width
    o = tl.arange(0, BO)
    part_next = _rows(proj_ptr, o, d, width, SUMS)
    if EARLY:
        tl.extra.cuda.gdc_wait()
    x = tl.load(xz_ptr + row * xz_b + d, mask=here, other=0.0)
    new = x.to(tl.float32)
    y = new * tl.load(weight_ptr + d * TAPS + TAPS - 1, mask=here, other=0.0).to(tl.float32)
    if BIASED:
        y += tl.load(bias_ptr + d, mask=here, other=0.0).to(tl.float32)
    at = (row * width + d) * (TAPS - 1)
    for tap in tl.static_range(TAPS - 1):
        past = tl.load(window_ptr + at + tap, mask=here, other=0.0)
        y += past * tl.load(weight_ptr + d * TAPS + tap, mask=here, other=0.0).to(tl.float32)
    y = (y * tl.sigmoid(y)).to(x.dtype)
    share = shares_ptr + (row * shares + program) * SUMS
    for begin in range(0, SUMS, BO):
        part = part_next.to(tl.float32)
        part_next = _rows(proj_ptr, begin + BO + o, d, width, SUMS)
        tl.store(share + begin + o, tl.sum(part * y.to(tl.float32)[None, :], 1), mask=begin + o < SUMS)
    tl.store(x_ptr + row * width + d, y, mask=here)


@triton.jit
def _added(shares_ptr, first, k, count, shares, SUMS: tl.constexpr, BK: tl.constexpr, BS: tl.constexpr):
    """The sums first + k over all shares of one row."""
    s = tl.arange(0, BS)
    total = tl.zeros((BK,), tl.float32)
    for begin in range(0, shares, BS):
        there = (begin + s < shares)[:, None] & (k < count)[None, :]
        total += tl.sum(
            tl.load(shares_ptr + (begin + s)[:, None] * SUMS + first + k[None, :], mask=there, other=0.0), 0
        )
    return total


@triton.jit
def _add_and_step(
    state_ptr, window_ptr, x_ptr, shares_ptr, weight_ptr, A_ptr, D_ptr, xz_ptr, bias_ptr, y_ptr, width, shares, xz_b,
    N: tl.constexpr, NP: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr, RANK: tl.constexpr, RP: tl.constexpr,
    TAPS: tl.constexpr, MOVED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """BD channels of one row: x_proj's sums, the time step's projection, and the step.

    state (B, d, n) and window (B, d, TAPS - 1) move on in place. MOVED: a power of two, at least TAPS - 1.
    """
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n, r = tl.arange(0, NP), tl.arange(0, RP)
    here, some = d < width, n < N
    cells = here[:, None] & some[None, :]
    state_at = (row * width + d[:, None]) * N + n[None, :]
    A = tl.load(A_ptr + d[:, None] * N + n[None, :], mask=cells, other=0.0)
    cells_r = here[:, None] & (r < RANK)[None, :]
    weight = tl.load(weight_ptr + d[:, None] * RANK + r[None, :], mask=cells_r, other=0.0).to(tl.float32)
    skip = tl.load(D_ptr + d, mask=here, other=0.0)
    bias = tl.load(bias_ptr + d, mask=here, other=0.0)
    if EARLY:
        tl.extra.cuda.gdc_wait()
    state = tl.load(state_ptr + state_at, mask=cells, other=0.0)
    stored = tl.load(x_ptr + row * width + d, mask=here, other=0.0)
    x = stored.to(tl.float32)
    z = tl.load(xz_ptr + row * xz_b + width + d, mask=here, other=0.0).to(tl.float32)
    new = tl.load(xz_ptr + row * xz_b + d, mask=here, other=0.0).to(tl.float32)
    tap = tl.arange(0, MOVED)
    window_at = (row * width + d[:, None]) * (TAPS - 1) + tap[None, :]
    later = tl.load(window_ptr + window_at + 1, mask=here[:, None] & (tap < TAPS - 2)[None, :], other=0.0)
    own = shares_ptr + row * shares * (RANK + 2 * N)
    factors = _added(own, 0, r, RANK, shares, RANK + 2 * N, RP, BS).to(stored.dtype).to(tl.float32)
    B = _added(own, RANK, n, N, shares, RANK + 2 * N, NP, BS).to(stored.dtype).to(tl.float32)
    C = _added(own, RANK + N, n, N, shares, RANK + 2 * N, NP, BS).to(stored.dtype).to(tl.float32)
    dt = softplus(tl.sum(weight * factors[None, :], 1).to(stored.dtype).to(tl.float32) + bias)
    state = tl.exp(dt[:, None] * A) * state + (dt * x)[:, None] * B[None, :]
    tl.store(state_ptr + state_at, state, mask=cells)
    moved = tl.where((tap == TAPS - 2)[None, :], new[:, None], later)
    tl.store(window_ptr + window_at, moved, mask=here[:, None] & (tap < TAPS - 1)[None, :])
    y = (tl.sum(state * C[None, :], 1) + skip * x) * (z * tl.sigmoid(z))
    tl.store(y_ptr + row * width + d, y, mask=here)


@torch.no_grad()
def mix_step(window: Tensor, state: Tensor, xz: Tensor, weights: MixWeights) -> Tensor | None:
    """See `reference.mix_step`; None for more than a few rows."""
    batch, width, n = state.shape
    if batch > MAX_ROWS:
        return None
    for name, tensor in (("window", window), ("state", state)):
        if not tensor.is_contiguous() or tensor.dtype != torch.float32:
            raise ValueError(f"the {name} must be contiguous float32, got {tensor.dtype}, strides {tensor.stride()}")
    xz = dense(xz)
    A, D, dt_bias = wide(weights.A), wide(weights.D), wide(weights.dt_bias)
    conv, x_proj, dt_proj = (weight.contiguous() for weight in (weights.conv, weights.x_proj, weights.dt_proj))
    sums, rank, shares = x_proj.shape[0], dt_proj.shape[1], triton.cdiv(width, CONVOLVED)
    x, y = xz.new_empty(batch, width), xz.new_empty(batch, width)
    partial = torch.empty(batch, shares, sums, device=xz.device)
    with torch.cuda.device_of(state):
        _convolve_and_project[batch, shares](
            window, xz, conv, conv if weights.conv_bias is None else weights.conv_bias, x_proj, x, partial, width,
            shares, xz.stride(0),
            TAPS=conv.shape[1], BD=CONVOLVED, BO=PROJECTED, SUMS=sums, BIASED=weights.conv_bias is not None,
            **early(xz.device),
        )  # fmt: skip
        _add_and_step[batch, triton.cdiv(width, STEPPED)](
            state, window, x, partial, dt_proj, A, D, xz, dt_bias, y, width, shares, xz.stride(0),
            N=n, NP=triton.next_power_of_2(n), BD=STEPPED, BS=ADDED, RANK=rank, RP=triton.next_power_of_2(rank),
            TAPS=conv.shape[1], MOVED=triton.next_power_of_2(max(1, conv.shape[1] - 1)), **early(xz.device),
        )  # fmt: skip
    return y
