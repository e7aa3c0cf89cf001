"""The largest published shape, with random weights: two shards without an index, loaded within memory, and answering.

Takes some minutes, 7 GB of memory and 7 GB of disk; left out of the quick suite (`pytest -m slow`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from vlcompare.models.config import PRESETS
from vlcompare.models.vlm import meta_model
from vlcompare.runtime.loading.keys import file_key
from vlcompare.runtime.loading.safetensors_files import write_file

FIRST_SHARD = 5_000_000_000  # bytes; how the published files are cut

CONFIG = {
    "architectures": ["VLMambaCLIPLMHeadModel"],
    "d_model": 2560,
    "n_layer": 64,
    "vocab_size": 50280,
    "pad_vocab_size_multiple": 8,
    "rms_norm": True,
    "ssm_cfg": {},
    "image_size": 336,
    "vision_encoder_name": "timm/eva02_large_patch14_clip_336",
    "select_feature": "patch",
    "select_layer": -2,
    "torch_dtype": "bfloat16",
}

MEASURE = """
import json, resource, sys, threading, time
import psutil
import vlcompare
from PIL import Image
from vlcompare.runtime import engine  # imports are not what is measured
from vlcompare.runtime.loading import load
import accelerate, timm

folder, tokenizer = sys.argv[1:]
process = psutil.Process()
before = process.memory_info().rss
began = time.perf_counter()
model = vlcompare.load(folder, device="cpu", dtype="bfloat16", image_size=112, tokenizer=tokenizer)
loading = time.perf_counter() - began
after = process.memory_info().rss
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answer = vlcompare.generate(model, Image.new("RGB", (160, 120), "red"), task="vqa", text="What is this?",
                            max_new_tokens=3, stop_at_end=False)
print(json.dumps({"before": before, "peak": peak, "after": after, "weights": model.weights_bytes, "seconds": loading,
                  "tokens": len(answer.tokens), "error": answer.error}))
"""


def write_true_size(folder: Path) -> int:
    """Random bf16 weights in the published layout, one tensor at a time. Returns the largest tensor's bytes."""
    model = meta_model(PRESETS["mambavl_2.8b"])
    shapes = {file_key(name, "mamba"): tuple(value.shape) for name, value in model.named_parameters()}
    order = sorted(shapes, key=lambda key: not key.startswith("backbone."))
    shards: list[list[str]] = [[], []]
    size = 0
    for key in order:
        size += 2 * torch.Size(shapes[key]).numel()
        shards[size > FIRST_SHARD].append(key)
    pool = torch.randn(1 << 24).mul_(0.02).bfloat16()

    def values(keys: list[str]) -> Iterator[torch.Tensor]:
        for key in keys:
            shape, count = shapes[key], torch.Size(shapes[key]).numel()
            if key.endswith("A_log"):
                yield torch.arange(1.0, shape[1] + 1).log().repeat(shape[0], 1).bfloat16()
            elif len(shape) == 1:
                yield torch.full(shape, float(key.endswith((".D", "weight"))), dtype=torch.bfloat16)
            else:
                yield pool.repeat(-(-count // len(pool)))[:count].view(shape)

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for number, keys in enumerate(shards, 1):
        entries = {key: (torch.bfloat16, shapes[key]) for key in keys}
        write_file(folder / f"model-{number:05d}-of-00002.safetensors", entries, values(keys))
    return max(2 * torch.Size(shape).numel() for shape in shapes.values())


@pytest.mark.slow
def test_the_largest_shape_loads_within_memory_and_answers(tmp_path: Path, reference: Path) -> None:
    if psutil.virtual_memory().available < 9e9 or shutil.disk_usage(tmp_path).free < 8e9:
        pytest.skip("needs 9 GB of free memory and 8 GB of free disk")
    folder = tmp_path / "finetuned_mambavl_2.8b"
    try:
        largest = write_true_size(folder)
        sizes = [path.stat().st_size for path in sorted(folder.glob("*.safetensors"))]
        assert [round(size / 1e9, 2) for size in sizes] == [4.96, 1.2]
        tokenizer = reference / "gpt-neox-20b-tokenizer.json"
        out = subprocess.run(
            [sys.executable, "-c", MEASURE, str(folder), str(tokenizer)], capture_output=True, text=True, check=True
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = json.loads(out.stdout)
    print(found)
    assert found["error"] is None and found["tokens"] == 3
    assert found["weights"] == pytest.approx(2 * 3_081_337_792, rel=0.01)
    slack = 150 << 20  # allocator and the model's own objects
    assert found["after"] - found["before"] <= found["weights"] + slack
    assert found["peak"] - found["before"] <= found["weights"] + largest + slack
