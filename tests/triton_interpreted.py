"""Run by test_kernels_triton in a process of its own with TRITON_INTERPRET=1: prints each case's largest error as JSON.

The kernels run on CPU tensors in Triton's interpreter, beside the torch reference.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor

from vlcompare.models.kernels import nf4, reference, triton_scan

# batch, channels, states, positions: around the chunk of 64 positions and the block of 4 channels; odd states
SIZES = ((2, 5, 4, 7), (1, 4, 16, 65), (1, 3, 5, 130), (1, 8, 16, 1))
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


def arguments(batch: int, channels: int, states: int, length: int) -> list[Tensor]:
    torch.manual_seed(channels + length)
    rows = [torch.randn(batch, length, channels).transpose(1, 2) for _ in range(3)]
    small = [torch.randn(batch, length, states).transpose(1, 2) for _ in range(2)]
    A = -torch.rand(channels, states) * 2
    state = torch.randn(batch, channels, states)
    return [rows[0], rows[1], A, *small, torch.randn(channels), rows[2], torch.randn(channels), state]


def error(ours: Tensor | None, truth: Tensor | None) -> float:
    assert ours is not None and truth is not None and ours.shape == truth.shape
    if not truth.numel():
        return 0.0
    return float((ours.float() - truth.float()).abs().max() / max(1.0, float(truth.float().abs().max())))


def scan(module: object, values: list[Tensor | None], smooth: bool = True) -> tuple[Tensor, Tensor]:
    *most, state = values
    return module.selective_scan(*most, delta_softplus=smooth, initial_state=state)  # type: ignore[attr-defined]


def forward() -> dict[str, float]:
    out = {}
    for size in SIZES:
        values = arguments(*size)
        pairs = zip(scan(triton_scan, values), scan(reference, values), strict=True)
        out[f"forward {size}"] = max(error(ours, truth) for ours, truth in pairs)
    for name in ("D", "z", "delta_bias", "initial_state"):
        values: list[Tensor | None] = list(arguments(1, 5, 4, 9))
        values[NAMES.index(name)] = None
        pairs = zip(scan(triton_scan, values), scan(reference, values), strict=True)
        out[f"forward without {name}"] = max(error(ours, truth) for ours, truth in pairs)
    values = arguments(1, 5, 4, 9)
    values[1] = values[1].abs()
    pairs = zip(scan(triton_scan, values, False), scan(reference, values, False), strict=True)
    out["forward without softplus"] = max(error(ours, truth) for ours, truth in pairs)
    return out


def continued() -> dict[str, float]:
    values = arguments(1, 5, 16, 75)
    whole, last = scan(reference, values)
    state, parts = values[8], []
    for start, end in ((0, 3), (3, 70), (70, 75)):
        piece = [value[:, :, start:end] if index in (0, 1, 3, 4, 6) else value for index, value in enumerate(values)]
        y, state = scan(triton_scan, [*piece[:8], state])
        parts.append(y)
    return {"continued": max(error(torch.cat(parts, 2), whole), error(state, last))}


def backward() -> dict[str, float]:
    out = {}
    for size in SIZES:
        gradients = []
        for module in (triton_scan, reference):
            leaves = [value.clone().requires_grad_() for value in arguments(*size)]
            y, last = scan(module, list(leaves))
            torch.manual_seed(1)
            ((y * torch.randn(y.shape)).sum() + (last * torch.randn(last.shape)).sum()).backward()
            gradients.append([leaf.grad for leaf in leaves])
        for name, ours, truth in zip(NAMES, *gradients, strict=True):
            out[f"gradient of {name} {size}"] = error(ours, truth)
    return out


def steps() -> dict[str, float]:
    out = {}
    for size in ((2, 5, 4, 3), (1, 37, 16, 3)):
        u, delta, A, B, C, D, z, bias, state = arguments(*size)
        ours, truth = state.clone(), state.clone()
        for t in range(3):
            given = (u[:, :, t], delta[:, :, t], A, B[:, :, t], C[:, :, t], D, z[:, :, t], bias)
            y = triton_scan.selective_step(ours, *given)
            out[f"step {size} {t}"] = error(y, reference.selective_step(truth, *given))
        out[f"step's state {size}"] = error(ours, truth)
        window, weight = torch.randn(size[0], size[1], 3), torch.randn(size[1], 4)
        other = window.clone()
        for t in range(3):
            y = triton_scan.conv_step(window, u[:, :, t], weight, bias)
            out[f"convolution {size} {t}"] = error(y, reference.conv_step(other, u[:, :, t], weight, bias))
        out[f"convolution's window {size}"] = error(window, other)
    return out


def quantized() -> dict[str, float]:
    out = {}
    for outputs, inputs, rows in ((7, 64, 1), (5, 1088, 2), (8, 2048, 1)):
        torch.manual_seed(outputs)
        code = torch.linspace(-1, 1, 16)
        nibbles = torch.randint(0, 16, (outputs * inputs,))
        absmax = torch.rand(outputs * inputs // 64) + 0.1
        packed = (nibbles[0::2] << 4 | nibbles[1::2]).to(torch.uint8)[:, None]  # bitsandbytes' order and shape
        weight = (code[nibbles].view(-1, 64) * absmax[:, None]).view(outputs, inputs)
        x, bias = torch.randn(rows, inputs), torch.randn(outputs)
        ours = nf4.product(x, packed, absmax, code, outputs, bias=bias)
        out[f"nf4 {outputs} x {inputs}, {rows} rows"] = error(ours, torch.nn.functional.linear(x, weight, bias))
    return out


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases: dict[str, float] = {}
    for part in (forward, continued, backward, steps, quantized):
        cases.update(part())
    json.dump(cases, sys.stdout)
