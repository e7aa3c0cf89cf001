"""One-row products with 4-bit NormalFloat weights (NF4, arXiv 2305.14314, section 3) as a Triton kernel for CUDA.

Knows bitsandbytes' storage: two numbers a byte, the first one in the upper half; row after row; one float32 scale
(absmax) for each block of consecutive numbers. At one row a product is bound by memory, so the kernel does nothing but
read each byte once, look its two values up, and add. Sums are float32. Knows nothing of layers or of how to quantize.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from vlcompare.models.kernels.recording import recording

ROWS = 4  # output rows of one program
GROUPS = 16  # blocks of one row that are read at once: 512 bytes at the usual block of 64 numbers


@triton.jit
def _product(
    x_ptr, packed_ptr, absmax_ptr, code_ptr, bias_ptr, y_ptr, inputs, outputs, x_b,
    HALF: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """y[row, o] for ROWS outputs. A block of numbers is HALF bytes; a row of weights is a whole number of blocks."""
    row = tl.program_id(1)
    o = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group, byte = tl.arange(0, GROUPS), tl.arange(0, HALF)
    blocks = inputs // (2 * HALF)
    sums = tl.zeros((ROWS, GROUPS), tl.float32)
    for begin in range(0, blocks, GROUPS):
        block = begin + group
        some = (o < outputs)[:, None] & (block < blocks)[None, :]
        at = o[:, None].to(tl.int64) * blocks + block[None, :]
        pairs = tl.load(packed_ptr + at[:, :, None] * HALF + byte[None, None, :], mask=some[:, :, None], other=0)
        pairs = pairs.to(tl.int32)
        place = row * x_b + (block[:, None] * HALF + byte[None, :]) * 2
        real = (block < blocks)[:, None]
        even = tl.load(x_ptr + place, mask=real, other=0.0).to(tl.float32)
        odd = tl.load(x_ptr + place + 1, mask=real, other=0.0).to(tl.float32)
        high, low = tl.load(code_ptr + (pairs >> 4)), tl.load(code_ptr + (pairs & 15))
        values = high * even[None, :, :] + low * odd[None, :, :]
        sums += tl.sum(values, 2) * tl.load(absmax_ptr + at, mask=some, other=0.0)
    y = tl.sum(sums, 1)
    if BIASED:
        y += tl.load(bias_ptr + o, mask=o < outputs, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * outputs + o, y, mask=o < outputs)


def applies(x: Tensor, inputs: int, block: int) -> bool:
    """Whether `product` takes a product of these sizes: few rows, and rows of weights that end with a block."""
    rows = x.numel() // max(1, x.shape[-1])
    return 1 <= rows <= 4 and inputs % block == 0 and block >= 2 and block & (block - 1) == 0


def product(
    x: Tensor,
    packed: Tensor,
    absmax: Tensor,
    code: Tensor,
    outputs: int,
    *,
    bias: Tensor | None = None,
    block: int = 64,
) -> Tensor:
    """x (..., K) times the quantized weights (outputs, K), transposed, + bias; in x's dtype.

    packed: outputs x K / 2 bytes in any shape. absmax: float32, one for each `block` numbers (nested statistics already
    resolved). code: the sixteen values, float32.
    """
    inputs = x.shape[-1]
    rows = x.reshape(-1, inputs).contiguous()
    y = torch.empty(rows.shape[0], outputs, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        _product[triton.cdiv(outputs, ROWS), rows.shape[0]](
            rows, packed, absmax, code, code if bias is None else bias, y, inputs, outputs, rows.stride(0),
            HALF=block // 2, ROWS=ROWS, GROUPS=GROUPS, BIASED=bias is not None,
        )  # fmt: skip
    return y.view(*x.shape[:-1], outputs)


def take_over_where_faster(model: nn.Module) -> bool:
    """`take_over` if the kernel above gives bitsandbytes' numbers on this device and takes less time; else nothing.

    Each layer of the model once, as a decode step has them, replayed from a CUDA graph: what the host adds to a launch
    is in neither time. Anything that goes wrong leaves bitsandbytes' kernels in place.
    """
    layers = _layers(model)
    if not layers:
        return False
    try:
        with torch.inference_mode():
            rows = {id(layer): _row(layer) for layer in layers}
            theirs = [layer(rows[id(layer)]) for layer in layers]
            before = _replayed_ms(layers, rows)
            take_over(model)
            close = all(_close(layer(rows[id(layer)]), truth) for layer, truth in zip(layers, theirs, strict=True))
            if close and _replayed_ms(layers, rows) < before:
                return True
    except Exception:  # whatever a driver or a compiler raises
        pass
    take_over(model, False)
    return False


def _row(layer: nn.Module) -> Tensor:
    state: Any = layer.quant_state
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, state.shape[1], generator=generator).to(layer.weight.device, torch.bfloat16)  # type: ignore[arg-type]


def _close(ours: Tensor, theirs: Tensor) -> bool:
    scale = float(theirs.abs().max())
    return bool(torch.isfinite(ours).all()) and float((ours.float() - theirs.float()).abs().max()) <= 2e-2 * scale


def _replayed_ms(layers: list[nn.Module], rows: dict[int, Tensor]) -> float:
    """Median milliseconds of all layers one after the other."""
    device = next(iter(rows.values())).device
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # first calls set libraries up, which no recording allows
            for layer in layers:
                layer(rows[id(layer)])
        torch.cuda.current_stream().wait_stream(side)
        with recording(device, side) as graph:
            for layer in layers:
                layer(rows[id(layer)])
        times = []
        for _ in range(7):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def take_over(model: nn.Module, on: bool = True) -> int:
    """Let the kernel above do the products of few rows of bitsandbytes' NF4 layers on CUDA; many rows stay theirs.

    `on=False` gives everything back. Returns how many layers it concerns.
    """
    layers = _layers(model)
    for module in layers:
        module.__dict__.pop("forward", None)
        if on:
            module.__dict__["forward"] = functools.partial(_forward, module, module.forward)
    return len(layers)


def _layers(model: nn.Module) -> list[nn.Module]:
    """bitsandbytes' NF4 layers on CUDA whose scales are plain float32."""
    found = []
    for module in model.modules():
        state, weight = getattr(module, "quant_state", None), getattr(module, "weight", None)
        if state is not None and weight is not None and weight.is_cuda and state.absmax.dtype == torch.float32:
            found.append(module)
    return found


def _forward(module: nn.Module, otherwise: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    state: Any = module.quant_state
    outputs, inputs = state.shape
    if not applies(x, inputs, state.blocksize):
        return otherwise(x)
    weight: Any = module.weight
    bias: Any = module.bias
    return product(x, weight.data, state.absmax, state.code.float(), outputs, bias=bias, block=state.blocksize)
