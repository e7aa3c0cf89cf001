"""A Mamba stack with GPT-NeoX blocks at some of its positions, for training: the blocks of the two families.

Embeddings in, hidden states out, many positions at once from an empty state; it has no decoding step. Hybrids of this
kind: "Jamba" (arXiv 2403.19887), "Zamba" (arXiv 2405.16712).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from vlcompare.errors import RequestError
from vlcompare.models import mamba, pythia
from vlcompare.models.config import MambaConfig, PythiaConfig
from vlcompare.models.kernels.fused import add_norm
from vlcompare.models.kernels.linear import linear
from vlcompare.models.pythia_state import PythiaState


@dataclass(frozen=True, slots=True)
class HybridConfig:
    """Both kinds of blocks, of one hidden size and vocabulary, and which blocks are attention.

    Each part's `layers` counts its own blocks. Raises RequestError where the parts do not fit.
    """

    mamba: MambaConfig
    attention: PythiaConfig
    attention_at: tuple[int, ...]  # indices of blocks, from 0

    def __post_init__(self) -> None:
        mamba, attention = self.mamba, self.attention
        if (mamba.hidden_size, mamba.vocab_size) != (attention.hidden_size, attention.vocab_size):
            raise RequestError("The blocks of a hybrid must share their hidden size and vocabulary.")
        indices = set(self.attention_at)
        if len(indices) != attention.layers or not indices <= set(range(self.layers)):
            raise RequestError(
                f"{attention.layers} attention blocks do not fit at {self.attention_at} of {self.layers}."
            )

    @property
    def layers(self) -> int:
        return self.mamba.layers + self.attention.layers


class Hybrid(nn.Module):
    """The decoder. Its embedding is also its output head: one parameter."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        self.max_positions: int | None = config.attention.max_positions
        self.embedding = nn.Embedding(config.mamba.vocab_size, config.mamba.hidden_size)
        self.layers = nn.ModuleList(
            pythia.PythiaLayer(config.attention) if index in config.attention_at else mamba.MambaLayer(config.mamba)
            for index in range(config.layers)
        )
        self.norm_f = nn.LayerNorm(config.mamba.hidden_size, eps=config.mamba.norm_eps)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        return self.embedding(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 scores over the vocabulary, (..., D) -> (..., V)."""
        return linear(hidden, self.embedding.weight).float()

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, L, D) -> hidden states (B, L, D) after the final norm; no state is kept."""
        batch, length, _ = embeddings.shape
        limit = self.config.attention.max_positions
        if length > limit:
            raise RequestError(f"{length} positions were asked for, but this model knows only {limit}.")
        device, dtype = embeddings.device, embeddings.dtype
        cache = PythiaState(self.config.attention, batch, length, device, dtype)
        state = mamba.MambaState(self.config.mamba, batch, length, device)
        slots_bl = cache.slots_s[None].expand(batch, -1)
        rotary = cache.cos_sr[None, :, None, None], cache.sin_sr[None, :, None, None]
        span = pythia.Span(cache.rows_b[:, None].expand_as(slots_bl), slots_bl, *rotary, window=length, fresh=True)
        attends = iter(zip(cache.keys_nbhsk, cache.values_nbhsk, strict=True))
        scans = iter(zip(state.windows_nbdk, state.states_nbdn, strict=True))
        norms = [*(_entry(layer) for layer in self.layers), (self.norm_f,)]
        x_bld, normed = add_norm((embeddings,), norms[0])
        for layer, following in zip(self.layers, norms[1:], strict=True):
            if isinstance(layer, pythia.PythiaLayer):
                terms = layer(x_bld, normed, *next(attends), span)
            else:
                terms = x_bld, cast("mamba.MambaLayer", layer).mixer(normed[0], *next(scans), True, None)
            x_bld, normed = add_norm(terms, following)
        return normed[0]


def _entry(layer: nn.Module) -> tuple[nn.LayerNorm | nn.RMSNorm, ...]:
    """The norms through which a block reads its input."""
    return layer.entry if isinstance(layer, pythia.PythiaLayer) else (cast("mamba.MambaLayer", layer).norm,)
