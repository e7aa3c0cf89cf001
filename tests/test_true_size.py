"""Published shapes with random weights: the largest in two shards without an index, loaded within memory and answering;
the smallest pair's logits from packed weights.

Takes some minutes, 7 GB of memory and 7 GB of disk; left out of the quick suite (`pytest -m slow`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from vlcompare.bench.contestants import build
from vlcompare.bench.random_checkpoint import write
from vlcompare.models.config import PRESETS
from vlcompare.models.kernels import packed, packed_format
from vlcompare.runtime.loading.devices import vision_dtype
from vlcompare.runtime.loading.estimate import VISION_PARAMETERS

FIRST_SHARD = 5_000_000_000  # bytes; how the published files are cut

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


@pytest.mark.slow
def test_the_largest_shape_loads_within_memory_and_answers(tmp_path: Path, reference: Path) -> None:
    if psutil.virtual_memory().available < 9e9 or shutil.disk_usage(tmp_path).free < 8e9:
        pytest.skip("needs 9 GB of free memory and 8 GB of free disk")
    folder = tmp_path / "finetuned_mambavl_2.8b"
    try:
        largest = write(folder, PRESETS["mambavl_2.8b"], shard_bytes=FIRST_SHARD)
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
    encoder = vision_dtype(torch.bfloat16, torch.device("cpu"))  # as the processor has instructions for
    assert found["weights"] == pytest.approx(2 * 3_081_337_792 + (encoder.itemsize - 2) * VISION_PARAMETERS, rel=0.01)
    slack = 150 << 20  # allocator and the model's own objects
    assert found["after"] - found["before"] <= found["weights"] + slack
    assert found["peak"] - found["before"] <= found["weights"] + largest + slack


def stepped_logits(lm: Any) -> torch.Tensor:
    """Logits (5, V), float32, after twelve positions that are read at once and each of four that follow singly."""
    ids = torch.arange(16, dtype=torch.long) * 2971 % 50000
    state = lm.new_state(1, 16)
    with torch.inference_mode():
        found = [lm.logits(lm.forward(lm.embed_tokens(ids[None, :12]), state)[:, -1])]
        found += [lm.logits(lm.step(lm.embed_tokens(one[None]), state)) for one in ids[12:]]
    return torch.cat(found).float()


def as_training_begins(lm: Any) -> None:
    """A Mamba's time steps and residuals as its authors begin (arXiv 2312.00752, section 3.6; out_proj over the root of
    the number of layers). With others each layer makes a difference larger: bfloat16 alone then changes logits by .4.
    """
    generator = torch.Generator().manual_seed(0)
    for layer in lm.layers:
        mixer = layer.mixer
        steps = torch.exp(torch.empty_like(mixer.dt_proj.bias).uniform_(-6.9, -2.3, generator=generator))
        mixer.dt_proj.bias = nn.Parameter(torch.log(torch.expm1(steps)), requires_grad=False)
        mixer.out_proj.absmax.mul_(len(lm.layers) ** -0.5)


def unpack_all(lm: nn.Module) -> None:
    """Each packed weight as a Linear in float32."""
    for name, module in list(lm.named_modules()):
        if isinstance(module, packed.PackedLinear):
            shape = module.out_features, module.in_features
            made = nn.Linear(shape[1], shape[0], bias=module.bias is not None, device="meta")
            weight = packed_format.unpacked(module.method, module.packed, module.absmax, shape, torch.float32)
            made.weight = nn.Parameter(weight, requires_grad=False)
            made.bias = module.bias
            parent, _, last = name.rpartition(".")
            setattr(lm.get_submodule(parent), last, made)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nf4", "int8"])
@pytest.mark.parametrize("shape", ["pythiavl_1b", "mambavl_790m"])
def test_logits_from_packed_weights_are_the_unpacked_ones_at_full_depth(shape: str, method: str) -> None:
    if psutil.virtual_memory().available < 9e9 or not packed.supported():
        pytest.skip("needs 9 GB of free memory and kernels for packed weights")
    lm: Any = build(PRESETS[shape], method, torch.device("cpu")).language_model
    if PRESETS[shape].family == "mamba":
        as_training_begins(lm)
    rounded = stepped_logits(lm)  # bfloat16 activations
    lm.float()  # all but the packed weights
    kernels = stepped_logits(lm)
    unpack_all(lm)
    exact = stepped_logits(lm)
    unpacked = stepped_logits(lm.bfloat16())
    error, in_bfloat16, not_packed = (
        ((one - exact).norm() / exact.norm()).item() for one in (kernels, rounded, unpacked)
    )
    print(f"{shape}, {method}, {packed.variant(method)}: {error:.1e}; with bfloat16 activations {in_bfloat16:.1e}")
    print(f"unpacked, weights and activations in bfloat16: {not_packed:.1e}")
    assert error <= 1e-2 and in_bfloat16 <= 1.5 * not_packed
