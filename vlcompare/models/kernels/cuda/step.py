"""One position of the scan as a Triton kernel for CUDA, capturable in a CUDA graph. Names as in `reference`."""

# the kernels' arguments are pointers and numbers that Triton types itself
# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlcompare.models.kernels.cuda.common import dense, softplus, wide
from vlcompare.models.kernels.reference import ScanInputs

CHANNELS = 32  # of one program
PROJECTED_ROWS = 4  # with more rows, a separate product reads the projection's weight less often


@triton.jit
def _step(
    state_ptr, x_ptr, dt_ptr, weight_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, y_ptr, width,
    x_b, dt_b, B_b, C_b, z_b,
    N: tl.constexpr, NP: tl.constexpr, BD: tl.constexpr, RANK: tl.constexpr, RP: tl.constexpr,
    SMOOTH: tl.constexpr, SKIP: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """One position of one batch row and BD channels; state (B, d, n) in place, the last axis of all others dense.

    If RANK > 0, dt is (B, RANK) and is projected to time steps by weight (d, RANK), rounded to dt's dtype.
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
        dt = softplus(dt)
    B = tl.load(B_ptr + row * B_b + n, mask=some, other=0.0).to(tl.float32)
    C = tl.load(C_ptr + row * C_b + n, mask=some, other=0.0).to(tl.float32)
    # all loads precede the store, so that none is reordered across it
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


@torch.no_grad()
def selective_step(state: Tensor, inputs: ScanInputs, weight: Tensor | None = None) -> Tensor:
    """See `dispatch.selective_step`, or with a `weight` (d, r) `dispatch.projected_step`."""
    if not state.is_contiguous() or state.dtype != torch.float32:
        raise ValueError(f"the state must be contiguous float32, got {state.dtype} with strides {state.stride()}")
    batch, width, n = state.shape
    x, dt, B, C = (dense(value) for value in (inputs.u, inputs.delta, inputs.B, inputs.C))
    gate = x if inputs.z is None else dense(inputs.z)
    A32, D32, bias32 = wide(inputs.A), wide(inputs.D), wide(inputs.delta_bias)
    rank = 0 if weight is None else weight.shape[1]
    y = torch.empty(batch, width, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(state):
        _step[batch, triton.cdiv(width, CHANNELS)](
            state, x, dt, x if weight is None else weight.contiguous(), A32, B, C, A32 if D32 is None else D32, gate,
            A32 if bias32 is None else bias32, y, width,
            x.stride(0), dt.stride(0), B.stride(0), C.stride(0), gate.stride(0),
            N=n, NP=triton.next_power_of_2(n), BD=CHANNELS, RANK=rank, RP=triton.next_power_of_2(max(1, rank)),
            SMOOTH=inputs.softplus, SKIP=D32 is not None, GATED=inputs.z is not None, BIASED=bias32 is not None,
        )  # fmt: skip
    return y


def projected_step(state: Tensor, inputs: ScanInputs, weight: Tensor) -> Tensor | None:
    """See `dispatch.projected_step`; for few rows, each of which reads the whole weight."""
    return selective_step(state, inputs, weight) if inputs.u.shape[0] <= PROJECTED_ROWS else None
