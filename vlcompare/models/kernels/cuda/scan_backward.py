"""The scan's gradients as a Triton kernel for CUDA, chunk by chunk from the last to the first; see `scan`."""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlcompare.models.kernels.cuda.common import then, time_steps, wide
from vlcompare.models.kernels.reference import ScanInputs

CHUNK = 16  # positions scanned at once
CHANNELS = 8  # channels of one program: with 16 states one channel's state for each thread of four warps


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
        dt, after = time_steps(raw, there, SMOOTH), time_steps(after, following, SMOOTH)
        small = (t < length)[:, None] & (n < N)[None, :]
        small_at = (row * N + n[None, :]) * length + t[:, None]
        B = tl.load(B_ptr + small_at, mask=small, other=0.0)
        C = tl.load(C_ptr + small_at, mask=small, other=0.0)
        mark_at = ((row * width + d[:, None]) * chunks + chunk) * N + n[None, :]
        mark = tl.load(marks_ptr + mark_at, mask=cells, other=0.0)
        decay = tl.exp(dt[:, :, None] * A[None, :, :])
        drive = (dt * u)[:, :, None] * B[:, None, :]
        past = tl.where(begins, decay * mark[None, :, :], 0.0)
        _, h = tl.associative_scan((decay, drive + past), 0, then)
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
        _, g = tl.associative_scan((factor, dy[:, :, None] * C[:, None, :] + future), 0, then, reverse=True)
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


def backward(values: list[Any], marks: Tensor, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the values of a ScanInputs, in float32; marks (B, d, c, n): the state before each chunk."""
    inputs = ScanInputs(*values)
    u, delta, A, B, C, D, z, bias = (wide(x) for x in inputs[:8])
    assert u is not None and A is not None and B is not None
    batch, width, _ = u.shape
    n = A.shape[1]
    dy, dlast = dy.float().contiguous(), dlast.float().contiguous()
    du, ddt, dz = torch.empty_like(u), torch.empty_like(u), torch.empty_like(u)
    dA, dfirst, dB, dC = torch.empty_like(dlast), torch.empty_like(dlast), torch.zeros_like(B), torch.zeros_like(B)
    dD, dbias = torch.empty(2, batch, width, device=u.device)
    with torch.cuda.device_of(u):
        _scan_backward[batch, triton.cdiv(width, CHANNELS)](
            u, delta, A, B, C, A if D is None else D, u if z is None else z, A if bias is None else bias, marks, dy,
            dlast, du, ddt, dz, dA, dB, dC, dD, dbias, dfirst, width, u.shape[2], marks.shape[2],
            N=n, NP=triton.next_power_of_2(n), CHUNK=CHUNK, BD=CHANNELS, SMOOTH=inputs.softplus, SKIP=D is not None,
            GATED=z is not None, BIASED=bias is not None,
        )  # fmt: skip
    return du, ddt, dA.sum(0), dB, dC, dD.sum(0), dz, dbias.sum(0), dfirst, None
