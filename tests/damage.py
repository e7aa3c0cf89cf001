"""Ways to damage a small checkpoint, each by name: a function that changes the folder it is given.

Used by the tests that ask whether `verify` and `ask` agree about every one of them.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Damage = Callable[[Path], object]
DEEP = "[" * 100_000
HUGE = "[" + "1," * 2_000_000 + "1]"
# fields of config.json that a model is built from, and values that none of them can have
FIELDS = (
    "architectures", "d_model", "n_layer", "vocab_size", "image_size", "vision_encoder_name", "scene_encoder",
    "ssm_cfg", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings",
    "rotary_pct", "rotary_emb_base", "layer_norm_eps", "hidden_act", "pad_vocab_size_multiple", "select_layer",
)  # fmt: skip
VALUES: dict[str, Any] = {
    "text": "x", "surrogate": "\ud800", "long": "y" * 100_000, "list": [1, 2], "table": {"a": {}}, "flag": True,
    "zero": 0, "minus": -3, "half": 1.5, "huge": 10**30, "tiny": 1e-300, "infinite": float("inf"), "nan": float("nan"),
    "large": 2000,
}  # fmt: skip
DTYPES = ("I64", "I32", "U8", "I8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "F64", "F16", "BF16", "U16")


def edit_json(name: str, edit: Callable[[Any], object]) -> Damage:
    """Change what a JSON file of the folder holds, in place."""

    def damage(folder: Path) -> None:
        data = json.loads((folder / name).read_text(encoding="utf-8"))
        edit(data)
        (folder / name).write_text(json.dumps(data), encoding="utf-8")

    return damage


def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Change the tensors of a folder's one file."""

    def damage(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        edit(held)
        save_file({key: value.contiguous() for key, value in held.items()}, folder / "model.safetensors")

    return damage


def header(edit: Callable[[dict[str, Any]], object]) -> Damage:
    """Change a safetensors header, the tensors' bytes left as they are."""

    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        raw = file.read_bytes()
        end = 8 + struct.unpack("<Q", raw[:8])[0]
        rows = json.loads(raw[8:end])
        edit(rows)
        text = json.dumps(rows).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + raw[end:])

    return damage


def replaced(name: str, kind: str) -> Damage:
    """Put something in a file's place that is not a file, or not that one."""

    def damage(folder: Path) -> None:
        path = folder / name
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path)
        elif kind in ("zero", "null"):
            path.symlink_to(f"/dev/{kind}")
        else:
            texts = {"empty": "", "deep": DEEP, "huge": HUGE, "list": "[]", "nothing": "null", "broken": '{"a":',
                     "large": " " * (40 << 20) + "{}"}  # fmt: skip
            path.write_text(texts[kind])

    return damage


def some(held: dict[str, torch.Tensor], part: str) -> str:
    """The first key of a part of the model."""
    return next(key for key in held if part in key and held[key].is_floating_point())


def retyped(part: str, dtype: str) -> Damage:
    """Store one tensor as another dtype, header and bytes agreeing."""
    sizes = {"I64": 8, "F64": 8, "C64": 8, "I32": 4, "F16": 2, "BF16": 2, "U16": 2}

    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        raw = file.read_bytes()
        start = 8 + struct.unpack("<Q", raw[:8])[0]
        rows = json.loads(raw[8:start])
        rows.pop("__metadata__", None)
        chosen = next(key for key in rows if part in key)
        written, place = b"", {}
        for key, row in rows.items():
            begin, end = row["data_offsets"]
            data, kind = raw[start + begin : start + end], row["dtype"]
            if key == chosen:
                count = (end - begin) // {"F32": 4, "U8": 1, "I8": 1}[kind]
                data, kind = bytes(count * sizes.get(dtype, 1)), dtype
            where = [len(written), len(written) + len(data)]
            place[key] = {"dtype": kind, "shape": row["shape"], "data_offsets": where}
            written += data
        text = json.dumps(place).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + written)

    return damage


