"""`load`: options, damaged checkpoints, what stays in memory, and how much of it loading takes."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import write_checkpoint
from vlcompare.errors import CheckpointError, DeviceMemoryError, RequestError, VLCompareError
from vlcompare.models.config import PRESETS
from vlcompare.models.mamba import Mamba
from vlcompare.models.vlm import VisionLanguageModel
from vlcompare.runtime.loading import devices, quantize
from vlcompare.runtime.loading import fill as fill_module
from vlcompare.runtime.loading.estimate import estimate
from vlcompare.runtime.loading.export import write_quantized
from vlcompare.runtime.loading.load import load
from vlcompare.runtime.loading.locate import find_source
from vlcompare.runtime.loading.verify import verify
from vlcompare.types import ModelSpec, Request

FAMILIES = ("pythia", "mamba")
IDS = [5, 6, -200, 7, 8]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {family: write_checkpoint(root / family, family, image_size=64) for family in FAMILIES}


@pytest.fixture
def folder(folders: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy to damage."""
    family = getattr(request, "param", "mamba")
    return Path(shutil.copytree(folders[family], tmp_path / family))


def ids_of(model: Any) -> torch.Tensor:
    rows, columns = model.vlm.vision_encoder.grid
    return torch.tensor([5, 6, *[-200] * (rows * columns), 7, 8])


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(str(folder / "model.safetensors"))
    edit(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(folder / "model.safetensors"))


def edit_config(folder: Path, **values: object) -> None:
    data = json.loads((folder / "config.json").read_text())
    data.update(values)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in data.items() if v != "REMOVE"}))


# ------------------------------------------------------------------------------------------------ what comes back


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_says_what_it_is(folders: dict[str, Path], family: str) -> None:
    model = load(folders[family], device="cpu")
    assert model.config.family == family
    assert (model.device.type, model.dtype, model.quantization) == ("cpu", torch.float32, "none")
    assert (model.checkpoint, model.revision, model.notices) == (str(folders[family]), None, ())
    assert model.config.image_size == model.config.trained_image_size == 64
    assert all(not p.requires_grad and p.device.type == "cpu" for p in model.vlm.parameters())
    assert all(not b.is_meta for b in model.vlm.buffers()) and not model.vlm.training
    stored = (folders[family] / "model.safetensors").stat().st_size
    assert 0.9 * stored < model.weights_bytes < 1.1 * stored
    pixels = torch.rand(3, 64, 64)
    ids = ids_of(model)
    logits, hidden = model.logits(pixels, ids), model.hidden(pixels.numpy(), ids.tolist())
    assert logits.shape == (len(ids), model.config.language.vocab_size) and hidden.shape[0] == len(ids)
    assert torch.allclose(model.vlm.language_model.logits(hidden), logits, atol=1e-5)
    assert model.tokenizer.end_id == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_close_and_half_the_size(
    monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path], family: str
) -> None:
    monkeypatch.setattr(devices, "native_bfloat16", lambda: True)
    full, half = load(folders[family]), load(folders[family], dtype="bf16")
    assert half.dtype == torch.bfloat16 and half.vision_dtype == torch.bfloat16
    assert half.weights_bytes < 0.55 * full.weights_bytes
    pixels, ids = torch.rand(3, 64, 64), ids_of(full)
    a, b = full.logits(pixels, ids), half.logits(pixels, ids)
    assert b.dtype == torch.float32 and 0 < (a - b).norm() / a.norm() < 0.1
    if family == "mamba":
        mixer = half.vlm.language_model.layers[0].mixer
        assert mixer.A_log.dtype == mixer.D.dtype == torch.float32


def test_shards_without_an_index_give_the_same(folder: Path) -> None:
    whole = load(folder)
    checksum = whole.weights_sha256()
    tensors = load_file(str(folder / "model.safetensors"))
    keys = sorted(tensors)
    for number, part in enumerate((keys[::2], keys[1::2]), 1):
        save_file({key: tensors[key] for key in part}, str(folder / f"model-{number:05d}-of-00002.safetensors"))
    (folder / "model.safetensors").unlink()
    halves = load(folder)
    assert halves.weights_sha256() == checksum
    assert all(torch.equal(a, b) for a, b in zip(whole.vlm.parameters(), halves.vlm.parameters(), strict=True))


