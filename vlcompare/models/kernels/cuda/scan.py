"""The scan forward and backward, and its step, as Triton kernels for CUDA.

Knows tensors on a GPU (or Triton's interpreter, in tests); nothing of layers. State and sums are float32; inputs of any
float dtype and any strides. The scan goes through a chunk of positions at once with an associative scan over pairs
(decay, drive), the way of section 3.3.2 of the paper (arXiv 2312.00752): (a1, b1) then (a2, b2) is (a2 a1, a2 b1 + b2);
the state passes from chunk to chunk in registers. Positions are a tile's first axis, which Triton spreads over threads
last: all positions of a chunk then lie in the registers of one thread, and the scan is a loop without any exchange
between threads. The forward pass for training keeps the state before each chunk, and
the backward pass computes the rest again, as the paper's section 3.3.2 recomputes instead of storing.
Triton launches on the current device, so each launch is told its tensors' one. Names as in `reference`.
"""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from vlcompare.models.kernels.agreement import agrees, steps_agree

CHUNK = 16  # positions scanned at once
CHANNELS = 8  # channels of one program: with 16 states one channel's state for each thread of four warps
STEP_CHANNELS = 32
PROJECTED_ROWS = 4  # above this a product of its own reads the projection's weight less often


def usable(device: torch.device) -> bool:
    """CUDA from Turing on, where the compiled scan, convolution and steps give the reference's numbers."""
    if device.type != "cuda" or not torch.cuda.is_available() or torch.cuda.get_device_capability(device) < (7, 5):
        return False
    return _proven(torch.device(device.type, device.index))


@functools.cache
def _proven(device: torch.device) -> bool:
    from vlcompare.models.kernels.cuda import conv  # which imports this module

    steps = selective_step, projected_step, conv.conv_step, conv.causal_conv
    return agrees(selective_scan, device) and steps_agree(steps, device)


@triton.jit
def _then(a1, b1, a2, b2):
    """First h -> a1 h + b1, then h -> a2 h + b2."""
    return a1 * a2, a2 * b1 + b2


@triton.jit
def _softplus(x):
    """log(1 + e^x) without overflow, and right to the last digits for small time steps, too."""
    e = tl.exp(-tl.abs(x))
    series = e * (1.0 - e * (1.0 / 2.0 - e * (1.0 / 3.0 - e / 4.0)))
    return tl.maximum(x, 0.0) + tl.where(e < 1.0 / 32.0, series, tl.log(1.0 + e))


@triton.jit
def _time_steps(raw, there, SMOOTH: tl.constexpr):
    """Time steps with their bias -> smoothed where asked; 0 behind the end: decay 1, drive 0, so the state stays."""
    steps = raw
    if SMOOTH:
        steps = _softplus(raw)
    return tl.where(there, steps, 0.0)


@triton.jit
def _tile(start, t, k, t_stride, k_stride, length, width):
    """Positions t of channels or states k, as they are stored; 0 behind the end."""
    there = (t < length)[:, None] & (k < width)[None, :]
    return tl.load(start + t[:, None] * t_stride + k[None, :] * k_stride, mask=there, other=0.0)


