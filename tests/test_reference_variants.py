"""The published formats, variant by variant, against numbers that the authors' own code gave."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlcompare.models.config import PRESETS
from vlcompare.models.vlm import meta_model
from vlcompare.runtime.loading.keys import file_key, plan
from vlcompare.runtime.loading.load import load
from vlcompare.runtime.loading.model import Model
from vlcompare.runtime.loading.safetensors_files import Stored

VARIANTS = (
    "a_pythia_single_f32",
    "b_mamba_ln_both",
    "c_mamba_ln_shards_lmhead",
    "d_mamba_ln_embedding",
    "e_mamba_rms",
    "e_mamba_rms__as_layernorm",
    "f_pythia_shards_bf16",
    "h_mamba_clipflags_336",
    "i_pythia_clipflags_112",
)
ORDERS = ("image_first", "instruction_first")
NEW = 12


def load_variant(folder: Path, variant: str) -> Model:
    name, _, way = variant.partition("__as_")
    return load(folder / name, device="cpu", dtype="float32", norm=way or "auto")  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, reference: Path, reference_checkpoints: Path) -> tuple[Model, Any, Path]:
    expected = np.load(reference / "expected" / f"{request.param}.npz")
    return load_variant(reference_checkpoints, request.param), expected, reference


@torch.inference_mode()
def greedy(model: Model, pixels: torch.Tensor, ids: torch.Tensor) -> list[int]:
    """One forward over the prompt, then single steps: what the engine does, without the engine."""
    lm = model.vlm.language_model
    state = lm.new_state(1, len(ids) + NEW)
    hidden = lm(model.vlm.embed(ids[None], model.vlm.encode_image(pixels[None])), state)[:, -1]
    new = []
    for _ in range(NEW):
        new.append(int(lm.logits(hidden).argmax()))
        hidden = lm.step(lm.embed_tokens(torch.tensor([new[-1]])), state)
    return new


def test_preprocessing(case: tuple[Model, Any, Path]) -> None:
    model, _, reference = case
    pixels = model.preprocess(Image.open(reference / "expected" / "image_200x150.png").convert("RGB"))
    stored = np.load(reference / "expected" / f"pixel_values_{model.config.image_size}.npz")
    expected = stored[stored.files[0]].reshape(pixels.shape)
    assert pixels.dtype == torch.float32
    assert np.abs(np.asarray(pixels) - expected).max() <= 1e-5


@pytest.mark.parametrize("order", ORDERS)
def test_hidden_states_logits_and_greedy_ids(case: tuple[Model, Any, Path], order: str) -> None:
    model, expected, reference = case
    pixels = model.preprocess(Image.open(reference / "expected" / "image_200x150.png").convert("RGB"))
    ids = torch.from_numpy(expected[f"{order}.input_ids"].astype(np.int64)).reshape(-1)
    hidden = model.hidden(pixels, ids)
    logits = model.logits(pixels, ids)
    assert hidden.dtype == logits.dtype == torch.float32
    assert logits.shape == (len(ids), model.config.language.vocab_size)
    wanted = torch.from_numpy(expected[f"{order}.hidden"]).reshape(hidden.shape)
    assert (hidden - wanted).abs().max() <= 5e-4
    assert (logits[-1] - torch.from_numpy(expected[f"{order}.last_logits"]).reshape(-1)).abs().max() <= 3e-4
    assert greedy(model, pixels, ids) == expected[f"{order}.new_ids"].reshape(-1).tolist()


def test_rms_variant_differs_between_its_two_readings(reference_checkpoints: Path) -> None:
    """So that the two columns above could not both pass by accident."""
    rms = load_variant(reference_checkpoints, "e_mamba_rms")
    layer = load_variant(reference_checkpoints, "e_mamba_rms__as_layernorm")
    assert rms.config.language.norm == "rmsnorm" and layer.config.language.norm == "layernorm"  # type: ignore[union-attr]
    ids = torch.arange(5)
    pixels = torch.zeros(3, 56, 56)
    assert (rms.hidden(pixels, ids) - layer.hidden(pixels, ids)).abs().max() > 1e-2


def test_all_twelve_repositories_map_without_a_missing_or_extra_key(reference: Path) -> None:
    manifest = json.loads(gzip.decompress((reference / "key_manifest.json.gz").read_bytes()))
    assert len(manifest["checkpoints"]) == 12
    shapes = {}  # building the six shapes takes most of the time; two repositories share each
    for name, entry in manifest["checkpoints"].items():
        config = PRESETS[entry["architecture"]]
        if entry["architecture"] not in shapes:
            parameters = meta_model(config).named_parameters()
            shapes[entry["architecture"]] = {key: tuple(value.shape) for key, value in parameters}
        wanted = shapes[entry["architecture"]]
        keys = manifest["architectures"][entry["architecture"]]["keys"]
        stored = {
            key: Stored(Path(f"{name}.safetensors"), key, torch.bfloat16, tuple(shape), 0, 0)
            for key, shape in keys.items()
        }
        todo = plan(stored, wanted, config.family)
        assert set(todo.fill) == set(wanted)
        assert not (todo.zero or todo.must_be_zero or todo.computed)
        tied = config.family == "mamba"
        assert [entry.key for entry in todo.replaced.values()] == (["backbone.embedding.weight"] if tied else [])
        assert {file_key(key, config.family) for key in wanted} <= set(keys)