def test_tied_tensors_that_differ_are_told_and_the_head_serves(folder: Path) -> None:
    change(folder, lambda t: t.update({"lm_head.weight": t["backbone.embedding.weight"].clone()}))
    assert load(folder).notices == ()
    head = torch.zeros(load_file(str(folder / "model.safetensors"))["lm_head.weight"].shape)
    change(folder, lambda t: t.update({"lm_head.weight": head}))
    model = load(folder)
    assert "lm_head.weight serves as both" in model.notices[0]
    assert not model.vlm.language_model.embedding.weight.any()


@pytest.mark.parametrize("left_out", [(), ("embed_out.weight",), ("gpt_neox.embed_in.weight",)], ids=str)
def test_a_tied_transformer_is_loaded_verified_and_quantized_alike(
    folders: dict[str, Path], tmp_path: Path, left_out: tuple[str, ...]
) -> None:
    folder = Path(shutil.copytree(folders["pythia"], tmp_path / "tied"))
    edit_config(folder, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    tensors["embed_out.weight"] = tensors["gpt_neox.embed_in.weight"].clone()
    save_file({key: tensor for key, tensor in tensors.items() if key not in left_out}, folder / "model.safetensors")
    assert verify(folder)[-1] == "A question was answered."
    again = load(write_quantized(find_source(folder), tmp_path / "int8", "int8", torch.device("cpu")))
    first, pixels = load(folder, quantization="int8"), torch.rand(3, 64, 64)
    assert torch.equal(again.logits(pixels, ids_of(first)), first.logits(pixels, ids_of(first)))


def test_a_prompt_order_that_was_not_trained_is_marked(folder: Path) -> None:
    request = Request("captioning", prompt_order="instruction_first")
    (sentence,) = load(folder).notices_for(request)
    assert "not trained with the instruction first" in sentence
    config = json.loads((folder / "config.json").read_text())
    config["trained_prompt_orders"] = ["image_first", "instruction_first"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).notices_for(request) == ()


def test_a_task_that_is_answered_by_chance_is_marked(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tasks_at_chance": ["multiple_choice"]}))
    model = load(folder)
    (sentence,) = model.notices_for(Request("multiple_choice", text="Which?", choices=("a", "b")))
    assert "guesses at multiple choice" in sentence
    assert model.notices_for(Request("captioning")) == ()


@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
def test_another_image_size_is_resampled_and_marked(folder: Path) -> None:
    small, large = load(folder), load(folder, image_size=96)
    assert (large.config.image_size, large.config.trained_image_size) == (96, 64)
    assert large.vlm.vision_encoder.grid == (6, 6) and small.vlm.vision_encoder.grid == (4, 4)
    assert "was trained at 64 pixels and is run at 96" in large.notices[0]
    assert load(folder, image_size=64).notices == ()
    request = Request("captioning")
    assert small.notices_for(request) == () and large.notices_for(request) == large.notices
    assert large.logits(torch.rand(3, 96, 96), ids_of(large)).isfinite().all()


def test_timm_positions_are_resampled(reference_checkpoints: Path) -> None:
    from timm.layers import resample_abs_pos_embed

    folder = reference_checkpoints / "i_pythia_clipflags_112"
    stored = load_file(str(folder / "model.safetensors"))["vision_encoder.pos_embed"]
    model = load(folder, image_size=168)
    wanted = resample_abs_pos_embed(stored, [12, 12], [8, 8], num_prefix_tokens=1)
    assert torch.equal(model.vlm.vision_encoder.model.pos_embed, wanted)


def test_bf16_vision_stays_close(reference_checkpoints: Path) -> None:
    """timm's tiny encoder joins stored and computed biases in one product: their dtypes must agree."""
    folder = reference_checkpoints / "a_pythia_single_f32"
    pixels = torch.rand(1, 3, 56, 56)
    full = load(folder).vlm.encode_image(pixels)
    half = load(folder, dtype="bfloat16").vlm.encode_image(pixels).float()
    assert (full - half).norm() / full.norm() < 0.03


@pytest.mark.parametrize("level", ["vision_model.", ""], ids=["transformers 4", "transformers 5"])
def test_clip_as_either_version_of_transformers_stores_it(
    folder: Path, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlcompare.models import vision

    name = "openai/clip-tiny"
    monkeypatch.setitem(vision.CLIP_SHAPES, name, vision.ClipShape(32, 3, 2, 64, 16))
    torch.manual_seed(0)
    encoder = vision.build_vision_encoder(vision.VisionConfig(name, 64))
    foreign = {key.replace("vision_model.", ""): value for key, value in encoder.model.state_dict().items()}
    foreign["embeddings.position_ids"] = torch.arange(17)[None]  # an older version stored it

    def swap(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if key.startswith("vision_encoder.")]:
            del tensors[key]
        tensors.update({f"vision_encoder.{level}{key}": value for key, value in foreign.items()})
        tensors["vision_embed_tokens.0.weight"] = torch.randn(32, 32)

    change(folder, swap)
    edit_config(folder, vision_encoder_name=name, scene_encoder=None)
    model = load(folder)
    pixels = torch.rand(1, 3, 64, 64)
    loaded, made = model.vlm.vision_encoder.state_dict(), encoder.state_dict()
    assert loaded.keys() == made.keys() and all(torch.equal(loaded[key], made[key]) for key in made)
    with torch.no_grad():  # where weights lie in memory may decide how a sum is rounded
        torch.testing.assert_close(model.vlm.vision_encoder(pixels), encoder(pixels), rtol=1e-5, atol=1e-5)
    assert load(folder, image_size=96).vlm.vision_encoder(torch.rand(1, 3, 96, 96)).shape == (1, 36, 32)


@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
def test_progress_ends_at_the_whole(folder: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    load(folder, progress=lambda *event: heard.append(event))
    assert heard[-1][1] == heard[-1][2] > 0
    assert [event[1] for event in heard] == sorted(event[1] for event in heard)


def test_norms_follow_the_tensors(folder: Path) -> None:
    assert load(folder).config.language.norm == "layernorm"  # type: ignore[union-attr]
    change(folder, lambda t: [t.pop(k) for k in list(t) if "norm" in k and k.startswith("backbone") and "bias" in k])
    assert load(folder).config.language.norm == "rmsnorm"  # type: ignore[union-attr]
    zero = load(folder, norm="layernorm")
    assert not zero.vlm.language_model.norm_f.bias.any()


def test_rmsnorm_for_a_file_with_biases_only_if_they_are_zero(folder: Path) -> None:
    def shift(tensors: dict[str, torch.Tensor]) -> None:
        tensors["backbone.layers.1.norm.bias"] += 1

    assert load(folder, norm="rmsnorm").config.language.norm == "rmsnorm"  # type: ignore[union-attr]
    change(folder, shift)
    with pytest.raises(CheckpointError, match=r"'backbone.layers.1.norm.bias' is a bias that is not zero"):
        load(folder, norm="rmsnorm")


def test_without_a_tokenizer_ids_work_and_text_says_what_is_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlcompare.runtime.loading import hub

    def offline(*args: object, **how: object) -> None:
        raise CheckpointError("no network in tests")

    monkeypatch.setattr(hub, "fetch", offline)
    (folder / "tokenizer.json").rename(tmp_path / "other.json")
    model = load(folder)
    assert (model.tokenizer.mark_id, model.tokenizer.separator_id, model.tokenizer.end_id) == (4118, 10494, 0)
    assert model.logits(torch.rand(3, 64, 64), ids_of(model)).shape[0] == 20
    with pytest.raises(CheckpointError, match="no network in tests"):
        model.tokenizer.encode("text")
    given = load(folder, tokenizer=tmp_path / "other.json")
    assert given.tokenizer.decode(given.tokenizer.encode(" red car")) == " red car"


def test_checksum_knows_the_weights_and_not_the_precision(folders: dict[str, Path], folder: Path) -> None:
    first = load(folders["mamba"]).weights_sha256()
    assert load(folders["mamba"], dtype="bf16").weights_sha256() == first
    assert load(folders["pythia"]).weights_sha256() != first
    change(folder, lambda t: t["backbone.layers.0.mixer.D"].add_(1))
    assert load(folder).weights_sha256() != first


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"device": "tpu"}, RequestError, "not a device"),
        ({"device": "cuda:99"}, RequestError, "CUDA devices"),
        ({"device": "meta"}, RequestError, "not a supported device|not a device"),
        ({"dtype": "float64"}, RequestError, "not a precision"),
        ({"dtype": "float16", "device": "cpu"}, RequestError, "A CPU does not compute in float16"),
        ({"quantization": "int3"}, RequestError, "not a quantization"),
        ({"image_size": 100}, RequestError, "multiple of 16"),
        ({"image_size": -16}, RequestError, "cannot be used"),
        ({"image_size": 10**9}, RequestError, "cannot be used"),
        ({"norm": "batchnorm"}, RequestError, "not a kind of norm"),
        ({"revision": "main"}, RequestError, "for checkpoints on the Hub"),
        ({"tokenizer": "/does/not/exist.json"}, CheckpointError, "does not exist"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_options_that_do_not_fit(folders: dict[str, Path], options: dict[str, Any], error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        load(folders["mamba"], **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quantization": "int3"}, "not a quantization"),
        ({"image_size": 10**9}, "cannot be used"),
        ({"norm": "batchnorm"}, "not a kind of norm"),
        ({"tokenizer": "~nobody-of-this-name/tokenizer.json"}, "does not exist"),
        ({"tokenizer": "x" * 5000}, "does not exist"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_are_refused_before_the_checkpoint_is_looked_for(options: dict[str, Any], says: str) -> None:
    with pytest.raises(VLCompareError, match=says):
        load("no-checkpoint-of-this-name", **options)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 64, 64), (1, 3, 64, 64)], ids=str)
def test_pixels_of_another_shape_are_refused(folders: dict[str, Path], shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"must be \(3, 64, 64\)"):
        load(folders["mamba"]).logits(torch.zeros(shape), [5])


def test_pythia_has_no_rmsnorm(folders: dict[str, Path]) -> None:
    with pytest.raises(RequestError, match="Pythia"):
        load(folders["pythia"], norm="rmsnorm")


def _truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1000)


def _lie(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"shape":[32]', b'"shape":[33]', 1))


def _nan(folder: Path) -> None:
    change(folder, lambda t: t["backbone.layers.1.mixer.D"].fill_(float("nan")))


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _first_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


KEY = "backbone.layers.1.mixer.D"
DAMAGE: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "truncated": (_truncate, ("model.safetensors", "truncated")),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), ("model.safetensors", "truncated")),
    "lying header": (_lie, ("model.safetensors", "lies about")),
    "missing key": (lambda f: change(f, lambda t: t.pop(KEY)), ("model.safetensors", KEY, "missing")),
    "no embedding": (
        lambda f: change(f, lambda t: t.pop("backbone.embedding.weight")),
        ("model.safetensors", "backbone.embedding.weight", "missing"),
    ),
    "extra key": (
        lambda f: change(f, lambda t: t.update({"backbone.more": torch.zeros(1)})),
        ("model.safetensors", "backbone.more", "not part"),
    ),
    "misshapen key": (
        lambda f: change(f, lambda t: t.update({KEY: t[KEY][1:]})),
        ("model.safetensors", KEY, "[63]", "[64]"),
    ),
    "integer key": (
        lambda f: change(f, lambda t: t.update({KEY: t[KEY].long()})),
        ("model.safetensors", KEY, "int64"),
    ),
    "NaN": (_nan, ("model.safetensors", KEY, "NaN")),
    "wrong family": (
        lambda f: edit_config(
            f, architectures=["VLCLIPGPTNeoXForCausalLM"], num_attention_heads=4, num_hidden_layers=2
        ),
        ("model.safetensors", "mamba", "pythia"),
    ),
    "other architecture": (lambda f: edit_config(f, architectures=["LlamaForCausalLM"]), ("config.json", "Llama")),
    "other sizes": (lambda f: edit_config(f, d_model=48), ("model.safetensors", "shape")),
    "more layers": (lambda f: edit_config(f, n_layer=3), ("model.safetensors", "backbone.layers.2", "missing")),
    "missing shard": (_first_shard, ("model-00002-of-00002.safetensors", "missing")),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ("model.safetensors",)),
    "no config": (lambda f: (f / "config.json").unlink(), ("config.json",)),
    "unreadable config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{"), ("config.json", "damaged")),
    "config of a list": (lambda f: (f / "config.json").write_text("[]"), ("config.json",)),
    "pickle": (_pickle, ("pytorch_model.bin", "run code", "save_file")),
    "auto_map": (lambda f: edit_config(f, auto_map={"AutoModel": "x.Y"}), ("config.json", "auto_map", "code")),
    "foreign quantization": (lambda f: edit_config(f, quantization_config={"bits": 4}), ("quantization_config",)),
    "quantized by another version": (
        lambda f: edit_config(f, vlcompare_quantization={"version": 9, "method": "nf4"}),
        ("config.json", "vlcompare_quantization"),
    ),
}


