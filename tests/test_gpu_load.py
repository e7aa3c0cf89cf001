"""On a CUDA GPU: files fill it as they fill a CPU, one tensor at a time in host memory; the bench fills its rows."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch
from tiny import write_checkpoint

from vlcompare.bench.models import ModelOptions, run
from vlcompare.errors import CheckpointError
from vlcompare.models.config import MambaConfig, ModelConfig, PythiaConfig, VisionConfig
from vlcompare.runtime.loading.keys import FLOAT32
from vlcompare.runtime.loading.load import load
from vlcompare.runtime.loading.safetensors_files import read_headers

pytestmark = pytest.mark.gpu

FAMILIES = ("pythia", "mamba")
SCENE = {"stem": [8, 8, 16, 24], "depth": 1, "heads": 2, "hidden": 32, "grid": 4}
VISION = VisionConfig("vlcompare/scene", 64, scene=SCENE)
PRESETS = {
    "pythia": ModelConfig("pythia", VISION, PythiaConfig(1024, 512, 6, 8, 2048), 64),
    "mamba": ModelConfig("mamba", VISION, MambaConfig(1024, 512, 6), 64),
}


class Watch(threading.Thread):
    """The largest resident size of this process between start and `stop`, looked at every half millisecond."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = self.before = resident()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            self.peak = max(self.peak, resident())
            time.sleep(5e-4)

    def stop(self) -> int:
        self.over.set()
        self.join()
        return self.peak - self.before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_host_holds_one_tensor_at_a_time(tmp_path: Path, dtype: str) -> None:
    load(write_checkpoint(tmp_path / "small", "mamba"), device="cuda", dtype=dtype)  # kernels and contexts
    folder = write_checkpoint(tmp_path / "large", "mamba", width=2048)
    sizes = [entry.bytes for entry in read_headers([folder / "model.safetensors"]).values()]
    slack = 64 << 20
    assert sum(sizes) > max(sizes) + 2 * slack  # else this shows nothing
    watch = Watch()
    watch.start()
    load(folder, device="cuda", dtype=dtype)
    assert watch.stop() <= max(sizes) + slack


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_those_that_a_cpu_loads(tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path / family, family)
    here, there = (load(folder, device=device, dtype="bfloat16").vlm.state_dict() for device in ("cpu", "cuda"))
    assert here.keys() == there.keys()
    for name, value in there.items():
        assert value.is_cuda and value.dtype == (torch.float32 if f".{name}".endswith(FLOAT32) else torch.bfloat16)
        assert torch.equal(value.cpu(), here[name]), name


def test_damaged_values_are_found_on_the_device(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(tmp_path / "damaged", "mamba")
    tensors = load_file(str(folder / "model.safetensors"))
    tensors["backbone.layers.1.mixer.out_proj.weight"][3, 4] = float("nan")
    save_file(tensors, str(folder / "model.safetensors"))
    with pytest.raises(CheckpointError, match="layers.1.mixer.out_proj.weight.* holds NaN"):
        load(folder, device="cuda")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bench_of_every_precision_fills_its_rows(family: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    precisions = ("fp32", "bf16", "int8", "nf4")
    options = ModelOptions((family,), precisions, device="cuda", prompt=100, tokens=4, repeats=2)
    report = run(options, presets=PRESETS)
    rows = {(row.precision, row.who): row for row in report.rows}
    for precision in precisions:
        for who in ("vlcompare", "vlcompare, graphed"):
            row = rows[precision, who]
            assert not row.note and row.token_ms and row.ttft_ms and row.bandwidth_share and row.peak_bytes
    assert ("nf4", "vlcompare, graphed, bitsandbytes") in rows
    assert not rows["bf16", "transformers"].note and not rows["fp32", "transformers"].note
