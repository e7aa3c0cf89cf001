"""One-row products with 4-bit NormalFloat weights (NF4, arXiv 2305.14314, section 3) as a Triton kernel for CUDA.

Knows bitsandbytes' storage: two numbers a byte, the first one in the upper half; row after row; one float32 scale
(absmax) for each block of consecutive numbers. At one row a product is bound by memory and, close behind, by the number
of instructions: the kernel reads eight numbers as one word, a few words ahead of their use, looks each value up in a
table that a warp holds in its registers, and adds. Sums are float32, always in the same order.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlcompare.models.kernels.cuda.common import early
from vlcompare.models.kernels.packed_format import BLOCK, nf4_code
from vlcompare.models.kernels.reference import Nf4Weight

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
    EARLY: tl.constexpr,
):  # fmt: skip
    """y[row, o] for ROWS outputs. A block of numbers is WORDS words; a row of weights is a whole number of blocks."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
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
    if EARLY:
        tl.extra.cuda.gdc_wait()
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

    More rows would be right, too, but each looks all values up again.
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
    block: int = BLOCK,
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
            **early(x.device),
        )  # fmt: skip
    return y.view(*x.shape[:-1], outputs)


@torch.no_grad()
def nf4_product(x: Tensor, weight: Nf4Weight, bias: Tensor | None) -> Tensor | None:
    """See `reference.nf4_product`; None where `product` does not apply."""
    if not applies(x, weight.columns, BLOCK):
        return None
    return product(x, weight.packed, weight.absmax, _code(x.device), weight.rows, bias=bias)


@functools.cache
def _code(device: torch.device) -> Tensor:
    """The sixteen values, there before anything is recorded: a copy from the host cannot be."""
    with torch.inference_mode(False):
        return nf4_code(device)