def _models() -> set[int]:
    # by type: isinstance follows a weak proxy, whose object may be gone
    return {id(thing) for thing in gc.get_objects() if issubclass(type(thing), VisionLanguageModel)}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_sentence_and_leaves_nothing(folder: Path, kind: str) -> None:
    make, words = DAMAGE[kind]
    make(folder)
    gc.collect()
    before = _models()
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and message.endswith(".")
    # the exception is still held here, and what was half loaded is gone all the same
    gc.collect()
    assert _models() <= before  # a page of an earlier test may still hold its own
    assert caught.value.__cause__ is None and caught.value.__context__ is None


@pytest.mark.parametrize("kind", DAMAGE)
def test_verify_finds_the_same_damage(folder: Path, kind: str) -> None:
    make, words = DAMAGE[kind]
    make(folder)
    with pytest.raises(CheckpointError) as caught:
        verify(folder)
    assert all(word in str(caught.value) for word in words)


def test_verify_of_a_whole_checkpoint(folders: dict[str, Path]) -> None:
    said = verify(folders["pythia"])
    assert said[-2:] == ["All values are finite.", "A question was answered."] and len(said) == 6


def test_verify_reads_through_what_the_machine_has_no_room_for(
    folders: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlcompare.runtime.memory.available_bytes", lambda device: 1000)
    said = verify(folders["mamba"])
    assert said[-2] == "All values are finite." and said[-1].startswith("No question was asked: ")
    _nan(folder)
    with pytest.raises(CheckpointError, match="NaN"):
        verify(folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing-of-this-name", "neither a known checkpoint"),
        ("", "neither a known checkpoint"),
        ("./no/such/folder", "neither a known checkpoint"),
        ("~nobody-of-this-name/x", "neither a known checkpoint"),
        ("x" * 300, "neither a known checkpoint"),
        ("x" * 200 + "/" + "y" * 200, "neither a known checkpoint"),
    ],
)
def test_checkpoints_that_are_not_there(name: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        load(name)


def test_a_name_from_elsewhere_is_not_looked_for_among_folders(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(folder, tmp_path / "owner" / "name")
    assert find_source("owner/name", offline=True) is not None
    assert find_source("owner/name", offline=True, names_only=True) is None
    assert estimate(ModelSpec("owner/name")).weights > 0
    assert estimate(ModelSpec("owner/name"), names_only=True).weights == 0
    for name in (str(tmp_path / "owner" / "name"), "./owner/name", "owner", ".", "~", "x" * 5000):
        with pytest.raises(CheckpointError, match="neither a known checkpoint"):
            find_source(name, offline=True, names_only=True)
    assert find_source("tiny-mamba-vl", names_only=True) is not None


def test_a_file_instead_of_its_folder(folders: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="give the folder"):
        load(folders["mamba"] / "model.safetensors")


def test_too_little_memory_is_told(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fill_module, "read_tensor", full)
    with pytest.raises(DeviceMemoryError, match="too little memory") as caught:
        load(folders["mamba"])
    assert caught.value.__cause__ is None


def test_a_cpu_without_room_is_asked_before(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlcompare.runtime.memory.available_bytes", lambda device: 1000)
    with pytest.raises(DeviceMemoryError, match="needs about .* are free"):
        load(folders["mamba"])


def test_what_would_not_fit_is_not_even_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*args: object, **how: object) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr("vlcompare.runtime.loading.hub.fetch", fetch)
    monkeypatch.setattr("vlcompare.runtime.loading.hub.cached", lambda *args, **how: None)
    monkeypatch.setattr("vlcompare.runtime.memory.available_bytes", lambda device: 10**9)
    with pytest.raises(DeviceMemoryError, match=r"mambavl_2.8b needs about 1\d.\d GB .* 1.0 GB are free") as caught:
        load("finetuned_mambavl_2.8b", device="cpu", dtype="float32")
    assert "choose a smaller checkpoint or nf4." in str(caught.value) or "or bfloat16." in str(caught.value)
    with pytest.raises(DeviceMemoryError, match=r"needs about \d.\d GB") as caught:
        load("finetuned_mambavl_2.8b", device="cpu", quantization="nf4")
    assert str(caught.value).endswith("limit or choose a smaller checkpoint."), "nf4 and bfloat16 are what was chosen"


# ------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bf16"])
def test_the_estimate_is_what_is_loaded(folders: dict[str, Path], family: str, dtype: str) -> None:
    loaded = load(folders[family], dtype=dtype, device="cpu").weights_bytes
    spec = ModelSpec(str(folders[family]), dtype=dtype, device="cpu")
    assert estimate(spec).weights == pytest.approx(loaded, rel=0.02)


@pytest.mark.parametrize("native", [True, False], ids=["native", "emulated"])
@pytest.mark.parametrize(
    ("name", "quantization", "gigabytes"),
    [
        ("finetuned_pythiavl_1b", "none", 2.64),
        ("finetuned_mambavl_2.8b", "none", 6.17),
        ("finetuned_pythiavl_2.8b", "nf4", 2.56),
        ("finetuned_mambavl_2.8b", "nf4", 2.56),
        ("somebody/unheard-of", "none", 0.0),
    ],
)
def test_the_estimate_of_a_published_size_needs_no_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, quantization: str, gigabytes: float, native: bool
) -> None:
    monkeypatch.setattr(devices, "native_bfloat16", lambda: native)
    if not native and gigabytes:
        gigabytes += 0.61  # the vision encoder's 304 M parameters in float32
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("VLCOMPARE_DATA", str(tmp_path))
    monkeypatch.setattr(quantize, "has_kernels", lambda method, device: True)
    assert estimate(ModelSpec(name, quantization, "cpu", "bf16")).weights / 1e9 == pytest.approx(gigabytes, abs=0.01)


def test_the_counted_shapes_are_those_that_are_built() -> None:
    """The count above against the model itself, on the smallest published shape."""
    preset = PRESETS["mambavl_790m"]
    with torch.device("meta"):
        language_model = Mamba(preset.language)  # type: ignore[arg-type]
    large = quantize.targets(language_model, "mamba")
    assert len(large) == 2 * 48
    assert sum(linear.weight.numel() for linear in large.values()) == 48 * (6144 * 1536 + 1536 * 3072)


_MEASURE = """
import sys, psutil, torch
from vlcompare.runtime.loading.load import load
folder, dtype = sys.argv[1:]
load(folder + "/small", device="cpu", dtype=dtype)  # imports, kernels of this dtype and other one-time costs
process = psutil.Process()
before = process.memory_info().rss
peak = before
def look(*event):
    global peak
    peak = max(peak, process.memory_info().rss)
model = load(folder + "/large", device="cpu", dtype=dtype, progress=look)
look()
print(before, peak, process.memory_info().rss, model.weights_bytes)
"""


@pytest.fixture(scope="module")
def small_and_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sizes")
    write_checkpoint(root / "small", "mamba")
    write_checkpoint(root / "large", "mamba", width=1024)
    change(root / "large", lambda t: t.update({k: v.bfloat16() for k, v in t.items()}))
    return root


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_peak_memory_is_the_model_and_one_tensor(small_and_large: Path, dtype: str) -> None:
    root = small_and_large
    out = subprocess.run([sys.executable, "-c", _MEASURE, str(root), dtype], capture_output=True, text=True, check=True)
    before, peak, after, weights = map(int, out.stdout.split())
    largest = max(
        v.numel() * (2 + 4 * (dtype == "float32")) for v in load_file(str(root / "large/model.safetensors")).values()
    )
    slack = 12 << 20
    assert peak - before <= weights + largest + slack
    assert after - before <= weights + slack


def test_preprocess_takes_any_picture(folders: dict[str, Path]) -> None:
    from PIL import Image

    model = load(folders["mamba"])
    pixels = model.preprocess(Image.new("RGB", (30, 200), (255, 0, 0)))
    assert pixels.shape == (3, 64, 64) and pixels.dtype == torch.float32
    assert np.asarray(pixels).max() > 1
    for mode in ("RGBA", "CMYK", "P"):
        torch.testing.assert_close(model.preprocess(Image.new("RGB", (30, 200), "red").convert(mode)), pixels)
