"""Checkpoints of forms that nobody published, loaded here and set beside transformers' and timm's own modules.

Each variant is written under the published names with values of its own, then assembled a second time out of foreign
parts only: timm's or transformers' encoder, torch's Linear, transformers' GPT-NeoX or Mamba (its norms exchanged for
LayerNorm where the files hold biases). What must agree is every hidden state and every score.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

import vlcompare
from vlcompare.models import vision

WIDTH = 48
CLIP = "openai/clip-vit-tiny-patch16"
CLIP_SHAPE = vision.ClipShape(width=32, layers=3, heads=4, mlp=48, patch=16)


@timm.models.register_model
def eva02_variant_patch16_clip_64(
    pretrained: bool = False, pretrained_cfg: Any = None, pretrained_cfg_overlay: Any = None, cache_dir: Any = None,
    **given: Any,
) -> Eva:  # fmt: skip
    """A tiny one with patches of 16 pixels and the flags of the published encoder."""
    flags: dict[str, Any] = {
        "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "qkv_fused": False,
        "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "use_rot_pos_emb": True,
        "ref_feat_shape": (4, 4), "img_size": 64, "global_pool": "token",
    }  # fmt: skip
    return Eva(**{**flags, **given})


@dataclass(frozen=True)
class Variant:
    name: str
    family: str
    config: dict[str, Any] = field(default_factory=dict)
    encoder: str = "eva02_variant_patch16_clip_64"
    size: int = 64
    dtype: torch.dtype = torch.float32
    shards: int = 1
    index: bool = False
    leave_out: tuple[str, ...] = ()  # keys that are not stored: one of two tied ones
    clip_prefix: str = ""
    norm: str = "layernorm"


VARIANTS = (
    Variant("sequential, all channels rotated", "pythia", {"use_parallel_residual": False, "rotary_pct": 1.0}),
    Variant("half rotated, another base", "pythia", {"rotary_pct": 0.5, "rotary_emb_base": 500}),
    Variant("no attention bias, tanh gelu", "pythia", {"attention_bias": False, "hidden_act": "gelu_new"}),
    Variant("tied, embedding stored", "pythia", {"tie_word_embeddings": True}, leave_out=("embed_out.weight",)),
    Variant("tied, head stored", "pythia", {"tie_word_embeddings": True}, leave_out=("gpt_neox.embed_in.weight",)),
    Variant("tied, both stored", "pythia", {"tie_word_embeddings": True}),
    Variant("another epsilon, relu, float16, three shards", "pythia", {"layer_norm_eps": 1e-3, "hidden_act": "relu"},
            dtype=torch.float16, shards=3),
    Variant("no max_position_embeddings, shards with index", "pythia", {"max_position_embeddings": None}, shards=2,
            index=True),
    Variant("larger picture than the encoder's name says", "pythia", size=112),
    Variant("fused encoder without a final norm", "mamba", encoder="timm/eva02_tiny_patch14_224", size=56),
    Variant("three taps, eight states, rank by number", "mamba",
            {"ssm_cfg": {"d_conv": 3, "d_state": 8, "dt_rank": 5}}),
    Variant("two taps, expand 1", "mamba", {"ssm_cfg": {"d_conv": 2, "expand": 1, "dt_rank": "auto"}}),
    Variant("expand 3, biases in projections, none in the convolution", "mamba",
            {"ssm_cfg": {"expand": 3, "bias": True, "conv_bias": False}}),
    Variant("odd widths", "mamba", {"d_model": 42, "hidden_size": 42, "ssm_cfg": {"d_state": 5}}),
    Variant("RMSNorm, bf16, vocabulary padded to 64", "mamba", {"vocab_size": 300, "pad_vocab_size_multiple": 64},
            norm="rmsnorm", dtype=torch.bfloat16),
    Variant("vocabulary padded by default", "mamba", {"vocab_size": 301, "pad_vocab_size_multiple": None}),
    Variant("ssm_cfg is null, embedding alone", "mamba", {"ssm_cfg": None}, leave_out=("lm_head.weight",)),
    Variant("head alone, three shards", "mamba", leave_out=("backbone.embedding.weight",), shards=3),
    Variant("CLIP as transformers 4 wrote it", "mamba", {"select_layer": -2}, encoder=CLIP,
            clip_prefix="vision_model."),
    Variant("CLIP as transformers 5 writes it", "pythia", {"select_layer": -1}, encoder=CLIP),
    Variant("CLIP counted from the front", "mamba", {"select_layer": 1}, encoder=CLIP, size=96),
    Variant("CLIP's last state, no select_feature", "pythia", {"select_layer": 3, "select_feature": None},
            encoder=CLIP),
)  # fmt: skip


def foreign_encoder(variant: Variant) -> nn.Module:
    if variant.encoder == CLIP:
        shape = CLIP_SHAPE
        return CLIPVisionModel(CLIPVisionConfig(
            hidden_size=shape.width, intermediate_size=shape.mlp, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, image_size=variant.size, patch_size=shape.patch, hidden_act="quick_gelu",
        ))  # fmt: skip
    return timm.create_model(variant.encoder.removeprefix("timm/"), num_classes=0, img_size=variant.size)


def foreign_language_model(variant: Variant, data: dict[str, Any]) -> nn.Module:
    if variant.family == "pythia":
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                 "rotary_pct", "rotary_emb_base", "use_parallel_residual", "hidden_act", "layer_norm_eps",
                 "attention_bias", "tie_word_embeddings")  # fmt: skip
        known = {name: data[name] for name in names if data.get(name) is not None}
        share, base = known.pop("rotary_pct", 0.25), known.pop("rotary_emb_base", 10000)
        # transformers 5 takes the two of them as one table
        rope = {"rope_type": "default", "rope_theta": base, "partial_rotary_factor": share}
        return GPTNeoXForCausalLM(GPTNeoXConfig(**known, rope_parameters=rope, attn_implementation="eager"))
    ssm = data.get("ssm_cfg") or {}
    rank = ssm.get("dt_rank", "auto")
    multiple = data.get("pad_vocab_size_multiple") or 8
    config = MambaConfig(
        vocab_size=-(-data["vocab_size"] // multiple) * multiple, hidden_size=data["d_model"],
        num_hidden_layers=data["n_layer"], state_size=ssm.get("d_state", 16), conv_kernel=ssm.get("d_conv", 4),
        expand=ssm.get("expand", 2), time_step_rank=rank if rank != "auto" else -(-data["d_model"] // 16),
        use_bias=ssm.get("bias", False), use_conv_bias=ssm.get("conv_bias", True), residual_in_fp32=False,
    )  # fmt: skip
    model = MambaForCausalLM(config)
    if variant.norm == "layernorm":
        for layer in model.backbone.layers:
            layer.norm = nn.LayerNorm(config.hidden_size)
        model.backbone.norm_f = nn.LayerNorm(config.hidden_size)
    return model


def config_json(variant: Variant) -> dict[str, Any]:
    shared = {"image_size": variant.size, "select_layer": -2, "select_feature": "patch", "vocab_size": 304,
              "vision_encoder_name": variant.encoder}  # fmt: skip
    if variant.family == "pythia":
        own: dict[str, Any] = {
            "architectures": ["VLCLIPGPTNeoXForCausalLM"], "hidden_size": WIDTH, "num_attention_heads": 3,
            "num_hidden_layers": 2, "intermediate_size": 96, "max_position_embeddings": 512, "rotary_pct": 0.25,
            "hidden_act": "gelu", "use_parallel_residual": True, "tie_word_embeddings": False, "rope_scaling": None,
        }  # fmt: skip
    else:
        own = {"architectures": ["VLMambaCLIPLMHeadModel"], "d_model": WIDTH, "hidden_size": WIDTH, "n_layer": 2,
               "rms_norm": True, "fused_add_norm": True, "residual_in_fp32": True, "ssm_cfg": {},
               "pad_vocab_size_multiple": 8}  # fmt: skip
    data = {**shared, **own, **variant.config}
    return {key: value for key, value in data.items() if value is not None or key in ("ssm_cfg", "rope_scaling")}


@torch.no_grad()
def fill_at_random(module: nn.Module, dtype: torch.dtype) -> None:
    """Values that the stored dtype holds exactly, large enough that everything matters."""
    for name, parameter in module.named_parameters():
        if name.endswith("A_log"):
            values = torch.rand(parameter.shape) * 2
        elif parameter.dim() == 1:
            # scales around one, biases around zero
            values = torch.randn(parameter.shape) * 0.2 + float(name.endswith(("weight", ".D")))
        else:
            values = torch.randn(parameter.shape) * 1.5 * parameter[0].numel() ** -0.5
        parameter.copy_(values.to(dtype).float())


def published_names(variant: Variant, encoder: nn.Module, connector: nn.Module, lm: nn.Module) -> dict[str, Tensor]:
    named = {}
    for key, value in encoder.state_dict().items():
        bare = key.removeprefix("vision_model.")
        named[f"vision_encoder.{variant.clip_prefix}{bare}"] = value
    named |= {f"vision_embed_tokens.{key}": value for key, value in connector.state_dict().items()}
    for key, value in lm.state_dict().items():
        if variant.family == "mamba":
            key = key.replace("backbone.embeddings.", "backbone.embedding.")
        elif key == "lm_head.weight":
            key = "embed_out.weight"
        named[key] = value
    if variant.config.get("tie_word_embeddings"):
        named["embed_out.weight"] = named["gpt_neox.embed_in.weight"]
    return {key: value.detach().to(variant.dtype).clone() if value.is_floating_point() else value.clone()
            for key, value in named.items() if key not in variant.leave_out}  # fmt: skip


def write(folder: Path, variant: Variant, named: dict[str, Tensor], data: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(data))
    if variant.shards == 1:
        save_file(named, str(folder / "model.safetensors"))
        return
    keys = sorted(named)
    where = {}
    for shard in range(variant.shards):
        name = f"model-{shard + 1:05d}-of-{variant.shards:05d}.safetensors"
        part = {key: named[key] for key in keys[shard :: variant.shards]}
        save_file(part, str(folder / name))
        where |= dict.fromkeys(part, name)
    if variant.index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@torch.no_grad()
def assembled(variant: Variant, encoder: nn.Module, connector: nn.Module, lm: nn.Module, pixels: Tensor,
              ids: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Hidden states (L, D) and scores (L, V) from the foreign parts."""
    if variant.encoder == CLIP:
        states = encoder(pixels[None], output_hidden_states=True).hidden_states
        features = states[variant.config["select_layer"]][:, 1:]
    else:
        features = encoder.forward_features(pixels[None])[:, 1:]  # type: ignore[operator]
    embeddings = lm.get_input_embeddings()(ids.clamp(min=0))  # type: ignore[operator]
    embeddings[ids == -200] = connector(features)[0]
    body = lm.gpt_neox if variant.family == "pythia" else lm.backbone
    hidden = body(inputs_embeds=embeddings[None], use_cache=False).last_hidden_state[0]  # type: ignore[operator]
    return hidden, lm(inputs_embeds=embeddings[None], use_cache=False).logits[0].float()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_other_forms_load_and_agree(variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vision.CLIP_SHAPES, CLIP, CLIP_SHAPE)
    torch.manual_seed(len(variant.name))
    data = config_json(variant)
    encoder = foreign_encoder(variant).eval()
    lm = foreign_language_model(variant, data).eval()
    connector = nn.Sequential(
        nn.Linear(192 if "eva02_tiny" in variant.encoder else 32, data["hidden_size"]),
        nn.GELU(),
        nn.Linear(data["hidden_size"], data["hidden_size"]),
    )
    for part in (encoder, connector, lm):
        fill_at_random(part, variant.dtype)
    write(tmp_path / "variant", variant, published_names(variant, encoder, connector, lm), data)

    model = vlcompare.load(tmp_path / "variant")
    patch = 14 if "patch14" in variant.encoder else 16
    assert model.config.image_size == variant.size
    assert model.vlm.vision_encoder.grid == (variant.size // patch, variant.size // patch)
    patches = (variant.size // patch) ** 2
    pixels = torch.randn(3, variant.size, variant.size)
    ids = torch.cat([torch.tensor([5]), torch.full((patches,), -200), torch.randint(0, 300, (9,))])
    hidden, logits = assembled(variant, encoder, connector, lm, pixels, ids)
    for ours, truth in ((model.hidden(pixels, ids), hidden), (model.logits(pixels, ids), logits)):
        assert ours.shape == truth.shape
        torch.testing.assert_close(ours, truth, rtol=0, atol=5e-5 * max(1.0, float(truth.abs().max())))
    assert float(logits.abs().max()) > 0.1 and not torch.allclose(logits[-1], logits[-2], atol=1e-2)
