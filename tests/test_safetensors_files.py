"""Safetensors files: which are taken, what is believed of a header, and what is refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlcompare.errors import CheckpointError
from vlcompare.runtime.loading.keys import file_key, model_key, plan
from vlcompare.runtime.loading.safetensors_files import (
    Stored,
    check_finite,
    read_header,
    read_headers,
    read_tensor,
    write_file,
)
from vlcompare.runtime.loading.weight_files import file_sha256, weight_files

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "c": torch.tensor([[7]], dtype=torch.int64),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(3.0),
}


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def row(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, str(file), metadata={"format": "pt"})
    stored = read_header(file)
    assert set(stored) == set(TENSORS)
    for key, tensor in TENSORS.items():
        found = read_tensor(stored[key])
        assert found.dtype == tensor.dtype and torch.equal(found, tensor)


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    write_file(file, {key: (t.dtype, tuple(t.shape)) for key, t in TENSORS.items()}, iter(TENSORS.values()))
    found = load_file(str(file))
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[key], tensor) for key, tensor in TENSORS.items())
    assert read_header(file)["a"].begin % 8 == 0


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match="announced"):
        write_file(file, {"a": (torch.float32, (3,))}, iter([torch.zeros(2)]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "truncated or not a safetensors file"),
        (b"\x02\0\0", "truncated or not a safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "truncated or not a safetensors file"),
        (b"PK\x03\x04" + b"x" * 60, "truncated or not a safetensors file"),
        (raw(b"{oh no}"), "not readable JSON"),
        (raw([1, 2]), "not a table of tensors"),
        (raw({"k": {"dtype": "F32"}}), "'k' is described incompletely"),
        (raw({"k": row([1], 0, 4, "F8_E4M3")}, b"1234"), "'k' is stored as 'F8_E4M3'"),
        (raw({"k": row([2], 0, 4)}, b"1234"), "lies about 'k'"),
        (raw({"k": row([-1], 0, 4)}, b"1234"), "lies about 'k'"),
        (raw({"k": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4.0]}}, b"1234"), "lies about 'k'"),
        (raw({"k": row([1 << 63], 0, 4)}, b"1234"), "lies about 'k' (F32 [9223372036854775808]"),
        # to multiply these out would keep the whole process busy for a minute
        (raw({"k": row([10**4200] * 400, 0, 4)}, b"1234"), "lies about 'k' (F32 [1000"),
        (raw({"k": row([2], 0, 8)}, b"1234"), "'k' should end at byte"),
        (raw({"k": row([1], 0, 4), "l": row([1], 0, 4)}, b"1234"), "'l' overlaps"),
        (raw({"k": row([1], 4, 8)}, b"12345678"), "'k' overlaps another tensor or leaves a gap"),
        (raw({"k": row([1], 0, 4)}, b"12345678"), "4 bytes that no tensor owns"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_headers_that_lie(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(file)
    assert says in str(caught.value) and "model.safetensors" in str(caught.value) and len(str(caught.value)) < 600


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"k": torch.zeros(100)}, str(file))
    stored = read_header(file)["k"]
    with file.open("r+b") as stream:
        stream.truncate(stored.begin + 10)
    with pytest.raises(CheckpointError, match="'k' ends too early"):
        read_tensor(stored)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_found_wherever_they_are(dtype: torch.dtype, bad: float) -> None:
    stored = Stored(Path("model.safetensors"), "k", dtype, (3, 1 << 20), 0, 0)
    tensor = torch.zeros(3, 1 << 20, dtype=dtype)
    check_finite(tensor, stored)
    tensor[2, -1] = bad
    with pytest.raises(CheckpointError, match="model.safetensors: 'k' holds NaN"):
        check_finite(tensor, stored)


def shards(folder: Path, names: list[str], index: dict[str, str] | None = None) -> None:
    for number, name in enumerate(names):
        save_file({f"k{number}": torch.zeros(1)}, str(folder / name))
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(
    ("names", "index", "taken"),
    [
        (["model.safetensors"], None, ["model.safetensors"]),
        ([ONE, TWO], None, [ONE, TWO]),
        ([ONE, TWO], {"k0": ONE, "k1": TWO}, [ONE, TWO]),
        (["x.safetensors"], {"k0": "x.safetensors"}, ["x.safetensors"]),
        (["model.safetensors", ONE, TWO], None, ["model.safetensors"]),
    ],
    ids=["one file", "shards", "shards and index", "index of other names", "one file before shards"],
)
def test_which_files_are_taken(
    tmp_path: Path, names: list[str], index: dict[str, str] | None, taken: list[str]
) -> None:
    shards(tmp_path, names, index)
    assert [file.name for file in weight_files(tmp_path)] == taken


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: shards(f, [ONE]), f"The shard {TWO} is missing"),
        (lambda f: shards(f, [ONE], {"k0": ONE, "k1": TWO}), f"The shard {TWO} is missing"),
        (lambda f: shards(f, [ONE, "model-00001-of-00003.safetensors"]), "shards of different sets"),
        (lambda f: shards(f, [ONE], {"k0": "../../etc/passwd"}), "not a safetensors file of this folder"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json cannot be read"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[" * 100_000), "index.json cannot be read"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), "pytorch_model.bin and no safetensors"),
        (lambda f: (f / "weights.pt").write_bytes(b"x"), "can run code when they are opened"),
        (lambda f: None, "not a whole checkpoint"),
    ],
    ids=[
        "shard",
        "shard of index",
        "two sets",
        "out of the folder",
        "index",
        "deep index",
        "pickle",
        "pickle .pt",
        "nothing",
    ],  # fmt: skip
)
def test_folders_that_are_refused(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    make(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        weight_files(tmp_path)
    assert says in str(caught.value)


def test_one_key_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in (ONE, TWO):
        save_file({"k": torch.zeros(1)}, str(tmp_path / name))
    with pytest.raises(CheckpointError, match=f"{TWO}: 'k' is stored in {ONE} as well"):
        read_headers(weight_files(tmp_path))


def test_checksum_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# ------------------------------------------------------------------------------------------------ the key map


@pytest.mark.parametrize(
    ("family", "key", "name"),
    [
        ("pythia", "gpt_neox.layers.3.attention.dense.bias", "language_model.layers.3.attention.dense.bias"),
        ("pythia", "embed_out.weight", "language_model.embed_out.weight"),
        ("mamba", "backbone.layers.0.mixer.A_log", "language_model.layers.0.mixer.A_log"),
        ("mamba", "backbone.embedding.weight", "language_model.embedding.weight"),
        ("mamba", "vision_embed_tokens.2.bias", "connector.2.bias"),
        ("mamba", "vision_encoder.blocks.0.attn.q_bias", "vision_encoder.model.blocks.0.attn.q_bias"),
    ],
)
def test_names_there_and_back(family: str, key: str, name: str) -> None:
    assert model_key(key, family) == name
    assert file_key(name, family) == key


def account(keys: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]], family: str, **how: object):  # noqa: ANN201
    stored = {key: Stored(Path("f.safetensors"), key, torch.float32, shape, 0, 0) for key, shape in keys.items()}
    return plan(stored, wanted, family, **how)  # type: ignore[arg-type]


EMBEDDING = "language_model.embedding.weight"


@pytest.mark.parametrize(
    ("keys", "used"),
    [
        (["backbone.embedding.weight", "backbone.x"], "backbone.embedding.weight"),
        (["lm_head.weight", "backbone.x"], "lm_head.weight"),
        (["backbone.embedding.weight", "lm_head.weight", "backbone.x"], "lm_head.weight"),
        (["lm_head.weight", "backbone.embedding.weight", "backbone.x"], "lm_head.weight"),
    ],
)
def test_the_head_wins_among_tied_tensors(keys: list[str], used: str) -> None:
    todo = account(dict.fromkeys(keys, (4, 2)), {EMBEDDING: (4, 2), "language_model.x": (4, 2)}, "mamba")
    assert todo.fill[EMBEDDING].key == used
    assert len(todo.replaced) == len(keys) - 2


@pytest.mark.parametrize("in_file", ["vision_encoder.vision_model.a", "vision_encoder.a"])
@pytest.mark.parametrize("in_model", ["vision_encoder.model.vision_model.a", "vision_encoder.model.a"])
def test_clip_with_and_without_its_extra_level(in_file: str, in_model: str) -> None:
    keys = {in_file: (1,), "gpt_neox.x": (2,), "vision_encoder.vision_model.embeddings.position_ids": (1, 5)}
    todo = account(keys, {in_model: (1,), "language_model.x": (2,)}, "pythia")
    assert todo.fill[in_model].key == in_file
    assert [entry.key for entry in todo.computed] == ["vision_encoder.vision_model.embeddings.position_ids"]


@pytest.mark.parametrize(
    ("keys", "family", "says"),
    [
        ({"backbone.x": (1,)}, "pythia", "'backbone.x' belongs to a mamba model"),
        ({"gpt_neox.x": (1,)}, "mamba", "'gpt_neox.x' belongs to a pythia model"),
        ({"model.layers.0": (1,)}, "mamba", "holds no backbone"),
        ({}, "mamba", "it is empty"),
        ({"backbone.x": (1,), "other": (1,)}, "mamba", "'other' is not part of this mamba model"),
        ({"backbone.x": (1,), "backbone.y": (1,)}, "mamba", "'backbone.y' is not part of this mamba model"),
        ({"backbone.x": (2,)}, "mamba", "'backbone.x' has the shape [2] where config.json asks for [1]"),
        ({"backbone.norm_f.bias": (1,)}, "mamba", "'backbone.x' missing"),
    ],
)
def test_keys_that_do_not_fit(keys: dict[str, tuple[int, ...]], family: str, says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        account(keys, {"language_model.x": (1,)}, family)
    assert says in str(caught.value)


def test_norm_biases_that_are_not_stored_are_zero_only_when_asked() -> None:
    wanted = {"language_model.x": (1,), "language_model.layers.0.norm.bias": (2,), "language_model.norm_f.bias": (2,)}
    todo = account({"backbone.x": (1,)}, wanted, "mamba", zero_norm_biases=True)
    assert set(todo.zero) == set(wanted) - {"language_model.x"}
    with pytest.raises(CheckpointError, match="and 1 more missing"):
        account({"backbone.x": (1,)}, wanted, "mamba")
