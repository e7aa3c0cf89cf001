"""Kernels with backward passes of their own as functions for torch's autograd.

Where a backward kernel fails, the gradients are those of the plain torch function, computed from the saved inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlcompare.models.kernels import fallback

Tensors = tuple[Tensor, ...]


class Kernel(NamedTuple):
    """A forward and a backward kernel, and the plain torch function that they compute."""

    accelerator: str
    forward: Callable[..., tuple[Tensors, Any]]  # inputs -> outputs, and what `backward` needs of the forward pass
    backward: Callable[..., tuple[Tensor | None, ...]]  # inputs, that, gradients of the outputs -> of the inputs
    reference: Callable[..., Tensors]


def needs_gradient(*inputs: Any) -> bool:
    """Whether autograd records a call with these inputs; only tensors among them count."""
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs)


class Differentiable(torch.autograd.Function):
    """apply(kernel, *inputs): the kernel's outputs for tensors, None or constants, with gradients for the tensors."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, *inputs: Any) -> Tensors:
        outputs, ctx.kept = kernel.forward(*inputs)
        ctx.kernel = kernel
        ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in inputs))
        ctx.constants = [None if isinstance(x, Tensor) else x for x in inputs]
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        kernel: Kernel = ctx.kernel
        saved = ctx.saved_tensors
        inputs = [x if tensor is None else tensor for tensor, x in zip(saved, ctx.constants, strict=True)]
        values = fallback.attempt(kernel.accelerator, kernel.backward, inputs, ctx.kept, *gradients)
        if values is None:
            values = _reference_gradients(kernel.reference, inputs, ctx.needs_input_grad[1:], gradients)
        pairs = zip(values, saved, strict=True)
        return None, *(None if value is None or x is None else value.to(x.dtype) for value, x in pairs)


def _reference_gradients(
    function: Callable[..., Tensors], inputs: list[Any], needed: tuple[bool, ...], gradients: Tensors
) -> tuple[Tensor | None, ...]:
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() if need else x for x, need in zip(inputs, needed, strict=True)]
        pairs = [(y, dy) for y, dy in zip(function(*inputs), gradients, strict=True) if y.requires_grad]
        leaves = [x for x, need in zip(inputs, needed, strict=True) if need]
        outputs, gradients = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(outputs, leaves, gradients, allow_unused=True))
    return tuple(next(found) if need else None for need in needed)
