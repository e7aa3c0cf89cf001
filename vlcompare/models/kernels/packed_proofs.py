"""Whether the CPU's kernels for packed weights give the reference's numbers: one real call of each, in each process."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlcompare.models.kernels.packed_format import nf4_edges, quantized, unpacked

ALLOWED = 1e-3  # largest difference of a product, relative to the largest value


@functools.cache
def proven(check: Callable[..., bool], *arguments: str) -> bool:
    """check(*arguments), called once in a process. Any exception means no."""
    try:
        with torch.inference_mode():
            return check(*arguments)
    except Exception:  # whatever a compiler raises
        return False


def random_parts(method: str, random: Callable[..., Tensor], outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """A random weight's parts, among them the largest numbers that there are."""
    if method == "int8":
        return (random(outputs, inputs) * 50).round().clamp(-127, 127).to(torch.int8), random(outputs).abs()
    packed = (random(outputs * inputs // 2) * 1000).long().remainder(256).to(torch.uint8)
    packed[: inputs // 2] = 255
    return packed, random(outputs * inputs // 64).abs()


def packed_product_agrees(variant: str, method: str) -> bool:
    """Whether a variant of the CPU's packed products gives the unpacked ones: one row, four at once, a block alone."""
    product: Any = importlib.import_module("vlcompare.models.kernels.cpu.packed").product
    random = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    for rows, inputs, outputs in ((1, 320, 67), (5, 192, 5)):
        packed, absmax = random_parts(method, random, outputs, inputs)
        x, bias = random(rows, inputs) * 3, random(outputs)
        x[0] = x.abs().max()  # with the largest weights, the largest sums
        weight = unpacked(method, packed, absmax, (outputs, inputs), torch.float64)
        y = product(variant, method, x, packed, absmax, bias, outputs)
        if y is None or not _close(y, x.double() @ weight.T + bias):
            return False
    return True


def tiles_agree(variant: str, method: str) -> bool:
    """Whether products by tiles give the unpacked ones: few rows, a row more than two tiles', and weights in parts."""
    product: Any = importlib.import_module("vlcompare.models.kernels.cpu.packed").tiled_product
    random = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    for rows, inputs, outputs in ((5, 192, 96), (33, 64, 32), (66, 2112, 32)):
        packed, absmax = random_parts(method, random, outputs, inputs)
        x, bias = random(rows, inputs).bfloat16(), random(outputs)
        y = product(variant, method, x, packed, absmax, bias, outputs)
        if y is None:
            return False
        weight = unpacked(method, packed, absmax, (outputs, inputs), torch.bfloat16)
        truth = x.double() @ weight.double().T + bias
        if not bool(((y.double() - truth).abs() <= 2**-8 * truth.abs() + 1e-5 * truth.abs().max()).all()):
            return False
    return True


def unpacking_agrees(method: str, variant: str) -> bool:
    """Whether the compiled unpacking gives the reference's bits, in float32 and bfloat16."""
    unpack: Any = importlib.import_module("vlcompare.models.kernels.cpu.packed").unpack
    random = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    packed, absmax = random_parts(method, random, 9, 192)
    whole = unpacked(method, packed, absmax, (9, 192), torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        out = unpack(variant, method, packed, absmax, 2, torch.empty(6, 192, dtype=dtype))
        if out is None or not torch.equal(out, whole[2:8].to(dtype)):
            return False
    return True


def quantizing_agrees(method: str) -> bool:
    """Whether the compiled rounding gives the reference's bits: among others for zeros and for what lies between two
    values of NF4.
    """
    rounded: Any = importlib.import_module("vlcompare.models.kernels.cpu.packed").quantized
    weight = torch.randn(9, 192, generator=torch.Generator().manual_seed(0))
    weight[1], weight[2, :64], weight[3, :15], weight[3, 15] = 0, 1e-42, nf4_edges(), 1
    weight[4, :15], weight[4, 15] = (torch.arange(15) - 7.5) / 127, 1
    for given in (weight, weight.bfloat16(), weight.half()):
        found = rounded(given, method)
        if found is None or not all(map(torch.equal, found, quantized(given, method))):
            return False
    return True


def _close(ours: Tensor, truth: Tensor) -> bool:
    return bool(((ours.double() - truth).abs() <= ALLOWED * truth.abs().max()).all())
