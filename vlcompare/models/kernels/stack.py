"""One position through all layers of a decoder by one compiled call, on CPU: `step`.

A token's step is a hundred and more small pieces of work between large products. Called one by one from Python they
cost a third of the token, and OpenMP's threads fall asleep between them. So the layers' weights are written down once,
as a table of addresses, and one call does everything from the embeddings to the last norm.

Before each call it is seen whether the model still has the tensors that the table was made of; if not, it is made anew.
A step is used after one real call of it, on small random layers, agreed with plain torch; a model that it does not take
(another activation, sizes that are no whole vectors, a processor without kernels for packed weights), more than a few
rows, and steps whose gradients are wanted take the layers' own way.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vlcompare.models.kernels import fallback, packed, packed_proofs
from vlcompare.models.kernels.agreement import apart
from vlcompare.models.kernels.linear import FEW_ROWS
from vlcompare.models.kernels.stack_parts import LayerParts, LinearParts, NormParts, StackParts, reference_step

MODULE = "cpu.stack"
ALLOWED = 1e-3  # largest difference of a proof, relative to the largest value


class Decoder(Protocol):
    """What both families' models offer."""

    def stack_parts(self) -> StackParts | None:
        """The layers' parts; None where a step is more than the parts can say."""

    def modules(self) -> Iterator[nn.Module]: ...


def step(model: Decoder, x: Tensor, state: Sequence[Tensor]) -> Tensor | None:
    """x (B, D) -> hidden states (B, D) after the last norm; state: as `cpu.stack.step` takes it, changed in place.

    None, and nothing is changed, where the model's own step must do it.
    """
    if x.device.type != "cpu" or not 0 < len(x) <= FEW_ROWS or torch.is_grad_enabled() or x.dtype == torch.float64:
        return None
    held = _held.get(model)
    if held is None or not held.unchanged():
        held = _held[model] = _Held(model)
    stack = held.stack()
    return None if stack is None else fallback.call("numba", MODULE, "step", stack, x, state)


class _Held:
    """A model's table for each variant of packed products, and what it was made of."""

    def __init__(self, model: Decoder) -> None:
        tables: list[dict[str, Any]] = []
        for module in model.modules():
            tables += [vars(module)[name] for name in ("_modules", "_parameters", "_buffers")]
        self._entries = [(table, name, value) for table in tables for name, value in table.items()]
        self._tensors = [value for *_, value in self._entries if isinstance(value, Tensor)]
        self._counted = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._marks = self._now()
        self.parts = model.stack_parts()
        linears = [linear for layer in self.parts.layers for linear in layer.linears] if self.parts else []
        self.methods = {linear.method for linear in linears} - {""}
        self._stacks: dict[str, Any] = {}

    def _now(self) -> list[int]:
        """Where the tensors are, and how often they were written to: small ones are copied to float32."""
        return [tensor.data_ptr() for tensor in self._tensors] + [tensor._version for tensor in self._counted]

    def unchanged(self) -> bool:
        return all(table.get(name) is value for table, name, value in self._entries) and self._now() == self._marks

    def stack(self) -> Any:
        """The table, or None: see `step`."""
        variants = {packed.variant(method) for method in self.methods} or {""}
        variant = variants.pop()
        if self.parts is None or variants or variant == packed.PLAIN:
            return None
        if variant not in self._stacks:
            taken = fallback.call("numba", MODULE, "prepare", self.parts, variant)
            proven = taken is not None and packed_proofs.proven(agrees, self.parts.family, variant)
            self._stacks[variant] = taken if proven else None
        return self._stacks[variant]


def compile_for(family: str, method: str) -> None:
    """Compile what steps and prompts with weights packed by `method` need, by proving it."""
    packed.compile_for(method)
    if (variant := packed.variant(method)) != packed.PLAIN:
        packed_proofs.proven(agrees, family, variant)


_held: weakref.WeakKeyDictionary[Any, _Held] = weakref.WeakKeyDictionary()


def agrees(family: str, variant: str) -> bool:
    """Whether the compiled step gives what plain torch gives, for small random layers of every kind of weight."""
    parts, x, state = example(family, variant)
    theirs = [tensor.clone() for tensor in state]
    stack = fallback.load_and_call(MODULE, "prepare", parts, variant)
    ours = fallback.load_and_call(MODULE, "step", stack, x, state)
    truth = reference_step(parts, x, theirs)
    pairs = [(ours, truth), *zip(state, theirs, strict=True)]
    return all(apart(one, other) <= ALLOWED for one, other in pairs)


def example(family: str, variant: str, rows: int = 2) -> tuple[StackParts, Tensor, list[Tensor]]:
    """Two random layers, embeddings (rows, 64), and a state that is not empty. Packed weights where `variant` is."""
    random = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    methods = ("nf4", "int8") if variant else ("", "bfloat16")

    def norm() -> NormParts:
        return NormParts(1 + random(64) / 4, random(64) / 4, 1e-5, True)

    x = random(rows, 64)
    if family == "mamba":
        inner, n, rank, taps = 128, 16, 16, 4
        layers = []
        for first, second in (methods, methods[::-1]):
            linears = (
                _linear(random, first, 2 * inner, 64, bias=False), _linear(random, "", rank + 2 * n, inner, bias=False),
                _linear(random, "bfloat16", inner, rank), _linear(random, second, 64, inner),
            )  # fmt: skip
            tensors = random(inner, taps), random(inner), -random(inner, n).abs(), random(inner)
            layers.append(LayerParts((norm(),), linears, tensors))
        state = [random(2, rows, inner, taps - 1), random(2, rows, inner, n)]
        return StackParts(family, tuple(layers), norm()), x, state
    heads, size, capacity, rotated = 2, 32, 21, 16
    layers = []
    for first, second in (methods, methods[::-1]):
        shapes = (first, 192, 64), (second, 64, 64), (second, 128, 64), (first, 64, 128)
        layers.append(LayerParts((norm(), norm()), tuple(_linear(random, *shape) for shape in shapes)))
    cache = [random(2, rows, heads, capacity, size) for _ in range(2)]
    state = [*cache, torch.arange(rows) * 5 + 9, random(capacity, rotated), random(capacity, rotated)]
    return StackParts(family, tuple(layers), norm(), parallel=True), x, state


def _linear(random: Any, method: str, outputs: int, inputs: int, bias: bool = True) -> LinearParts:
    """Random parts; a method that is the name of a dtype: a plain weight of that."""
    shape, added = (outputs, inputs), random(outputs) if bias else None
    if method in ("nf4", "int8"):
        weight, absmax = packed_proofs.random_parts(method, random, outputs, inputs)
        scale = inputs**-0.5 / absmax.abs().max()
        return LinearParts(method, weight, absmax * scale, added, shape)
    weight = random(outputs, inputs) * inputs**-0.5
    return LinearParts("", weight.bfloat16() if method else weight, None, added, shape)
