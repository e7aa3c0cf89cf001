"""One-row products with 4-bit NormalFloat weights (NF4, arXiv 2305.14314, section 3) as a Triton kernel for CUDA.

With what is around them, as in `product`: sum and norm of the row, if any; product; GELU.

Knows bitsandbytes' storage: two numbers a byte, the first one in the upper half; row after row; one float32 scale
(absmax) for each block of consecutive numbers. At one row a product is bound by memory and, close behind, by the number
of instructions: the kernel reads eight numbers as one word, a few words ahead of their use, looks each value up in a
table that a warp holds in its registers, and adds. Sums are float32, always in the same order.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,misc"

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from vlcompare.models.kernels.cuda.common import early, entering, eps_of, leaving, total
from vlcompare.models.kernels.packed_format import BLOCK, nf4_code
from vlcompare.models.kernels.reference import Nf4Weight, NormModule

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
def _statistics(
    a_ptr, b_ptr, c_ptr, total_ptr, inputs, eps, TERMS: tl.constexpr, CENTRED: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    """Mean (0 where not CENTRED) and 1 / deviation of a row, TURN numbers at a time; a row of several terms is kept."""
    number = tl.arange(0, TURN)
    sums, squares = tl.zeros((TURN,), tl.float32), tl.zeros((TURN,), tl.float32)
    for begin in range(0, inputs, TURN):
        at = begin + number
        there = at < inputs
        kept = total(a_ptr, b_ptr, c_ptr, at, there, TERMS)
        sums += kept.to(tl.float32)
        if TERMS > 1:  # nobody in this launch reads it
            tl.store(total_ptr + at, kept, mask=there & (tl.program_id(0) == 0))
    mean = 0.0
    if CENTRED:
        mean = tl.sum(sums, 0) / inputs
    for begin in range(0, inputs, TURN):
        at = begin + number
        there = at < inputs
        apart = tl.where(there, total(a_ptr, b_ptr, c_ptr, at, there, TERMS).to(tl.float32) - mean, 0.0)
        squares += apart * apart
    return mean, tl.rsqrt(tl.sum(squares, 0) / inputs + eps)


@triton.jit
def _product(
    a_ptr, b_ptr, c_ptr, norm_weight_ptr, norm_bias_ptr, words_ptr, absmax_ptr, code_ptr, bias_ptr, total_ptr, y_ptr,
    inputs, outputs, eps, WORDS: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr, TERMS: tl.constexpr,
    NORMED: tl.constexpr, CENTRED: tl.constexpr, SHIFTED: tl.constexpr, GELU: tl.constexpr, BIASED: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """ROWS outputs. A block of numbers is WORDS words; a row of weights is a whole number of blocks."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
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
    mean, scale_of_row = 0.0, 1.0
    if NORMED:
        mean, scale_of_row = _statistics(
            a_ptr, b_ptr, c_ptr, total_ptr, inputs, eps, TERMS, CENTRED, GROUPS * WORDS * 8
        )
    there = number < inputs
    rounded = total(a_ptr, b_ptr, c_ptr, number, there, TERMS)
    x_next = entering(rounded, norm_weight_ptr, norm_bias_ptr, number, there, mean, scale_of_row, NORMED, SHIFTED)
    sums = tl.zeros((ROWS, GROUPS), tl.float32)
    for begin in range(0, blocks, GROUPS):
        words_2, scale_2 = _read(words_ptr, absmax_ptr, o, begin + 2 * GROUPS + group, outputs, blocks, WORDS)
        x = x_next
        k = (begin + GROUPS) * (8 * WORDS) + number
        there = k < inputs
        rounded = total(a_ptr, b_ptr, c_ptr, k, there, TERMS)
        x_next = entering(rounded, norm_weight_ptr, norm_bias_ptr, k, there, mean, scale_of_row, NORMED, SHIFTED)
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
    tl.store(y_ptr + o, leaving(y, a_ptr, GELU), mask=o < outputs)


def applies(x: Tensor, inputs: int) -> bool:
    """Whether the kernel takes a product of these sizes: one row, and rows of weights that end with a block."""
    return x.numel() == x.shape[-1] and inputs % BLOCK == 0


def product(
    terms: Sequence[Tensor],
    weight: Nf4Weight,
    code: Tensor,
    *,
    norm: NormModule | None = None,
    bias: Tensor | None = None,
    gelu: bool = False,
) -> tuple[Tensor, Tensor]:
    """The sum of the terms (..., K), which hold one row, and the product of its norm, + bias; in their dtype.

    code: the sixteen values, float32.
    """
    first, *others = [term.contiguous() for term in terms]
    words = weight.packed.view(-1).view(torch.int32)
    whole = torch.empty_like(first) if others else first
    y = first.new_empty(*first.shape[:-1], weight.rows)
    shift = getattr(norm, "bias", None)
    with torch.cuda.device_of(first):
        _product[(triton.cdiv(weight.rows, ROWS),)](
            first, others[0] if others else first, others[-1] if others else first,
            code if norm is None else norm.weight, code if shift is None else shift, words, weight.absmax, code,
            code if bias is None else bias, whole, y, weight.columns, weight.rows,
            0.0 if norm is None else eps_of(norm, first), WORDS=BLOCK // 8, ROWS=ROWS, GROUPS=NUMBERS // BLOCK,
            TERMS=len(terms), NORMED=norm is not None, CENTRED=isinstance(norm, nn.LayerNorm),
            SHIFTED=shift is not None, GELU=gelu, BIASED=bias is not None, num_warps=1, **early(first.device),
        )  # fmt: skip
    return whole, y


@torch.no_grad()
def nf4_product(x: Tensor, weight: Nf4Weight, bias: Tensor | None) -> Tensor | None:
    """See `reference.nf4_product`; None where the kernel does not apply."""
    if not applies(x, weight.columns):
        return None
    return product((x,), weight, _code(x.device), bias=bias)[1]


@torch.no_grad()
def nf4_norm_product(
    terms: Sequence[Tensor], norm: NormModule, weight: Nf4Weight, bias: Tensor | None, gelu: bool
) -> tuple[Tensor, Tensor] | None:
    """See `reference.nf4_norm_product`; up to three terms. None where the kernel does not apply."""
    if not applies(terms[0], weight.columns):
        return None
    return product(terms, weight, _code(terms[0].device), norm=norm, bias=bias, gelu=gelu)


@functools.cache
def _code(device: torch.device) -> Tensor:
    """The sixteen values, there before anything is recorded: a copy from the host cannot be."""
    with torch.inference_mode(False):
        return nf4_code(device)
