"""The scan over many positions as a Triton kernel for CUDA; `scan_backward` has its gradients. Names as in `reference`.

State and sums are float32; inputs of any float dtype and any strides. The scan takes a chunk of positions at once with
an associative scan over pairs (decay, drive), as section 3.3.2 of the paper does (arXiv 2312.00752): (a1, b1) then
(a2, b2) is (a2 a1, a2 b1 + b2); the state passes from chunk to chunk in registers. Positions are a tile's first axis,
which Triton spreads over threads last: all positions of a chunk then lie in the registers of one thread, and the scan
is a loop without any exchange between threads. The forward pass for training stores the state before each chunk
("marks"); the backward pass computes the rest again. Triton launches on the current device, so that every launch here
first selects the tensors' device.
"""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlcompare.models.kernels import reference
from vlcompare.models.kernels.autograd import Differentiable, Kernel, needs_gradient
from vlcompare.models.kernels.cuda.common import then, tile, time_steps, wide
from vlcompare.models.kernels.cuda.scan_backward import CHANNELS, CHUNK, backward
from vlcompare.models.kernels.reference import ScanInputs


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
    u_next, dt_next = tile(u_ptr, t, d, u_l, u_d, length, width), tile(dt_ptr, t, d, dt_l, dt_d, length, width)
    B_next, C_next = tile(B_ptr, t, n, B_l, B_n, length, N), tile(C_ptr, t, n, C_l, C_n, length, N)
    if GATED:
        z_next = tile(z_ptr, t, d, z_l, z_d, length, width)
    for chunk in range(chunks):
        there = (t < length)[:, None] & here[None, :]
        if MARKED:
            mark_at = ((row * width + d[:, None]) * chunks + chunk) * N + n[None, :]
            tl.store(marks_ptr + mark_at, state, mask=cells)
        u, dt, B, C = u_next.to(tl.float32), dt_next.to(tl.float32), B_next.to(tl.float32), C_next.to(tl.float32)
        # the next chunk is on its way while this one is computed
        u_next = tile(u_ptr, t + CHUNK, d, u_l, u_d, length, width)
        dt_next = tile(dt_ptr, t + CHUNK, d, dt_l, dt_d, length, width)
        B_next = tile(B_ptr, t + CHUNK, n, B_l, B_n, length, N)
        C_next = tile(C_ptr, t + CHUNK, n, C_l, C_n, length, N)
        if GATED:
            z = z_next.to(tl.float32)
            z_next = tile(z_ptr, t + CHUNK, d, z_l, z_d, length, width)
        dt = time_steps(dt + bias[None, :], there, SMOOTH)
        decay = tl.exp(dt[:, :, None] * A[None, :, :])
        drive = (dt * u)[:, :, None] * B[:, None, :]
        drive += tl.where(begins, decay * state[None, :, :], 0.0)
        _, h = tl.associative_scan((decay, drive), 0, then)
        y = tl.sum(h * C[:, None, :], 2) + skip[None, :] * u
        if GATED:
            y *= z * tl.sigmoid(z)
        tl.store(y_ptr + row * y_b + t[:, None] * y_l + d[None, :] * y_d, y, mask=there)
        state = tl.sum(tl.where(ends, h, 0.0), 0)
        t += CHUNK
    tl.store(last_ptr + state_at, state, mask=cells)


def _forward(inputs: ScanInputs, marked: bool) -> tuple[Tensor, Tensor, Tensor]:
    u, delta, A, B, C, D, z, bias, initial, softplus = inputs
    batch, width, length = u.shape
    n = A.shape[1]
    chunks = triton.cdiv(length, CHUNK)
    A32, D32, bias32, initial32 = wide(A), wide(D), wide(bias), wide(initial)
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
            N=n, NP=triton.next_power_of_2(n), CHUNK=CHUNK, BD=CHANNELS, SMOOTH=softplus, SKIP=D is not None,
            GATED=z is not None, BIASED=bias is not None, STARTED=initial is not None, MARKED=marked,
        )  # fmt: skip
    return y, last, marks


def _forward_for_training(*values: Any) -> tuple[tuple[Tensor, Tensor], Tensor]:
    y, last, marks = _forward(ScanInputs(*values), True)
    return (y, last), marks


_SCAN = Kernel("triton", _forward_for_training, backward, lambda *values: reference.selective_scan(ScanInputs(*values)))


def selective_scan(inputs: ScanInputs) -> tuple[Tensor, ...]:
    """See `dispatch.selective_scan`."""
    return Differentiable.apply(_SCAN, *inputs) if needs_gradient(*inputs) else _forward(inputs, False)[:2]
