"""The joined model against the authors' recorded outputs, and how image features meet the sequence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vlcompare.errors import CheckpointError, RequestError
from vlcompare.models.config import MambaConfig, ModelConfig, PythiaConfig, VisionConfig, from_dict
from vlcompare.models.vlm import VisionLanguageModel, meta_model

# variant -> the folder it is read from, and the norms it is run with
VARIANTS = {
    "a_pythia_single_f32": ("a_pythia_single_f32", "layernorm"),
    "b_mamba_ln_both": ("b_mamba_ln_both", "layernorm"),
    "c_mamba_ln_shards_lmhead": ("c_mamba_ln_shards_lmhead", "layernorm"),
    "d_mamba_ln_embedding": ("d_mamba_ln_embedding", "layernorm"),
    "e_mamba_rms": ("e_mamba_rms", "rmsnorm"),
    "e_mamba_rms__as_layernorm": ("e_mamba_rms", "layernorm"),
    "f_pythia_shards_bf16": ("f_pythia_shards_bf16", "layernorm"),
    "h_mamba_clipflags_336": ("h_mamba_clipflags_336", "layernorm"),
    "i_pythia_clipflags_112": ("i_pythia_clipflags_112", "layernorm"),
}
NEW_TOKENS = 12
KEY_MAP = [
    ("vision_encoder.", "vision_encoder.model."),
    ("vision_embed_tokens.", "connector."),
    ("gpt_neox.", "language_model."),
    ("embed_out.", "language_model.embed_out."),
    ("backbone.", "language_model."),
    ("lm_head.weight", "language_model.embedding.weight"),
]


def read_directly(folder: Path, norm: str) -> VisionLanguageModel:
    """Fill a model by a small map of its own: the numerics are tested here, not the loader."""
    from safetensors.torch import load_file

    config = from_dict(json.loads((folder / "config.json").read_text())).with_norm(norm)  # type: ignore[arg-type]
    model = meta_model(config)
    wanted, weights = model.state_dict(), {}
    for file in sorted(folder.glob("*.safetensors")):
        for key, tensor in load_file(file).items():
            for theirs, ours in KEY_MAP:
                if key.startswith(theirs):
                    weights[ours + key.removeprefix(theirs)] = tensor.float()
    for key in wanted.keys() - weights.keys():
        assert key.endswith(("norm.bias", "norm_f.bias"))  # RMSNorm weights run as LayerNorm: biases of zero
        weights[key] = torch.zeros(wanted[key].shape)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_as_the_authors_code(variant: str, reference: Path, reference_checkpoints: Path) -> None:
    folder, norm = VARIANTS[variant]
    model = read_directly(reference_checkpoints / folder, norm)
    expected = np.load(reference / "expected" / f"{variant}.npz")
    recorded = np.load(reference / "expected" / f"pixel_values_{model.config.image_size}.npz")
    pixels = torch.from_numpy(recorded[recorded.files[0]]).reshape(1, 3, *[model.config.image_size] * 2)

    def close(ours: Tensor, key: str, atol: float) -> None:
        theirs = torch.from_numpy(expected[key]).float()
        torch.testing.assert_close(ours.reshape(theirs.shape), theirs, atol=atol, rtol=0)

    with torch.inference_mode():
        theirs = torch.from_numpy(expected["vision_features"]).float()
        ours = model.vision_encoder(pixels)[0]
        torch.testing.assert_close(ours, theirs.reshape(-1, ours.shape[-1])[-len(ours) :], atol=2e-4, rtol=0)
        features = model.encode_image(pixels)
        close(features, "patch_embeddings", 2e-4)
        for order in ("image_first", "instruction_first"):
            ids = torch.from_numpy(expected[f"{order}.input_ids"]).long().reshape(1, -1)
            language = model.language_model
            state = language.new_state(1, ids.shape[1] + NEW_TOKENS)
            hidden = language(model.embed(ids, features), state)
            close(hidden, f"{order}.hidden", 5e-4)
            logits = language.logits(hidden[:, -1])
            close(logits, f"{order}.last_logits", 3e-4)
            chosen = []
            for _ in range(NEW_TOKENS):
                chosen.append(logits.argmax(-1))
                logits = language.logits(language.step(language.embed_tokens(chosen[-1]), state))
            assert torch.cat(chosen).tolist() == expected[f"{order}.new_ids"].reshape(-1).tolist()


FAMILIES = {
    "pythia": ModelConfig("pythia", VisionConfig("vlcompare/scene", 32), PythiaConfig(50, 16, 1, 2, 32), 32),
    "mamba": ModelConfig("mamba", VisionConfig("vlcompare/scene", 32), MambaConfig(50, 16, 1), 32),
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> VisionLanguageModel:
    torch.manual_seed(0)
    return VisionLanguageModel(FAMILIES[request.param]).eval()


def test_features_stand_at_the_slots_in_raster_order(model: VisionLanguageModel) -> None:
    features = torch.arange(2 * 4 * 16.0).view(2, 4, 16)
    ids = torch.tensor([[7, -200, -200, 8, -200, -200], [-200, -200, 7, -200, 9, -200]])
    with torch.no_grad():
        embedded = model.embed(ids, features)
        text = model.language_model.embed_tokens(torch.tensor([7, 8, 9]))
    (a, b, c), (p, q, r, s) = text, features[0]
    torch.testing.assert_close(embedded[0], torch.stack([a, p, q, b, r, s]))
    p, q, r, s = features[1]
    torch.testing.assert_close(embedded[1], torch.stack([p, q, a, r, c, s]))


def test_image_becomes_one_embedding_a_patch(model: VisionLanguageModel) -> None:
    with torch.no_grad():
        assert model.encode_image(torch.zeros(2, 3, 32, 32)).shape == (2, 4, 16)


@pytest.mark.parametrize(
    ("ids", "patches", "says"),
    [
        ([[1, -200, -200]], 4, "4 patches, but the sequence has 2"),
        ([[1, 2, 3]], 4, "has 0"),
        ([[1, -200, 2]], None, "no image was given"),
        ([[1, 50, 2]], None, "from 0 to 49"),
        ([[1, -3, 2]], None, "from 0 to 49"),
    ],
)
def test_sequences_that_do_not_fit(model: VisionLanguageModel, ids: list, patches: int | None, says: str) -> None:
    features = None if patches is None else torch.zeros(1, patches, 16)
    with pytest.raises(RequestError, match=says):
        model.embed(torch.tensor(ids), features)


def test_an_impossible_size_blames_the_file_or_the_request() -> None:
    config = FAMILIES["mamba"].with_image_size(40)
    with pytest.raises(RequestError, match="40 is not a multiple of 16"):
        meta_model(config)
    of_the_file = ModelConfig("mamba", config.vision, config.language, trained_image_size=40)
    with pytest.raises(CheckpointError, match="40 is not a multiple of 16"):
        meta_model(of_the_file)


def test_parameter_names_are_the_published_ones_by_prefix(model: VisionLanguageModel) -> None:
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"vision_encoder", "connector", "language_model"}
    assert {name for name, _ in model.connector.named_parameters()} == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_no_attention_builds_a_plan_for_every_shape() -> None:
    """cuDNN's would, wherever torch prefers it: for each prompt's length anew."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        scene = VisionConfig(
            "vlcompare/scene", 32, scene={"stem": [8, 8], "depth": 1, "heads": 2, "hidden": 16, "grid": 2}
        )
        meta_model(ModelConfig("mamba", scene, MambaConfig(64, 16, 1), 32))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
