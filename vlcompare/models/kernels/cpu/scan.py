"""The scan over many positions on CPU, forward and backward: tensors to and from the loops of `scan_loops`.

float32 inside; bfloat16 inputs are read as they are. As many threads as torch uses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlcompare.models.kernels import reference
from vlcompare.models.kernels.autograd import Differentiable, Kernel, needs_gradient
from vlcompare.models.kernels.cpu import scan_loops as loops
from vlcompare.models.kernels.cpu.arrays import LOOP_DTYPES, flat
from vlcompare.models.kernels.cpu.openmp import threads
from vlcompare.models.kernels.cpu.simd import LOG2E, WIDTH
from vlcompare.models.kernels.reference import ScanInputs

_NOTHING = np.zeros(0, np.float32)
_STRETCH = 8  # positions whose states the backward pass holds at once: 2 x 8 KB at 16 states


def usable(device: torch.device) -> bool:
    """numba compiles for the processor that it runs on, so that only the device matters."""
    return device.type == "cpu"


def _rows(tensor: Tensor, width: int, dtype: torch.dtype | None = None) -> Tensor:
    """(B, d, L) -> contiguous (B, L, width), channels padded with zeros; free where they lie side by side."""
    if tensor.dtype not in LOOP_DTYPES:
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

    def __init__(self, inputs: ScanInputs, dtype: torch.dtype | None = None) -> None:
        u, delta, A, B, C, D, z, bias, initial, softplus = inputs
        self.batch, self.channels, self.length = u.shape
        self.n = A.shape[1]
        self.width = -(-self.channels // WIDTH) * WIDTH
        self.flags = (1 if softplus else 0) | (2 if z is not None else 0)
        self.u, self.dt = _rows(u, self.width, dtype), _rows(delta, self.width, dtype)
        # without a gate, any array of the right dtype is passed; it is never read
        self.z = self.u if z is None else _rows(z, self.width, dtype)
        self.A2 = F.pad(A.detach().float().t(), (0, self.width - self.channels)).contiguous() * LOG2E
        self.B, self.C = (x.detach().float().transpose(1, 2).contiguous() for x in (B, C))
        self.D, self.bias = _vector(D, self.width), _vector(bias, self.width)
        self.initial = initial

    def arrays(self) -> list[Any]:
        return [flat(x) for x in (self.u, self.dt, self.z, self.A2, self.B, self.C, self.D, self.bias)]

    def sizes(self, every: int) -> tuple[int, int, int, int, int]:
        return self.length, self.width, self.n, every, self.flags

    def forward(self, every: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
        """y (B, L, width), the last state (B, n, width), and the states before each stretch of `every` positions."""
        state = _states(self.initial, self.batch, self.n, self.width)
        y = torch.empty(self.batch, self.length, self.width, dtype=self.u.dtype)
        marks = torch.empty(self.batch, -(-self.length // every), self.n, self.width) if every else None
        stored = _NOTHING if marks is None else flat(marks)
        loops.forward(*self.arrays(), flat(state), stored, flat(y), self.sizes(every), self.batch, threads())
        return y, state, marks

    def unpad(self, rows: Tensor) -> Tensor:
        """(B, L, width) -> (B, d, L) without padding."""
        return rows[:, :, : self.channels].transpose(1, 2)

    def outputs(self, y: Tensor, state: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.unpad(y).to(dtype), state[:, :, : self.channels].transpose(1, 2)


def _forward(*values: Any) -> tuple[tuple[Tensor, Tensor], tuple[_Call, Tensor | None]]:
    call = _Call(ScanInputs(*values), torch.float32)
    y, state, marks = call.forward(_STRETCH)
    return call.outputs(y, state, values[0].dtype), (call, marks)


def _backward(inputs: list[Any], kept: tuple[_Call, Tensor], dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
    call, marks = kept
    batch, length, n, width, channels = call.batch, call.length, call.n, call.width, call.channels
    dy, dlast = _rows(dy, width, torch.float32), _states(dlast, batch, n, width)
    du, ddt = torch.empty_like(dy), torch.empty_like(dy)
    dz = torch.empty_like(dy) if call.flags & 2 else du
    dA, dfirst = torch.zeros_like(dlast), dlast.clone()
    dsums = torch.zeros(batch, 2, width)
    groups = -(-width // (loops.GROUP * WIDTH))
    dB, dC = torch.empty(2, groups, batch, length, n)
    others = (flat(x) for x in (marks, dy, dlast, du, ddt, dz, dA, dB, dC, dsums, dfirst))
    loops.backward(*call.arrays(), *others, call.sizes(_STRETCH), batch, threads())
    dD, dbias = dsums.sum(0)[:, :channels]
    return (
        call.unpad(du), call.unpad(ddt), dA.sum(0).t()[:channels], dB.sum(0).transpose(1, 2),
        dC.sum(0).transpose(1, 2), dD, call.unpad(dz), dbias, dfirst[:, :, :channels].transpose(1, 2), None,
    )  # fmt: skip


_SCAN = Kernel("numba", _forward, _backward, lambda *values: reference.selective_scan(ScanInputs(*values)))


def selective_scan(inputs: ScanInputs) -> tuple[Tensor, ...]:
    """See `dispatch.selective_scan`."""
    if needs_gradient(*inputs):
        return Differentiable.apply(_SCAN, *inputs)  # type: ignore[no-any-return]
    call = _Call(inputs)
    y, state, _ = call.forward()
    return call.outputs(y, state, inputs.u.dtype)
