"""What of a config.json in the published form says how a Pythia decoder is built: the way back from `config`."""

from __future__ import annotations

from typing import Any

from vlcompare.models.config import PythiaConfig


def pythia_fields(config: PythiaConfig) -> dict[str, Any]:
    """The fields that transformers' GPTNeoXConfig has for it, but for the hidden size and the vocabulary."""
    return {
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "rotary_pct": config.rotary_share,
        "rotary_emb_base": int(config.rotary_base),
        "use_parallel_residual": config.parallel_residual,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
    }