@triton.jit(do_not_specialize=["length", "chunks"])  # one compilation for prompts of any length
def _scan_forward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, initial_ptr, y_ptr, last_ptr, marks_ptr,
    width, length, chunks,
    u_b, u_d, u_l, dt_b, dt_d, dt_l, B_b, B_n, B_l, C_b, C_n, C_l, z_b, z_d, z_l, y_b, y_d, y_l,
    N: tl.constexpr, NP: tl.constexpr, CHUNK: tl.constexpr, BD: tl.constexpr,
    SMOOTH: tl.constexpr, SKIP: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr, STARTED: tl.constexpr,
    MARKED: tl.constexpr,
):  # fmt: skip
    """One batch row and BD channels, all positions. Dense: A (d, n), initial and last (B, d, n), marks (B, d, c, n)."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n = tl.arange(0, NP)
    here = d < width
    cells = here[:, None] & (n < N)[None, :]
    A = tl.load(A_ptr + d[:, None] * N + n[None, :], mask=cells, other=0.0)
    state_at = (row * width + d[:, None]) * N + n[None, :]
    state = tl.zeros((BD, NP), tl.float32)
    if STARTED:
        state = tl.load(initial_ptr + state_at, mask=cells, other=0.0)
    bias = tl.load(bias_ptr + d, mask=here, other=0.0) if BIASED else tl.zeros((BD,), tl.float32)
    skip = tl.load(D_ptr + d, mask=here, other=0.0) if SKIP else tl.zeros((BD,), tl.float32)
    u_ptr += row * u_b
    dt_ptr += row * dt_b
    B_ptr += row * B_b
    C_ptr += row * C_b
    z_ptr += row * z_b
    t = tl.arange(0, CHUNK)
    begins, ends = (t == 0)[:, None, None], (t == CHUNK - 1)[:, None, None]
    u_next, dt_next = _tile(u_ptr, t, d, u_l, u_d, length, width), _tile(dt_ptr, t, d, dt_l, dt_d, length, width)
    B_next, C_next = _tile(B_ptr, t, n, B_l, B_n, length, N), _tile(C_ptr, t, n, C_l, C_n, length, N)
    if GATED:
        z_next = _tile(z_ptr, t, d, z_l, z_d, length, width)
    for chunk in range(chunks):
        there = (t < length)[:, None] & here[None, :]
        if MARKED:
            mark_at = ((row * width + d[:, None]) * chunks + chunk) * N + n[None, :]
            tl.store(marks_ptr + mark_at, state, mask=cells)
        u, dt, B, C = u_next.to(tl.float32), dt_next.to(tl.float32), B_next.to(tl.float32), C_next.to(tl.float32)
        # the next chunk is on its way while this one is computed
        u_next = _tile(u_ptr, t + CHUNK, d, u_l, u_d, length, width)
        dt_next = _tile(dt_ptr, t + CHUNK, d, dt_l, dt_d, length, width)
        B_next = _tile(B_ptr, t + CHUNK, n, B_l, B_n, length, N)
        C_next = _tile(C_ptr, t + CHUNK, n, C_l, C_n, length, N)
        if GATED:
            z = z_next.to(tl.float32)
            z_next = _tile(z_ptr, t + CHUNK, d, z_l, z_d, length, width)
        dt = _time_steps(dt + bias[None, :], there, SMOOTH)
        decay = tl.exp(dt[:, :, None] * A[None, :, :])
        drive = (dt * u)[:, :, None] * B[:, None, :]
        drive += tl.where(begins, decay * state[None, :, :], 0.0)
        _, h = tl.associative_scan((decay, drive), 0, _then)
        y = tl.sum(h * C[:, None, :], 2) + skip[None, :] * u
        if GATED:
            y *= z * tl.sigmoid(z)
        tl.store(y_ptr + row * y_b + t[:, None] * y_l + d[None, :] * y_d, y, mask=there)
        state = tl.sum(tl.where(ends, h, 0.0), 0)
        t += CHUNK
    tl.store(last_ptr + state_at, state, mask=cells)


@triton.jit
def _scan_backward(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, marks_ptr, dy_ptr, dlast_ptr,
    du_ptr, ddt_ptr, dz_ptr, dA_ptr, dB_ptr, dC_ptr, dD_ptr, dbias_ptr, dfirst_ptr,
    width, length, chunks,
    N: tl.constexpr, NP: tl.constexpr, CHUNK: tl.constexpr, BD: tl.constexpr,
    SMOOTH: tl.constexpr, SKIP: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """Gradients, chunks from last to first; everything dense: u, dt, z, dy (B, d, L), B and C (B, n, L), all float32.

    dB and dC are sums over channels: added atomically. dA (B, d, n), dD and dbias (B, d) are summed over B outside.
    """
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n = tl.arange(0, NP)
    here = d < width
    cells = here[:, None] & (n < N)[None, :]
    A = tl.load(A_ptr + d[:, None] * N + n[None, :], mask=cells, other=0.0)
    state_at = (row * width + d[:, None]) * N + n[None, :]
    carry = tl.load(dlast_ptr + state_at, mask=cells, other=0.0)  # gradient of the state behind the chunk
    bias = tl.load(bias_ptr + d, mask=here, other=0.0) if BIASED else tl.zeros((BD,), tl.float32)
    skip = tl.load(D_ptr + d, mask=here, other=0.0) if SKIP else tl.zeros((BD,), tl.float32)
    dA = tl.zeros((BD, NP), tl.float32)
    dD = tl.zeros((BD,), tl.float32)
    dbias = tl.zeros((BD,), tl.float32)
    step = tl.arange(0, CHUNK)
    begins, ends = (step == 0)[:, None, None], (step == CHUNK - 1)[:, None, None]
    for back in range(chunks):
        chunk = chunks - 1 - back
        t = chunk * CHUNK + step
        there = (t < length)[:, None] & here[None, :]
        at = (row * width + d[None, :]) * length + t[:, None]
        u = tl.load(u_ptr + at, mask=there, other=0.0)
        raw = tl.load(dt_ptr + at, mask=there, other=0.0) + bias[None, :]
        following = (t + 1 < length)[:, None] & here[None, :]
        after = tl.load(dt_ptr + at + 1, mask=following, other=0.0) + bias[None, :]
        dt, after = _time_steps(raw, there, SMOOTH), _time_steps(after, following, SMOOTH)
        small = (t < length)[:, None] & (n < N)[None, :]
        small_at = (row * N + n[None, :]) * length + t[:, None]
        B = tl.load(B_ptr + small_at, mask=small, other=0.0)
        C = tl.load(C_ptr + small_at, mask=small, other=0.0)
        mark_at = ((row * width + d[:, None]) * chunks + chunk) * N + n[None, :]
        mark = tl.load(marks_ptr + mark_at, mask=cells, other=0.0)
        decay = tl.exp(dt[:, :, None] * A[None, :, :])
        drive = (dt * u)[:, :, None] * B[:, None, :]
        past = tl.where(begins, decay * mark[None, :, :], 0.0)
        _, h = tl.associative_scan((decay, drive + past), 0, _then)
        dy = tl.load(dy_ptr + at, mask=there, other=0.0)
        if GATED:
            z = tl.load(z_ptr + at, mask=there, other=0.0)
            sig = tl.sigmoid(z)
            out = tl.sum(h * C[:, None, :], 2) + skip[None, :] * u
            tl.store(dz_ptr + at, dy * out * sig * (1.0 + z * (1.0 - sig)), mask=there)
            dy *= z * sig
        # gradient of h_t: dy_t C_t + exp(dt_{t+1} A) (gradient of h_{t+1}), a scan from the end
        factor = tl.exp(after[:, :, None] * A[None, :, :])
        future = tl.where(ends, factor * carry[None, :, :], 0.0)
        _, g = tl.associative_scan((factor, dy[:, :, None] * C[:, None, :] + future), 0, _then, reverse=True)
        change = g * (h - drive)  # gradient of the exponent dt A: g exp(dt A) h_{t-1}
        ddrive = tl.sum(g * B[:, None, :], 2)
        ddt = tl.sum(change * A[None, :, :], 2) + ddrive * u
        dA += tl.sum(change * dt[:, :, None], 0)
        tl.atomic_add(dB_ptr + small_at, tl.sum(g * (dt * u)[:, :, None], 1), mask=small)
        tl.atomic_add(dC_ptr + small_at, tl.sum(h * dy[:, :, None], 1), mask=small)
        if SMOOTH:
            ddt *= tl.sigmoid(raw)
        ddt = tl.where(there, ddt, 0.0)
        tl.store(ddt_ptr + at, ddt, mask=there)
        tl.store(du_ptr + at, ddrive * dt + dy * skip[None, :], mask=there)
        dbias += tl.sum(ddt, 0)
        dD += tl.sum(dy * u, 0)
        # what reaches the state before the chunk has passed the first position's decay; the chunk before applies that
        # factor itself (as its `after`), the very first one does not
        carry = tl.sum(tl.where(begins, g, 0.0), 0)
        if chunk == 0:
            carry *= tl.sum(tl.where(begins, decay, 0.0), 0)
    tl.store(dfirst_ptr + state_at, carry, mask=cells)
    tl.store(dA_ptr + state_at, dA, mask=cells)
    tl.store(dD_ptr + row * width + d, dD, mask=here)
    tl.store(dbias_ptr + row * width + d, dbias, mask=here)


@triton.jit
def _step(
    state_ptr, x_ptr, dt_ptr, weight_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, y_ptr, width,
    x_b, dt_b, B_b, C_b, z_b,
    N: tl.constexpr, NP: tl.constexpr, BD: tl.constexpr, RANK: tl.constexpr, RP: tl.constexpr,
    SMOOTH: tl.constexpr, SKIP: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """One position of one batch row and BD channels; state (B, d, n) in place, the last axis of all others dense.

    With a RANK dt is (B, RANK), and weight (d, RANK) makes the time steps of it, rounded to dt's dtype.
    """
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    n = tl.arange(0, NP)
    here, some = d < width, n < N
    cells = here[:, None] & some[None, :]
    state_at = (row * width + d[:, None]) * N + n[None, :]
    A = tl.load(A_ptr + d[:, None] * N + n[None, :], mask=cells, other=0.0)
    state = tl.load(state_ptr + state_at, mask=cells, other=0.0)
    x = tl.load(x_ptr + row * x_b + d, mask=here, other=0.0).to(tl.float32)
    if RANK:
        r = tl.arange(0, RP)
        factors = tl.load(dt_ptr + row * dt_b + r, mask=r < RANK, other=0.0)
        cells_r = here[:, None] & (r < RANK)[None, :]
        weight = tl.load(weight_ptr + d[:, None] * RANK + r[None, :], mask=cells_r, other=0.0).to(tl.float32)
        dt = tl.sum(weight * factors.to(tl.float32)[None, :], 1).to(factors.dtype).to(tl.float32)
    else:
        dt = tl.load(dt_ptr + row * dt_b + d, mask=here, other=0.0).to(tl.float32)
    if BIASED:
        dt += tl.load(bias_ptr + d, mask=here, other=0.0)
    if SMOOTH:
        dt = _softplus(dt)
    B = tl.load(B_ptr + row * B_b + n, mask=some, other=0.0).to(tl.float32)
    C = tl.load(C_ptr + row * C_b + n, mask=some, other=0.0).to(tl.float32)
    # everything is asked for before the store: no load may overtake one
    if SKIP:
        skip = tl.load(D_ptr + d, mask=here, other=0.0)
    if GATED:
        z = tl.load(z_ptr + row * z_b + d, mask=here, other=0.0).to(tl.float32)
    state = tl.exp(dt[:, None] * A) * state + (dt * x)[:, None] * B[None, :]
    tl.store(state_ptr + state_at, state, mask=cells)
    y = tl.sum(state * C[None, :], 1)
    if SKIP:
        y += skip * x
    if GATED:
        y *= z * tl.sigmoid(z)
    tl.store(y_ptr + row * width + d, y, mask=here)


def _power(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def _wide(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float().contiguous()


def _forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
             bias: Tensor | None, smooth: bool, initial: Tensor | None,
             marked: bool) -> tuple[Tensor, ...]:  # fmt: skip
    batch, width, length = u.shape
    n = A.shape[1]
    chunks = triton.cdiv(length, CHUNK)
    A32, D32, bias32, initial32 = _wide(A), _wide(D), _wide(bias), _wide(initial)
    # channels side by side, as the projection that follows wants them
    y = torch.empty(batch, length, width, dtype=u.dtype, device=u.device).transpose(1, 2)
    last = torch.empty(batch, width, n, device=u.device)
    marks = torch.empty(batch, width, chunks if marked else 0, n, device=u.device)
    gate = u if z is None else z
    with torch.cuda.device_of(u):
        _scan_forward[batch, triton.cdiv(width, CHANNELS)](
            u, delta, A32, B, C, A32 if D32 is None else D32, gate, A32 if bias32 is None else bias32,
            last if initial32 is None else initial32, y, last, marks, width, length, chunks,
            *u.stride(), *delta.stride(), *B.stride(), *C.stride(), *gate.stride(), *y.stride(),
            N=n, NP=_power(n), CHUNK=CHUNK, BD=CHANNELS, SMOOTH=smooth, SKIP=D is not None, GATED=z is not None,
            BIASED=bias is not None, STARTED=initial is not None, MARKED=marked,
        )  # fmt: skip
    return y, last, marks


class _Scan(torch.autograd.Function):
    """The scan with its backward kernel."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
                z: Tensor | None, bias: Tensor | None, smooth: bool, initial: Tensor | None) -> Any:  # fmt: skip
        y, last, marks = _forward(u, delta, A, B, C, D, z, bias, smooth, initial, True)
        ctx.save_for_backward(u, delta, A, B, C, D, z, bias, marks)
        ctx.smooth = smooth
        ctx.dtypes = [None if x is None else x.dtype for x in (u, delta, A, B, C, D, z, bias, initial)]
        return y, last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        *given, marks = ctx.saved_tensors
        u, delta, A, B, C, D, z, bias = (_wide(x) for x in given)
        assert u is not None and A is not None and B is not None
        batch, width, length = u.shape
        n = A.shape[1]
        dy, dlast = gradients[0].float().contiguous(), gradients[1].float().contiguous()
        du, ddt, dz = torch.empty_like(u), torch.empty_like(u), torch.empty_like(u)
        dA, dfirst, dB, dC = torch.empty_like(dlast), torch.empty_like(dlast), torch.zeros_like(B), torch.zeros_like(B)
        dD, dbias = torch.empty(2, batch, width, device=u.device)
        with torch.cuda.device_of(u):
            _scan_backward[batch, triton.cdiv(width, CHANNELS)](
                u, delta, A, B, C, A if D is None else D, u if z is None else z, A if bias is None else bias, marks, dy,
                dlast, du, ddt, dz, dA, dB, dC, dD, dbias, dfirst, width, length, marks.shape[2],
                N=n, NP=_power(n), CHUNK=CHUNK, BD=CHANNELS, SMOOTH=ctx.smooth, SKIP=D is not None, GATED=z is not None,
                BIASED=bias is not None,
            )  # fmt: skip
        values = (du, ddt, dA.sum(0), dB, dC, dD.sum(0), dz, dbias.sum(0), dfirst)
        out = [None if kind is None else value.to(kind) for value, kind in zip(values, ctx.dtypes, strict=True)]
        return (*out[:8], None, out[8])


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    initial_state: Tensor | None = None,
    return_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """See `kernels.selective_scan`."""
    given = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given):
        y, last = _Scan.apply(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state)
    else:
        y, last, _ = _forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, False)
    return y, last if return_state else None


