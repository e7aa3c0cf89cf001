"""One position through all layers on CPU: tensors to and from the loops of `mamba_stack_loops`, `pythia_stack_loops`.

What a model's weights contribute is prepared once (`prepare`): a table of addresses, and the tensors behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlcompare.models.kernels.cpu import mamba_stack_loops, pythia_stack_loops
from vlcompare.models.kernels.cpu.arrays import LOOP_DTYPES
from vlcompare.models.kernels.cpu.openmp import threads
from vlcompare.models.kernels.cpu.packed_simd import UNIT
from vlcompare.models.kernels.cpu.simd import WIDTH
from vlcompare.models.kernels.cpu.stack_loops import FLOAT, HALF, INT8, NF4
from vlcompare.models.kernels.packed_format import BLOCK
from vlcompare.models.kernels.stack_parts import LayerParts, LinearParts, NormParts, StackParts

_KINDS = {"nf4": NF4, "int8": INT8}
_LINE = 128  # bytes between buffers of different threads: two cache lines, since processors fetch pairs


class Stack(NamedTuple):
    """A model's weights for `step`. table: the loops' integers; kept: the tensors at the addresses in it."""

    parts: StackParts
    table: Any
    kept: list[Tensor]
    run: Callable[..., Any]
    widest: int  # inputs of any packed Linear, in whole units


def prepare(parts: StackParts, variant: str) -> Stack | None:
    """The table for layers whose sizes, dtypes and layouts the loops take; None for others.

    variant: of packed products, "" where there are none.
    """
    parts = parts._replace(layers=tuple(_padded(layer) for layer in parts.layers)) if parts.family == "mamba" else parts
    if not _fits(parts):
        return None
    kept: list[Tensor] = []
    table: list[int] = []
    for layer in parts.layers:
        for norm in layer.norms:
            table += _norm(norm, kept)
        for linear in layer.linears:
            table += _linear(linear, kept)
        table += [_floats(tensor, kept) for tensor in layer.tensors]
    table += _norm(parts.last, kept)
    loops: Any = mamba_stack_loops if parts.family == "mamba" else pythia_stack_loops
    packed = [linear.inputs for layer in parts.layers for linear in layer.linears if linear.method]
    widest = -(-max(packed, default=0) // UNIT) * UNIT
    return Stack(parts, np.array(table, np.int64), kept, loops.stack(variant), widest)


def step(stack: Stack, x: Tensor, state: Sequence[Tensor]) -> Tensor | None:
    """x (B, D) through all layers and the last norm, in its dtype; the state's tensors are changed in place.

    state: of Mamba windows (layers, B, d, k - 1) and states (layers, B, d, n), float32; of Pythia keys and values
    (layers, B, H, S, K), the new positions (B,), and the rotary tables (S, R).
    """
    work = (_mamba if stack.parts.family == "mamba" else _pythia)(stack, x, state)
    if work is None:
        return None
    count = threads()
    scratch, places = _places(work, count)
    out = scratch[places[0] * count :][: 4 * x.numel()].view(torch.float32)
    out.copy_(x.reshape(-1))
    stack.run(stack.table, places, work.sizes, stack.parts.last.eps, count)
    return out.to(x.dtype, copy=True).view(x.shape)


class _Work(NamedTuple):
    """own: bytes of the buffers that each thread has; shared: of those for all, the first holds the embeddings and then
    the result; outside: tensors that the loops reach as well; all in the order of `places`.
    """

    own: list[int]
    shared: list[int]
    outside: list[Tensor]
    sizes: tuple[int, ...]


def _mamba(stack: Stack, x: Tensor, state: Sequence[Tensor]) -> _Work | None:
    windows, states = state
    if not all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in state):
        return None
    rows, width = x.shape
    layers, _, inner, n = states.shape
    rank = stack.parts.layers[0].linears[2].inputs
    own = [*_own(stack, x), 4 * rows * rank, 8 * WIDTH]
    shared = [4 * rows * count for count in (width, 2 * inner, inner, rank + 2 * n, inner, inner)]
    sizes = (rows, layers, width, inner, rank, n, windows.shape[3] + 1, int(stack.parts.last.centred))
    return _Work(own, shared, [windows, states], sizes)


def _pythia(stack: Stack, x: Tensor, state: Sequence[Tensor]) -> _Work | None:
    keys, values, positions, cos, sin = state
    layers, rows, heads, capacity, size = keys.shape
    fits = all(cache.is_contiguous() and cache.dtype == keys.dtype for cache in (keys, values))
    if not fits or keys.dtype not in LOOP_DTYPES or size % WIDTH:
        return None
    width, between = x.shape[1], stack.parts.layers[0].linears[2].outputs
    own = [*_own(stack, x), 4 * size, 4 * (capacity + WIDTH)]
    shared = [4 * rows * count for count in (width, width, 3 * width, between, width)]
    half = int(keys.dtype == torch.bfloat16)
    sizes = (rows, layers, width, heads, cos.shape[1], capacity, between, int(stack.parts.parallel), half)
    angles = [table[positions].float() for table in (cos, sin)]
    return _Work(own, shared, [positions.contiguous(), *angles, keys, values], sizes)


def _own(stack: Stack, x: Tensor) -> list[int]:
    """The residual, its norm, and activations for packed products: scaled, their scales, and rounded."""
    row, packed = 4 * x.numel(), len(x) * stack.widest
    return [row, row, 4 * stack.widest, 4 * (packed // BLOCK), 2 * packed]


def _places(work: _Work, count: int) -> tuple[Tensor, Any]:
    """Scratch for `count` threads; in the loops' order the bytes from one thread's to the next one's, and addresses."""
    own, whole = _offsets(work.own)
    shared, rest = _offsets(work.shared)
    scratch = torch.empty(count * whole + rest, dtype=torch.uint8)
    begin = scratch.data_ptr()
    addresses = [begin + at for at in own] + [begin + count * whole + at for at in shared]
    places = [whole, *addresses, *(tensor.data_ptr() for tensor in work.outside)]
    return scratch, np.array(places, np.int64)


