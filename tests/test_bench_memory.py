"""The benchmark of resident memory: what it writes is read as the shape, and what it says of models is true."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from tiny import write_pair

import vlcompare
from vlcompare.bench import memory, resident
from vlcompare.bench.random_checkpoint import config_json, write
from vlcompare.errors import RequestError
from vlcompare.models.config import PRESETS, MambaConfig, ModelConfig, PythiaConfig, VisionConfig, from_dict
from vlcompare.runtime.loading.devices import vision_dtype
from vlcompare.runtime.loading.shared_encoders import unique_bytes

_VISION = VisionConfig("eva02_tiny_patch14_224", 28)
TINY = {
    "pythia": ModelConfig("pythia", _VISION, PythiaConfig(512, 64, 1, 4, 256), 28),
    "mamba": ModelConfig("mamba", _VISION, MambaConfig(512, 64, 1), 28),
}


@pytest.mark.parametrize("shape", PRESETS)
def test_a_config_is_read_as_the_shape_that_was_written(shape: str) -> None:
    assert from_dict(json.loads(json.dumps(config_json(PRESETS[shape])))) == PRESETS[shape]


def test_random_checkpoints_load_and_hold_one_encoder(tmp_path: Path) -> None:
    models = []
    for name, config in TINY.items():
        folder = tmp_path / name
        largest = write(folder, config, shard_bytes=200_000)
        assert len(list(folder.glob("model-*-of-00002.safetensors"))) == 2
        models.append(vlcompare.load(folder, device="cpu", quantization="nf4"))
        assert max(entry.bytes for entry in models[-1].stored) == largest
    assert models[0].vlm.vision_encoder is models[1].vlm.vision_encoder


def test_the_measuring_process_answers_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_pair(tmp_path)
    jobs = [{"folder": str(folder / name), "quantization": "none", "dtype": "float32"} for name in ("a", "pythia")]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(json.dumps(job) + "\n" for job in jobs)))
    resident.main()
    refused, found = map(json.loads, capsys.readouterr().out.splitlines())
    assert "error" in refused
    held = vlcompare.load(folder / "pythia", device="cpu")
    assert found["weights_bytes"] == found["together_bytes"] == unique_bytes([held]) == held.weights_bytes
    assert found["encoder"] == "float32" and found["over_final_bytes"] >= 0 < found["load_s"]
    assert found["libraries_bytes"] >= 0


def test_unknown_names_are_refused_before_anything_is_written() -> None:
    with pytest.raises(RequestError, match="shape 'x' is not known"):
        memory.run(memory.MemoryOptions(shapes=("x",)))


@pytest.mark.slow
def test_a_process_loads_them_one_after_the_other() -> None:
    report = memory.run(memory.MemoryOptions(tuple(TINY), ("fp32", "nf4")), presets=TINY)
    assert [(row.shape, row.precision) for row in report.rows] == [
        (shape, precision) for precision in ("fp32", "nf4") for shape in TINY
    ]
    first, second, *_ = report.rows
    assert second.together_bytes < first.weights_bytes + second.weights_bytes, "one encoder in both"
    packed = vision_dtype(torch.bfloat16, torch.device("cpu"))  # the encoder's dtype beside packed layers
    assert [row.encoder for row in report.rows] == ["float32"] * 2 + [str(packed).removeprefix("torch.")] * 2
