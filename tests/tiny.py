"""Tiny checkpoints with random weights, written in the published layout, for tests of whatever stands on a model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from vlcompare.models.config import ModelConfig, from_dict
from vlcompare.models.vlm import VisionLanguageModel

PIECES = ["###", "&&", "the", " the", " red", " car", "Answer", "\n", " é", "[0", ",0", "].", "||"]


def write_tokenizer(folder: Path) -> int:
    """A byte-level tokenizer.json with a few longer pieces; returns its vocabulary's size. End of text is id 0."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = [level.pre_tokenize_str(piece)[0][0] for piece in PIECES]
    *pieces, last = pieces
    # one piece is of the alphabet as well (the newline): the last one takes its place there, so that no id is left out
    letters = [last if letter in pieces else letter for letter in alphabet]
    vocabulary = {piece: index for index, piece in enumerate(["<|endoftext|>", *letters, *pieces])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\n"), "isolated"), level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(vocabulary)


def config_json(
    family: str, vocabulary: int, image_size: int = 64, width: int = 32, layers: int = 2, depth: int = 1
) -> dict[str, object]:
    """A config.json as the published repositories have it, around the small scene encoder."""
    vision = {
        "vision_encoder_name": "vlcompare/scene",
        "scene_encoder": {"stem": [8, 8, 16, 24], "depth": depth, "heads": 2, "hidden": 32, "grid": image_size // 16},
        "image_size": image_size,
        "select_layer": -2,
        "select_feature": "patch",
        "vocab_size": vocabulary,
        "torch_dtype": "float32",
    }
    if family == "mamba":
        shape = {"architectures": ["VLMambaCLIPLMHeadModel"], "d_model": width, "hidden_size": width, "n_layer": layers}
        return {**vision, **shape, "rms_norm": True, "ssm_cfg": {}, "pad_vocab_size_multiple": 1}
    return {
        **vision,
        "architectures": ["VLCLIPGPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "rotary_pct": 0.5,
        "rotary_emb_base": 10000,
        "use_parallel_residual": True,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }


def published_names(model: VisionLanguageModel, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Our tensors under the names of the published files."""
    body, head = ("gpt_neox.", "embed_out.weight") if config.family == "pythia" else ("backbone.", None)
    named = {}
    for key, value in model.state_dict().items():
        if key == "language_model.embed_out.weight":
            key = str(head)
        key = key.replace("vision_encoder.model.", "vision_encoder.").replace("connector.", "vision_embed_tokens.")
        named[key.replace("language_model.", body)] = value.contiguous()
    return named


def write_checkpoint(
    folder: Path, family: str, *, image_size: int = 64, seed: int = 0, width: int = 32, layers: int = 2, depth: int = 1
) -> Path:
    """A whole checkpoint folder with random weights large enough that answers differ from token to token.

    layers: of the language model; depth: blocks of the vision encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = config_json(family, write_tokenizer(folder), image_size, width, layers, depth)
    (folder / "config.json").write_text(json.dumps(data))
    torch.manual_seed(seed)
    config = from_dict(data)
    model = VisionLanguageModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "A_log" not in name and "conv" not in name:
                parameter.normal_(0, 0.15)
            if "embed" in name:
                parameter.normal_(0, 0.5)
    save_file(published_names(model, config), str(folder / "model.safetensors"))
    return folder


def write_pair(folder: Path) -> Path:
    """A checkpoint of each family, "pythia" and "mamba", and "picture.png" in one folder."""
    for family in ("pythia", "mamba"):
        write_checkpoint(folder / family, family)
    Image.radial_gradient("L").resize((90, 60)).convert("RGB").save(folder / "picture.png")
    return folder
