"""A checkpoint folder at a published shape with random weights, written one tensor at a time; without a tokenizer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlcompare.models.config import ModelConfig, PythiaConfig
from vlcompare.models.config_json import pythia_fields
from vlcompare.models.vlm import meta_model
from vlcompare.runtime.loading.keys import file_key
from vlcompare.runtime.loading.safetensors_files import write_file

_NOISE = 1 << 22  # random numbers that all weights are cut from


def write(folder: Path, config: ModelConfig, *, shard_bytes: int | None = None) -> int:
    """Write config.json and bfloat16 weights under the published names; returns the largest tensor's bytes.

    The same shape of vision encoder gets the same weights in every checkpoint, as the published ones have. shard_bytes:
    a second file begins with the tensor that would make the first one larger.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(config)))
    shapes = {
        file_key(name, config.family): tuple(value.shape) for name, value in meta_model(config).named_parameters()
    }
    shards: list[list[str]] = [[], []]
    size = 0
    for key in sorted(shapes, key=lambda key: key.startswith("vision_")):  # the encoder last, as published
        size += 2 * math.prod(shapes[key])
        shards[shard_bytes is not None and size > shard_bytes].append(key)
    parts = [keys for keys in shards if keys]
    for number, keys in enumerate(parts, 1):
        name = "model.safetensors" if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        entries = {key: (torch.bfloat16, shapes[key]) for key in keys}
        write_file(folder / name, entries, _values(keys, shapes))
    return 2 * max(math.prod(shape) for shape in shapes.values())


def config_json(config: ModelConfig) -> dict[str, Any]:
    """A config.json in the published form that is read as `config`."""
    vision, language = config.vision, config.language
    shared = {
        "vision_encoder_name": vision.name,
        "image_size": vision.image_size,
        "select_layer": vision.select_layer,
        "select_feature": vision.select_feature,
        "vocab_size": language.vocab_size,
        "torch_dtype": "bfloat16",
    }
    if isinstance(language, PythiaConfig):
        return {
            **shared,
            "architectures": ["VLCLIPGPTNeoXForCausalLM"],
            "model_type": "gpt_neox",
            "hidden_size": language.hidden_size,
            **pythia_fields(language),
        }
    return {
        **shared,
        "architectures": ["VLMambaCLIPLMHeadModel"],
        "d_model": language.hidden_size,
        "n_layer": language.layers,
        "rms_norm": True,
        "ssm_cfg": {},
        "pad_vocab_size_multiple": 8,
    }


def _values(keys: list[str], shapes: dict[str, tuple[int, ...]]) -> Iterator[Tensor]:
    noise = torch.randn(_NOISE, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    for key in keys:
        shape = shapes[key]
        if key.endswith("A_log"):
            yield torch.arange(1.0, shape[1] + 1).log().repeat(shape[0], 1).bfloat16()
        elif len(shape) == 1:
            yield torch.full(shape, float(key.endswith((".D", "weight"))), dtype=torch.bfloat16)
        else:
            count = math.prod(shape)
            yield noise.repeat(-(-count // _NOISE))[:count].view(shape)
