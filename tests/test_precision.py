"""Which precision is chosen on a processor, said with its reason and its cost, and offered where it helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import write_checkpoint

import vlcompare
from vlcompare.runtime.loading import devices, quantize
from vlcompare.runtime.loading.estimate import estimate
from vlcompare.runtime.loading.precision import chosen, preferred
from vlcompare.types import ModelSpec

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("m") / "mamba", "mamba")


@pytest.mark.parametrize("instructions", [True, False])
def test_a_large_model_is_in_bfloat16_with_the_encoder_that_fits_the_processor(
    folder: Path, monkeypatch: pytest.MonkeyPatch, instructions: bool
) -> None:
    monkeypatch.setattr(devices, "native_bfloat16", lambda: instructions)
    small = vlcompare.load(folder, device="cpu")
    assert small.dtype == small.vision_dtype == torch.float32 and not small.notices
    monkeypatch.setattr(devices, "LARGE", 1)
    large = vlcompare.load(folder, device="cpu")
    assert large.dtype == torch.bfloat16 == large.vlm.connector[0].weight.dtype
    assert large.vision_dtype == (torch.bfloat16 if instructions else torch.float32)
    assert large.weights_bytes == pytest.approx(estimate(ModelSpec(str(folder), device="cpu")).weights, rel=0.02)
    said = " ".join(large.notices)
    assert "half of float32's memory" in said and ("vision encoder runs in float32" in said) is not instructions
    assert vlcompare.load(folder, device="cpu", dtype="float32").dtype == torch.float32
    picture = Image.radial_gradient("L").convert("RGB")
    asked = {"task": "vqa", "text": "the car", "max_new_tokens": 2, "stop_at_end": False}
    one, other = (vlcompare.generate(model, picture, **asked) for model in (small, large))
    assert one.tokens[0].logprob == pytest.approx(other.tokens[0].logprob, abs=0.1)


def test_a_choice_of_one_s_own_is_not_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "native_bfloat16", lambda: True)
    assert not chosen(ModelSpec("x", dtype="bfloat16"), "none", torch.bfloat16, CPU)
    assert not chosen(ModelSpec("x"), "none", torch.bfloat16, torch.device("cuda"))
    assert chosen(ModelSpec("x", "nf4"), "nf4", torch.bfloat16, CPU)[0].startswith("What is not quantized runs")


def test_what_a_cpu_multiplies_with_is_offered_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "has_kernels", lambda method, device: method == "nf4")
    assert preferred("cpu") == ("nf4", "none")
    monkeypatch.setattr(quantize, "has_kernels", lambda method, device: False)
    assert preferred("cpu") == ("none",)


def test_a_checkpoint_that_is_chosen_brings_the_quantization_that_suits_its_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from vlcompare.runtime.loading import cost
    from vlcompare.ui.compare.panels.published import PAIR, first_choice, size_sentence
    from vlcompare.ui.settings import AppSettings

    free = [int(1e11)]
    monkeypatch.setattr(quantize, "has_kernels", lambda method, device: True)
    monkeypatch.setattr(cost, "available_bytes", lambda device: free[0])
    monkeypatch.setattr(cost, "free_disk", lambda: int(1e12))

    def page(**given: Any) -> Any:
        return SimpleNamespace(settings=AppSettings.from_environment({}, device="cpu", **given), pool=None)

    own = page(allow_path=folder.parent)
    assert first_choice(page(), PAIR[1]) == "nf4" and first_choice(page(), "tiny-mamba-vl") == "none"
    assert first_choice(own, str(folder)) == "none"
    monkeypatch.setattr(devices, "LARGE", 1000)
    assert first_choice(own, str(folder)) == "nf4" and first_choice(page(), "../no/such") is None
    assert first_choice(page(quantization="none"), PAIR[1]) is None, "the operator's own choice stays"
    free[0] = 1
    assert first_choice(page(), PAIR[1]) == "nf4", "nothing fits: the smallest"
    said = size_sentence(page(), PAIR[1], "nf4")
    assert "does not fit here. On a CPU 4 bits a weight are offered first" in said and "may change an answer" in said
    assert "offered first" not in size_sentence(page(), PAIR[1], "none")
    opened = page(left=PAIR[0], right=PAIR[1]).settings
    assert opened.quantization == "nf4" and page().settings.quantization == "none"
    assert page(left=PAIR[0], right=PAIR[1], quantization="int8").settings.quantization == "int8"