def _offsets(sizes: list[int]) -> tuple[list[int], int]:
    """Where buffers of these sizes begin, and where the last one ends."""
    offsets, at = [], 0
    for size in sizes:
        offsets.append(at)
        at += -(-size // _LINE) * _LINE + _LINE
    return offsets, at


# ---- a model's weights -----------------------------------------------------------------------------------------------


def _padded(layer: LayerParts) -> LayerParts:
    """A Mamba layer whose rank is whole vectors: zeros where there is nothing, in copies of x_proj and dt_proj."""
    into, x_proj, dt_proj, back = layer.linears
    rank, extra = dt_proj.inputs, -dt_proj.inputs % WIDTH
    if not extra or x_proj.method or dt_proj.method or x_proj.bias is not None:
        return layer
    zeros = x_proj.weight.new_zeros(extra, x_proj.inputs)
    chosen = torch.cat((x_proj.weight.detach()[:rank], zeros, x_proj.weight.detach()[rank:]))
    steps = F.pad(dt_proj.weight.detach(), (0, extra))
    x_proj = x_proj._replace(weight=chosen, shape=(x_proj.outputs + extra, x_proj.inputs))
    dt_proj = dt_proj._replace(weight=steps, shape=(dt_proj.outputs, rank + extra))
    return layer._replace(linears=(into, x_proj, dt_proj, back))


def _fits(parts: StackParts) -> bool:
    """Whether the loops take every layer: whole vectors of channels, contiguous weights, one set of sizes."""
    first = parts.layers[0]
    shapes = [linear.shape for linear in first.linears]
    for layer in parts.layers:
        for linear, shape in zip(layer.linears, shapes, strict=True):
            grain = BLOCK if linear.method else WIDTH
            whole = linear.shape == shape and linear.inputs % grain == 0 and linear.outputs % WIDTH == 0
            held = linear.weight.dtype in LOOP_DTYPES or bool(linear.method)
            if not (whole and held and linear.weight.is_contiguous()):
                return False
    states = parts.family == "pythia" or first.tensors[2].shape[1] % WIDTH == 0  # type: ignore[union-attr]
    norms = [norm for layer in parts.layers for norm in layer.norms]
    alike = all((norm.eps, norm.centred) == (parts.last.eps, parts.last.centred) for norm in norms)
    return states and alike and (parts.last.centred or parts.family == "mamba")


def _norm(norm: NormParts, kept: list[Tensor]) -> list[int]:
    return [_floats(norm.weight, kept), _floats(norm.bias, kept, norm.weight.numel())]


def _linear(linear: LinearParts, kept: list[Tensor]) -> list[int]:
    kept += [linear.weight, *([] if linear.absmax is None else [linear.absmax])]
    kind = _KINDS.get(linear.method, HALF if linear.weight.dtype == torch.bfloat16 else FLOAT)
    scales = 0 if linear.absmax is None else linear.absmax.data_ptr()
    return [kind, linear.weight.data_ptr(), scales, _floats(linear.bias, kept, linear.outputs)]


def _floats(tensor: Tensor | None, kept: list[Tensor], size: int = 0) -> int:
    """The address of its numbers in float32, or of as many zeros where there is no tensor."""
    kept.append(torch.zeros(size) if tensor is None else tensor.detach().float().contiguous())
    return kept[-1].data_ptr()