def dense(tensor: Tensor) -> Tensor:
    """The same tensor where its last axis is dense; rows may lie further apart."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


@torch.no_grad()
def selective_step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = True,
    weight: Tensor | None = None,
) -> Tensor:
    """See `kernels.selective_step`; one kernel, capturable in a CUDA graph. `weight` (d, r): dt is (B, r) instead."""
    if not state.is_contiguous() or state.dtype != torch.float32:
        raise ValueError(f"the state must be contiguous float32, got {state.dtype} with strides {state.stride()}")
    batch, width, n = state.shape
    x, dt, B, C = (dense(value) for value in (x, dt, B, C))
    gate = x if z is None else dense(z)
    A32, D32, bias32 = _wide(A), _wide(D), _wide(dt_bias)
    y = torch.empty(batch, width, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(state):
        _step[batch, triton.cdiv(width, STEP_CHANNELS)](
            state, x, dt, x if weight is None else weight, A32, B, C, A32 if D32 is None else D32, gate,
            A32 if bias32 is None else bias32, y, width,
            x.stride(0), dt.stride(0), B.stride(0), C.stride(0), gate.stride(0),
            N=n, NP=_power(n), BD=STEP_CHANNELS, RANK=0 if weight is None else weight.shape[1],
            RP=1 if weight is None else _power(weight.shape[1]), SMOOTH=dt_softplus, SKIP=D is not None,
            GATED=z is not None, BIASED=dt_bias is not None,
        )  # fmt: skip
    return y


def projected_step(state: Tensor, x: Tensor, dt: Tensor, weight: Tensor, *scanned: Tensor | None) -> Tensor:
    """See `kernels.projected_step`; one kernel for few rows, each of which reads the whole weight."""
    if x.shape[0] > PROJECTED_ROWS:
        return selective_step(state, x, F.linear(dt, weight), *scanned)  # type: ignore[arg-type]
    return selective_step(state, x, dt, *scanned, weight=weight.contiguous())  # type: ignore[arg-type,misc]
