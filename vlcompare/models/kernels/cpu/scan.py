"""The scan, its step and the convolution on CPU: torch tensors to and from numba's compiled loops.

Knows layouts, threads and autograd; the loops are in `scan_numba`. float32 inside; bfloat16 inputs are read as they
are. As many threads as torch uses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlcompare.models.kernels.cpu import scan_loops as loops
from vlcompare.models.kernels.cpu.simd import LOG2E, WIDTH
from vlcompare.models.kernels.cpu.threads import threads

_NOTHING = np.zeros(0, np.float32)
_STRETCH = 8  # positions whose states the backward pass holds at once: 2 x 8 KB at 16 states


def usable(device: torch.device) -> bool:
    """numba compiles for the processor it runs on, so this is a question of the device alone."""
    return device.type == "cpu"


def flat(tensor: Tensor) -> np.ndarray[Any, Any]:
    """A flat numpy view of a contiguous tensor; bfloat16 as its bits."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.view(-1).numpy()


def _rows(tensor: Tensor, width: int, dtype: torch.dtype | None = None) -> Tensor:
    """(B, d, L) -> contiguous (B, L, width), channels padded with zeros; free where they lie side by side."""
    if tensor.dtype not in (torch.float32, torch.bfloat16):
        dtype = torch.float32
    tensor = tensor.transpose(1, 2).to(dtype or tensor.dtype)
    if tensor.shape[2] != width:
        tensor = F.pad(tensor, (0, width - tensor.shape[2]))
    return tensor.contiguous()


def _vector(tensor: Tensor | None, width: int) -> Tensor:
    if tensor is None:
        return torch.zeros(width)
    return F.pad(tensor.detach().float(), (0, width - tensor.shape[0])).contiguous()


def _states(tensor: Tensor | None, batch: int, n: int, width: int) -> Tensor:
    """(B, d, n) -> a fresh contiguous (B, n, width)."""
    out = torch.zeros(batch, n, width)
    if tensor is not None:
        out[:, :, : tensor.shape[1]] = tensor.detach().transpose(1, 2)
    return out


class _Call:
    """One scan's arguments in the loops' layout; shared by inference and by both passes of training."""

    def __init__(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None,
                 bias: Tensor | None, smooth: bool, dtype: torch.dtype | None) -> None:  # fmt: skip
        self.batch, self.channels, self.length = u.shape
        self.n = A.shape[1]
        self.width = -(-self.channels // WIDTH) * WIDTH
        self.flags = (1 if smooth else 0) | (2 if z is not None else 0)
        self.u, self.dt = _rows(u, self.width, dtype), _rows(delta, self.width, dtype)
        # without a gate any array of the right kind stands in; it is never read
        self.z = self.u if z is None else _rows(z, self.width, dtype)
        self.A2 = F.pad(A.detach().float().t(), (0, self.width - self.channels)).contiguous() * LOG2E
        self.B, self.C = (x.detach().float().transpose(1, 2).contiguous() for x in (B, C))
        self.D, self.bias = _vector(D, self.width), _vector(bias, self.width)

    def sizes(self, every: int) -> tuple[int, int, int, int, int]:
        return self.length, self.width, self.n, every, self.flags

    def forward(self, state: Tensor, every: int, y: Tensor, marks: Tensor | None) -> None:
        """Fills y (B, L, width) and marks; `state` (B, n, width) moves to the end."""
        arrays = [flat(x) for x in (self.u, self.dt, self.z, self.A2, self.B, self.C, self.D, self.bias, state)]
        stored = _NOTHING if marks is None else flat(marks)
        loops.forward(*arrays, stored, flat(y), self.sizes(every), self.batch, threads())

    def unpad(self, rows: Tensor) -> Tensor:
        """(B, L, width) -> (B, d, L) without padding."""
        return rows[:, :, : self.channels].transpose(1, 2)


class _Scan(torch.autograd.Function):
    """The scan with its hand-written backward pass."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
                z: Tensor | None, bias: Tensor | None, smooth: bool, initial: Tensor | None) -> Any:  # fmt: skip
        call = _Call(u, delta, A, B, C, D, z, bias, smooth, torch.float32)
        state = _states(initial, call.batch, call.n, call.width)
        marks = torch.empty(call.batch, -(-call.length // _STRETCH), call.n, call.width)
        y = torch.empty(call.batch, call.length, call.width)
        call.forward(state, _STRETCH, y, marks)
        ctx.call, ctx.marks = call, marks
        ctx.dtypes = [None if x is None else x.dtype for x in (u, delta, A, B, C, D, z, bias, initial)]
        return call.unpad(y).to(u.dtype), state[:, :, : call.channels].transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        call: _Call = ctx.call
        batch, length, n, width, channels = call.batch, call.length, call.n, call.width, call.channels
        dy, dlast = _rows(gradients[0], width, torch.float32), _states(gradients[1], batch, n, width)
        du, ddt = torch.empty_like(dy), torch.empty_like(dy)
        dz = torch.empty_like(dy) if call.flags & 2 else du
        dA, dfirst = torch.zeros_like(dlast), dlast.clone()
        dsums = torch.zeros(batch, 2, width)
        groups = -(-width // (loops.GROUP * WIDTH))
        dB, dC = torch.zeros(2, groups, batch, length, n)
        given = (call.u, call.dt, call.z, call.A2, call.B, call.C, call.D, call.bias, ctx.marks, dy, dlast)
        tensors = (*given, du, ddt, dz, dA, dB, dC, dsums, dfirst)
        loops.backward(*(flat(x) for x in tensors), call.sizes(_STRETCH), batch, threads())
        dD, dbias = dsums.sum(0)[:, :channels]
        values = (
            call.unpad(du),
            call.unpad(ddt),
            dA.sum(0).t()[:channels],
            dB.sum(0).transpose(1, 2),
            dC.sum(0).transpose(1, 2),
            dD,
            call.unpad(dz),
            dbias,
            dfirst[:, :, :channels].transpose(1, 2),
        )
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
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors):
        y, last = _Scan.apply(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state)
        return y, last if return_state else None
    call = _Call(u, delta, A, B, C, D, z, delta_bias, delta_softplus, None)
    state = _states(initial_state, call.batch, call.n, call.width)
    y = torch.empty(call.batch, call.length, call.width, dtype=call.u.dtype)
    call.forward(state, 0, y, None)
    last = state[:, :, : call.channels].transpose(1, 2) if return_state else None
    return call.unpad(y).to(u.dtype), last
