"""The embedded pair's held-out scores with packed weights are those of the whole ones, within their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import vlcompare
from vlcompare.evaluate.readers import open_samples
from vlcompare.evaluate.replies import request_of
from vlcompare.evaluate.run import batches
from vlcompare.evaluate.summary import evaluate, summarise
from vlcompare.models.kernels import packed
from vlcompare.paths import EMBEDDED
from vlcompare.runtime.batch import generate_batch
from vlcompare.runtime.picture_cache import PictureCache, SharedFeatures
from vlcompare.synth.scenes.dataset import SAMPLES, write_scenes
from vlcompare.types import Sample


def answers(name: str, method: Any, samples: list[Sample], shared: SharedFeatures) -> dict[str, dict[str, Any]]:
    model = vlcompare.load(name, device="cpu", quantization=method)
    if method != "none":
        assert any(isinstance(module, packed.PackedLinear) for module in model.vlm.modules())
    pictures, rows = PictureCache(shared=shared), dict[str, dict[str, Any]]()
    for batch in batches(iter(samples), 32):
        asked = [(sample.image, request_of(sample)) for sample in batch]
        made = generate_batch(model, asked, alternatives=1, pictures=pictures)
        rows |= {sample.id: answer.to_json() for sample, answer in zip(batch, made, strict=True)}
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_scores_stay_within_their_intervals(name: str, tmp_path: Path) -> None:
    write_scenes(tmp_path, 60, 2026)
    samples, shared = list(open_samples(tmp_path / SAMPLES)), SharedFeatures()
    whole = answers(name, "none", samples, shared)
    for method, least in (("int8", 0.95), ("nf4", 0.7)):
        rounded = answers(name, method, samples, shared)
        same = sum(rounded[key]["text"] == answer["text"] for key, answer in whole.items()) / len(whole)
        assert same >= least
        summary = summarise(evaluate(samples, {"left": rounded, "right": whole}), ["left", "right"])
        for task, metric in summary["main"].items():
            low, high = summary["paired"][task][metric]["ci95"]
            assert low <= 0 <= high, (method, task, metric)
