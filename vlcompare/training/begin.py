"""Starting values of the two families' blocks. Draws from torch's global generator."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vlcompare.models.hybrid import Hybrid
from vlcompare.models.mamba import Mamba, MambaLayer
from vlcompare.models.pythia import Pythia, PythiaLayer


def embedding_of(model: Pythia | Mamba | Hybrid) -> Tensor:
    """The embedding's matrix (V, D), whatever the family calls it."""
    return model.embed_in.weight if isinstance(model, Pythia) else model.embedding.weight


@torch.no_grad()
def begin_blocks(layers: Iterable[nn.Module]) -> None:
    """Products that write to the residual start small, by 1 / sqrt(layers); Mamba's time steps start spread out."""
    blocks = list(layers)
    outputs = []
    for layer in blocks:
        if isinstance(layer, PythiaLayer):
            outputs += [layer.attention.dense, layer.mlp.dense_4h_to_h]
            nn.init.normal_(layer.attention.query_key_value.weight, std=0.06)
            nn.init.zeros_(layer.attention.query_key_value.bias)
        elif isinstance(layer, MambaLayer):
            outputs.append(layer.mixer.out_proj)
            _begin_time_steps(layer.mixer.dt_proj)
    for linear in outputs:
        nn.init.normal_(linear.weight, std=0.02 / len(blocks) ** 0.5)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)


def _begin_time_steps(linear: nn.Linear, low: float = 1e-3, high: float = 1e-1) -> None:
    """A bias such that softplus gives time steps spread from `low` to `high` (Mamba, section 3.6)."""
    share = torch.rand(linear.out_features)
    step = torch.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    linear.bias.copy_(step + torch.log(-torch.expm1(-step)))
    nn.init.uniform_(linear.weight, -(linear.in_features**-0.5), linear.in_features**-0.5)
