"""A decoder's layers as the numbers that one position goes through: what a whole step takes, whatever computes it.

`reference_step` is the step in plain torch, in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.models.kernels import reference
from vlcompare.models.kernels.packed import PackedLinear
from vlcompare.models.kernels.packed_format import unpacked
from vlcompare.models.kernels.reference import MixWeights, NormModule


class NormParts(NamedTuple):
    weight: Tensor
    bias: Tensor | None
    eps: float
    centred: bool  # LayerNorm, else RMSNorm


class LinearParts(NamedTuple):
    """method: "nf4" or "int8" as in `packed_format`, "" for a plain weight."""

    method: str
    weight: Tensor
    absmax: Tensor | None
    bias: Tensor | None
    shape: tuple[int, int]

    @property
    def outputs(self) -> int:
        return self.shape[0]

    @property
    def inputs(self) -> int:
        return self.shape[1]

    def dense(self) -> Tensor:
        """The weight (outputs, inputs) in float32."""
        if self.absmax is None:
            return self.weight.float()
        return unpacked(self.method, self.weight, self.absmax, self.shape, torch.float32)


class LayerParts(NamedTuple):
    """Pythia: norms of attention and MLP; query_key_value, dense, dense_h_to_4h, dense_4h_to_h.

    Mamba: the norm; in_proj, x_proj, dt_proj (with its bias), out_proj; the convolution's weight (d, k) and bias, A, D.
    """

    norms: tuple[NormParts, ...]
    linears: tuple[LinearParts, ...]
    tensors: tuple[Tensor, ...] = ()


class StackParts(NamedTuple):
    family: str
    layers: tuple[LayerParts, ...]
    last: NormParts
    parallel: bool = False  # Pythia: attention and MLP read the same sum


def norm_parts(norm: NormModule) -> NormParts:
    bias = getattr(norm, "bias", None)
    return NormParts(norm.weight, bias, float(norm.eps or 0.0), isinstance(norm, nn.LayerNorm))


def linear_parts(module: nn.Module) -> LinearParts | None:
    """A Linear's parts; None for a module of another kind."""
    if isinstance(module, PackedLinear):
        shape = module.out_features, module.in_features
        return LinearParts(module.method, module.packed, module.absmax, module.bias, shape)
    if isinstance(module, nn.Linear):
        return LinearParts("", module.weight, None, module.bias, (module.out_features, module.in_features))
    return None


def reference_step(parts: StackParts, x: Tensor, state: Sequence[Tensor]) -> Tensor:
    """x (B, D) float32 through all layers and the last norm; the state's tensors (as `cpu.stack.step` takes them) are
    changed in place.
    """
    work = _mamba_layer if parts.family == "mamba" else _pythia_layer
    for number, layer in enumerate(parts.layers):
        x = work(parts, layer, number, x, state)
    return _norm(parts.last, x)


def _mamba_layer(parts: StackParts, layer: LayerParts, number: int, x: Tensor, state: Sequence[Tensor]) -> Tensor:
    into, x_proj, dt_proj, back = layer.linears
    conv, conv_bias, A, D = (tensor.float() for tensor in layer.tensors)
    assert dt_proj.bias is not None
    weights = MixWeights(conv, conv_bias, x_proj.dense(), dt_proj.dense(), A, D, dt_proj.bias.float())
    windows, states = state
    xz = _linear(into, _norm(layer.norms[0], x))
    return x + _linear(back, reference.mix_step(windows[number], states[number], xz, weights))


def _pythia_layer(parts: StackParts, layer: LayerParts, number: int, x: Tensor, state: Sequence[Tensor]) -> Tensor:
    keys, values, positions, cos, sin = state
    reads, dense, up, down = layer.linears
    qkv = _linear(reads, _norm(layer.norms[0], x)).unflatten(-1, (keys.shape[2], 3, keys.shape[4]))
    out = reference.rotate_and_attend(qkv, cos, sin, positions, keys[number], values[number])
    attended = _linear(dense, out.flatten(1))
    between = x if parts.parallel else x + attended
    expanded = _linear(down, F.gelu(_linear(up, _norm(layer.norms[1], between))))
    return x + attended + expanded


def _norm(norm: NormParts, x: Tensor) -> Tensor:
    weight, bias = norm.weight.float(), None if norm.bias is None else norm.bias.float()
    if norm.centred:
        return F.layer_norm(x, weight.shape, weight, bias, norm.eps)
    return F.rms_norm(x, list(weight.shape), weight, norm.eps)


def _linear(linear: LinearParts, x: Tensor) -> Tensor:
    return F.linear(x, linear.dense(), None if linear.bias is None else linear.bias.float())
