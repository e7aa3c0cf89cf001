"""One-row products with 4-bit NormalFloat weights (NF4, arXiv 2305.14314, section 3) as a Triton kernel for CUDA.

Knows bitsandbytes' storage: two numbers a byte, the first one in the upper half; row after row; one float32 scale
(absmax) for each block of consecutive numbers. At one row a product is bound by memory and, close behind, by the number
of instructions: the kernel reads eight numbers as one word, a few words ahead of their use, looks each value up in a
table that a warp holds in its registers, and adds. Sums are float32, always in the same order.
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

from vlcompare.models.kernels import fallback
from vlcompare.models.kernels.cuda.graph_capture import recording

ROWS = 4  # output rows of one program, which is a single warp
NUMBERS = 512  # weights of a row that a program reads at once: 16 bytes a thread, two rows side by side


@triton.jit
def _read(words_ptr, absmax_ptr, o, block, outputs, blocks, WORDS: tl.constexpr):
    """Some blocks of the rows o, (ROWS, GROUPS, WORDS) of eight numbers each, and their scales."""
    some = (o < outputs)[:, None] & (block < blocks)[None, :]
    at = o[:, None].to(tl.int64) * blocks + block[None, :]
    word_at = at[:, :, None] * WORDS + tl.arange(0, WORDS)[None, None, :]
    words = tl.load(words_ptr + word_at, mask=some[:, :, None], other=0)
    return words, tl.load(absmax_ptr + at, mask=some, other=0.0)


@triton.jit
def _value(code, words, SHIFT: tl.constexpr):
    """The values of one of the eight numbers of each word. The table lies in registers: a shuffle, no memory."""
    index = tl.reshape((words >> SHIFT) & 15, (words.numel,))
    return tl.reshape(tl.gather(code, index, 0), words.shape)


@triton.jit
def _product(
    x_ptr, words_ptr, absmax_ptr, code_ptr, bias_ptr, y_ptr, inputs, outputs, x_b,
    WORDS: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """y[row, o] for ROWS outputs. A block of numbers is WORDS words; a row of weights is a whole number of blocks."""
    row = tl.program_id(1)
    o = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group, number = tl.arange(0, GROUPS), tl.arange(0, GROUPS * WORDS * 8)
    blocks = inputs // (8 * WORDS)
    # the weights of three turns are on their way at any time: a turn alone is far too little for the memory's latency
    words, scale = _read(words_ptr, absmax_ptr, o, group, outputs, blocks, WORDS)
    words_1, scale_1 = _read(words_ptr, absmax_ptr, o, group + GROUPS, outputs, blocks, WORDS)
    code = tl.load(code_ptr + tl.arange(0, 16))
    y = tl.zeros((ROWS,), tl.float32)
    if BIASED:
        y = tl.load(bias_ptr + o, mask=o < outputs, other=0.0).to(tl.float32)
    x_next = tl.load(x_ptr + row * x_b + number, mask=number < inputs, other=0.0)
    sums = tl.zeros((ROWS, GROUPS), tl.float32)
    for begin in range(0, blocks, GROUPS):
        words_2, scale_2 = _read(words_ptr, absmax_ptr, o, begin + 2 * GROUPS + group, outputs, blocks, WORDS)
        x = x_next.to(tl.float32)
        k = (begin + GROUPS) * (8 * WORDS) + number
        x_next = tl.load(x_ptr + row * x_b + k, mask=k < inputs, other=0.0)
        even, odd = tl.split(tl.reshape(x, (GROUPS, WORDS, 4, 2)))
        x04, x26 = tl.split(tl.reshape(even, (GROUPS, WORDS, 2, 2)))
        x15, x37 = tl.split(tl.reshape(odd, (GROUPS, WORDS, 2, 2)))
        x0, x4 = tl.split(x04)
        x1, x5 = tl.split(x15)
        x2, x6 = tl.split(x26)
        x3, x7 = tl.split(x37)
        # bytes from the lowest one on, and in each byte the upper half first
        part = _value(code, words, 4) * x0[None, :, :]
        part += _value(code, words, 0) * x1[None, :, :]
        part += _value(code, words, 12) * x2[None, :, :]
        part += _value(code, words, 8) * x3[None, :, :]
        part += _value(code, words, 20) * x4[None, :, :]
        part += _value(code, words, 16) * x5[None, :, :]
        part += _value(code, words, 28) * x6[None, :, :]
        part += _value(code, words, 24) * x7[None, :, :]
        sums += tl.sum(part, 2) * scale
        words, scale, words_1, scale_1 = words_1, scale_1, words_2, scale_2
    y += tl.sum(sums, 1)
    tl.store(y_ptr + row * outputs + o, y, mask=o < outputs)


def applies(x: Tensor, inputs: int, block: int) -> bool:
    """Whether `product` is to take a product of these sizes: one row, and rows of weights that end with a block.

    More rows would be right, too, but each looks all values up again, and none was set beside bitsandbytes' time.
    """
    rows = x.numel() // max(1, x.shape[-1])
    return rows == 1 and inputs % block == 0 and 8 <= block <= NUMBERS and block & (block - 1) == 0


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
    words = packed.view(-1).view(torch.int32)
    y = torch.empty(rows.shape[0], outputs, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        _product[triton.cdiv(outputs, ROWS), rows.shape[0]](
            rows, words, absmax, code, code if bias is None else bias, y, inputs, outputs, rows.stride(0),
            WORDS=block // 8, ROWS=ROWS, GROUPS=NUMBERS // block, BIASED=bias is not None, num_warps=1,
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
    """Let the kernel above do the products of one row of bitsandbytes' NF4 layers on CUDA; more rows stay theirs.

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
    call = functools.partial(product, bias=bias, block=state.blocksize)
    y = fallback.attempt("triton", call, x, weight.data, state.absmax, state.code.float(), outputs)
    return otherwise(x) if y is None else y
