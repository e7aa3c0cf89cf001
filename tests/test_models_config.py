"""config.json to frozen configurations: the published forms are read, everything odd is one sentence."""

from __future__ import annotations

import dataclasses
import gzip
import json

import pytest

from vlcompare.errors import CheckpointError
from vlcompare.models.config import PRESETS, MambaConfig, PythiaConfig, from_dict
from vlcompare.models.vlm import meta_model

VISION = {"vision_encoder_name": "timm/eva02_tiny_patch14_224", "image_size": 56, "select_layer": -2}
MAMBA = {
    "architectures": ["VLMambaCLIPLMHeadModel"],
    "d_model": 64,
    "n_layer": 3,
    "vocab_size": 50277,
    "pad_vocab_size_multiple": 8,
    "rms_norm": True,
    "ssm_cfg": {},
    **VISION,
}
PYTHIA = {
    "architectures": ["VLCLIPGPTNeoXForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 256,
    "vocab_size": 50304,
    **VISION,
}


def test_mamba_as_published() -> None:
    config = from_dict(MAMBA)
    assert (config.family, config.image_size, config.trained_image_size) == ("mamba", 56, 56)
    # the vocabulary is padded, and rms_norm in the file is not believed
    assert config.language == MambaConfig(50280, 64, 3, norm="layernorm")
    assert config.with_norm("rmsnorm").language.norm == "rmsnorm"
    assert (config.language.inner_size, config.language.rank) == (128, 4)


def test_pythia_as_published() -> None:
    config = from_dict({**PYTHIA, "hidden_act": "gelu", "rotary_pct": 0.25, "rope_scaling": None})
    assert config.language == PythiaConfig(50304, 64, 3, 4, 256)
    assert config.language.rotary_size == 4
    assert config.with_image_size(112).image_size == 112
    assert config.with_image_size(112).trained_image_size == 56
    assert config.with_norm("rmsnorm") == config


def test_transformers_5_writes_rope_parameters() -> None:
    rope = {"rope_type": "default", "rope_theta": 5000, "partial_rotary_factor": 0.5}
    language = from_dict({**PYTHIA, "rope_parameters": rope}).language
    assert isinstance(language, PythiaConfig)
    assert (language.rotary_share, language.rotary_base) == (0.5, 5000.0)


@pytest.mark.parametrize(
    ("change", "family"),
    [
        ({"architectures": None, "model_type": "gpt_neox"}, "pythia"),
        ({"architectures": None}, "pythia"),
        ({"architectures": []}, "pythia"),
    ],
)
def test_family_without_architectures(change: dict, family: str) -> None:
    assert from_dict({**PYTHIA, **change}).family == family
    assert from_dict({**MAMBA, "architectures": None}).family == "mamba"


def test_mamba_options() -> None:
    ssm = {"d_state": 8, "d_conv": 3, "expand": 3, "dt_rank": 5, "bias": True, "conv_bias": False, "layer": "Mamba1"}
    language = from_dict({**MAMBA, "ssm_cfg": ssm}).language
    assert language == MambaConfig(50280, 64, 3, 8, 3, 3, 5, projection_bias=True, conv_bias=False)
    assert from_dict({**MAMBA, "ssm_cfg": {"dt_rank": "auto"}}).language.rank == 4


@pytest.mark.parametrize(
    ("base", "change", "says"),
    [
        (MAMBA, {"d_model": None}, "'d_model'"),
        (MAMBA, {"n_layer": 0}, "'n_layer' is 0"),
        (MAMBA, {"n_layer": 10**9}, "1024"),
        (MAMBA, {"vocab_size": "many"}, "'vocab_size' is 'many'"),
        (MAMBA, {"vocab_size": True}, "'vocab_size' is True"),
        (MAMBA, {"ssm_cfg": {"layer": "Mamba2"}}, "Mamba-1"),
        (MAMBA, {"ssm_cfg": [1]}, "'ssm_cfg'"),
        (MAMBA, {"ssm_cfg": {"expand": 1e-9}}, "'expand' 1e-09"),
        (MAMBA, {"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        (MAMBA, {"architectures": ["GPTNeoXMamba"]}, "GPTNeoXMamba"),
        (MAMBA, {"image_size": -56}, "'image_size' is -56"),
        (MAMBA, {"image_size": float("nan")}, "'image_size' is nan"),
        (MAMBA, {"vision_encoder_name": 3}, "'vision_encoder_name' is 3"),
        (MAMBA, {"select_feature": "cls_patch"}, "'cls_patch'"),
        (MAMBA, {"select_layer": "last"}, "'select_layer' is 'last'"),
        (MAMBA, {"trained_prompt_orders": "image_first"}, "'trained_prompt_orders' is 'image_first'"),
        (MAMBA, {"tasks_at_chance": [1]}, "'tasks_at_chance' is [1]"),
        (PYTHIA, {"hidden_act": "tanhish"}, "'tanhish'"),
        (PYTHIA, {"num_attention_heads": 7}, "not divisible"),
        (PYTHIA, {"rotary_pct": 0.2}, "odd number"),
        (PYTHIA, {"rotary_pct": float("nan")}, "'rotary_pct' is nan"),
        (PYTHIA, {"rope_scaling": {"type": "linear", "factor": 2}}, "'linear'"),
        (PYTHIA, {"use_parallel_residual": "yes"}, "'use_parallel_residual' is 'yes'"),
        (PYTHIA, {"layer_norm_eps": -1}, "'layer_norm_eps' is -1"),
    ],
)
def test_odd_fields_are_one_sentence(base: dict, change: dict, says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_dict({**base, **change})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "text", 3, {}])
def test_what_is_no_config_at_all(data: object) -> None:
    with pytest.raises(CheckpointError):
        from_dict(data)


def test_configurations_are_frozen() -> None:
    config = from_dict(MAMBA)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.family = "pythia"  # type: ignore[misc]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_the_published_shapes(name: str, reference) -> None:
    with gzip.open(reference / "key_manifest.json.gz", "rt") as file:
        published = json.load(file)["architectures"][name]
    ours = meta_model(PRESETS[name])
    assert sum(parameter.numel() for parameter in ours.parameters()) == published["params_unique"]
    shapes = sorted(tuple(parameter.shape) for parameter in ours.parameters())
    theirs = {key: tuple(shape) for key, shape in published["keys"].items()}
    if PRESETS[name].family == "mamba":
        del theirs["lm_head.weight"]  # tied to the embedding
    assert shapes == sorted(theirs.values())
    assert all(parameter.is_meta for parameter in ours.parameters())