def _filled(part: str, value: float, dtype: torch.dtype = torch.float32, one: bool = True) -> Damage:
    def edit(held: dict[str, torch.Tensor]) -> None:
        key = some(held, part)
        held[key] = held[key].to(dtype)
        held[key].view(-1)[: 1 if one else None] = value

    return tensors(edit)


def _growing(count: int) -> dict[str, Any]:
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    return {"type": "Sequence", "normalizers": [double] * count}


def _decoder(count: int) -> dict[str, Any]:
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    return {"type": "Sequence", "decoders": [{"type": "Fuse"}, *[double] * count]}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _added(count: int) -> list[dict[str, Any]]:
    common = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return [{"id": 10_000 + index, "content": f"<{index}>", **common} for index in range(count)]


def _words(data: dict[str, Any], vocabulary: dict[str, int]) -> None:
    data["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": next(iter(vocabulary))}
    data["added_tokens"], data["decoder"] = [], None
    data["pre_tokenizer"] = {"type": "WhitespaceSplit"}


TOKENIZERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "growing normaliser": lambda d: d.update(normalizer=_growing(40)),
    "growing a little": lambda d: d.update(normalizer=_growing(8)),
    "growing decoder": lambda d: d.update(decoder=_decoder(40)),
    "nested quantifiers": lambda d: d.update(pre_tokenizer=_split("(a+)+$")),
    "nested alternatives": lambda d: d.update(pre_tokenizer=_split("(q|qq)+$")),
    "bad pattern": lambda d: d.update(pre_tokenizer=_split("(((")),
    "empty pattern": lambda d: d.update(normalizer={"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
    "all erased": lambda d: d.update(normalizer={"type": "Replace", "pattern": {"Regex": "."}, "content": ""}),
    "digits erased": lambda d: d.update(normalizer={"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": ""}),
    "no model": lambda d: d.pop("model"),
    "empty vocabulary": lambda d: d["model"].update(vocab={}),
    "no mark": lambda d: d["model"]["vocab"].pop("###"),
    "no separator": lambda d: d["model"]["vocab"].pop("&&"),
    "no end": lambda d: (d["model"]["vocab"].pop("<|endoftext|>"), d.update(added_tokens=[])),
    "mark beyond": lambda d: d["model"]["vocab"].update({"###": 400}),
    "piece beyond": lambda d: d["model"]["vocab"].update({"car": 10**6}),
    "huge id": lambda d: d["model"]["vocab"].update({"car": 2**32 - 1}),
    "minus id": lambda d: d["model"]["vocab"].update({"car": -1}),
    "added beyond": lambda d: d["added_tokens"].extend(_added(3)),
    "200,000 added": lambda d: d.update(added_tokens=_added(200_000)),
    "all unknown": lambda d: _words(d, {"?": 1, "###": 2, "&&": 3, "<|endoftext|>": 0}),
    "no letters": lambda d: [d["model"]["vocab"].pop(chr(c), None) for c in range(97, 123)],
    "no decoder": lambda d: d.update(decoder=None),
    "constant decoder": lambda d: d.update(decoder={"type": "Replace", "pattern": {"Regex": "(?s).+"}, "content": "x"}),
    "panics when read": lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AA=="}),
    "panics when used": lambda d: d.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "long piece": lambda d: d["model"]["vocab"].update({"z" * 2_000_000: 268, "||": 267}),
    "wrong types": lambda d: d.update(model=7),
    "unigram": lambda d: d.update(model={"type": "Unigram", "vocab": [["a", float("nan")]], "unk_id": 5}),
    "prepended": lambda d: d.update(normalizer={"type": "Prepend", "prepend": "b" * 1_000_000}),
}


def _empty_tensors(rows: dict[str, Any]) -> None:
    rows.update({f"gpt_neox.layers.{i}.attention.bias": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                 for i in range(200_000)})  # fmt: skip


def _offsets(begin: int, end: int) -> Damage:
    def edit(rows: dict[str, Any]) -> None:
        row = rows[next(key for key in rows if key != "__metadata__")]
        row["data_offsets"] = [row["data_offsets"][0] + begin, row["data_offsets"][1] + end]

    return header(edit)


def _cut(share: float) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "model.safetensors"
        os.truncate(file, int(file.stat().st_size * share))

    return damage


def _shards(index: str | None) -> Damage:
    def damage(folder: Path) -> None:
        shutil.move(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
        if index is not None:
            (folder / "model.safetensors.index.json").write_text(index)

    return damage


def _parts(family: str) -> tuple[str, ...]:
    language = ("attention.dense.weight", "embed_in", "final_layer_norm.bias")
    language = ("mixer.A_log", "in_proj.weight", "embedding", "norm_f.bias") if family == "mamba" else language
    return (*language, "vision_encoder", "vision_embed_tokens.0.weight")


def damages(family: str, quantized: str = "none") -> Iterator[tuple[str, Damage]]:
    """Every damage by name, for a checkpoint of a family as tests/tiny.py writes it, maybe quantized."""
    parts = (f".{quantized}", "absmax") if quantized != "none" else ()
    for part in (*parts, *_parts(family)):
        for dtype in DTYPES:
            if quantized == "none" or part in parts:
                yield f"{part} as {dtype}", retyped(part, dtype)
    for part in ("absmax",) if parts else _parts(family):
        for value in (float("nan"), float("inf"), 3.4e38, 1e37, 1e30):
            yield f"{part} one {value}", _filled(part, value)
            yield f"{part} all {value}", _filled(part, value, one=False)
        yield f"{part} 1e300", _filled(part, 1e300, torch.float64)
    if family == "mamba":
        yield "mixer.A_log one 100.0", _filled("mixer.A_log", 100.0)
    for part in parts or _parts(family):
        cut = tensors(lambda held, part=part: held.update({(key := next(k for k in held if part in k)): held[key][1:]}))
        yield f"{part} shorter", cut
        yield f"{part} missing", tensors(lambda held, part=part: held.pop(next(k for k in held if part in k)))
    yield "surplus key", tensors(lambda held: held.update({"more": torch.zeros(1)}))
    yield "surplus layer", tensors(lambda held: held.update({f"{_prefix(family)}layers.7.x": torch.zeros(1)}))
    yield "200,000 empty tensors", header(_empty_tensors)
    yield "large metadata", header(lambda rows: rows.update(__metadata__={"a": "x" * (5 << 20)}))
    yield "long key", header(lambda rows: rows.update({"k" * 100_000: rows.pop(next(iter(rows)))}))
    for begin, end in ((1, 0), (0, 1), (-4, 0), (4, 4), (10**9, 10**9), (0, 2**62)):
        yield f"offsets {begin} {end}", _offsets(begin, end)
    for share in (0, 0.0001, 0.1, 0.5, 0.999):
        yield f"cut to {share}", _cut(share)
    for index in ("{", DEEP, HUGE, "[]", '{"weight_map": {"a": "../model.safetensors"}}', '{"weight_map": {"a": 1}}'):
        yield f"index {index[:20]}", _shards(index)
    yield "one shard", _shards(None)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        for kind in ("pipe", "folder", "loop", "zero", "null", "empty", "deep", "huge", "list", "nothing", "broken",
                     "large"):  # fmt: skip
            yield f"{name} {kind}", replaced(name, kind)
    for name, edit in TOKENIZERS.items():
        yield f"tokenizer {name}", edit_json("tokenizer.json", edit)
    for field in FIELDS:
        for kind, value in VALUES.items():
            yield f"{field} {kind}", edit_json("config.json", lambda d, f=field, v=value: d.update({f: v}))
        yield f"{field} none", edit_json("config.json", lambda d, f=field: d.pop(f, None))


def _prefix(family: str) -> str:
    return "backbone." if family == "mamba" else "gpt_neox."
