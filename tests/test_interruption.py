"""Stop ends a pass between two layers, in the vision encoder and in the prefill of both families."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import write_checkpoint

import vlcompare
from vlcompare.errors import RequestError
from vlcompare.models.config import VisionConfig
from vlcompare.models.interruption import Interrupted, interruptible
from vlcompare.models.vision import build_vision_encoder
from vlcompare.runtime.blanking import explain_request
from vlcompare.runtime.engine import generate
from vlcompare.types import Request

LAYERS = 24
PICTURE = Image.radial_gradient("L").resize((90, 60)).convert("RGB")


@pytest.fixture(scope="module", params=["pythia", "mamba"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    write_checkpoint(folder, request.param, layers=LAYERS, depth=LAYERS, width=64, image_size=96)
    return vlcompare.load(folder, device="cpu")


def watched(layers: Any, ran: list[int], cancel: threading.Event, last: int) -> list[Any]:
    """Count the layers that have run; with layer `last` the answer is no longer wanted."""

    def count(layer: Any, given: Any, result: Any, index: int) -> None:
        ran.append(index)
        if index == last:
            cancel.set()

    return [
        layer.register_forward_hook(lambda *given, index=index: count(*given, index=index))
        for index, layer in enumerate(layers)
    ]


def layers_of(model: Any, part: str) -> list[Any]:
    if part == "vision":
        return list(model.vlm.vision_encoder.model.blocks)
    layers = list(model.vlm.language_model.layers)
    return [layer.mixer for layer in layers] if model.config.family == "mamba" else layers


@pytest.mark.parametrize("part", ["vision", "prefill"])
@pytest.mark.parametrize("last", [0, 9])
def test_no_layer_runs_after_the_one_in_which_it_was_cancelled(model: Any, part: str, last: int) -> None:
    cancel, ran = threading.Event(), list[int]()
    hooks = watched(layers_of(model, part), ran, cancel, last)
    try:
        answer = generate(model, PICTURE, task="captioning", cancel=cancel)
        assert ran == list(range(last + 1))
        assert (answer.stop_reason, answer.tokens, answer.error) == ("cancelled", (), None)
        assert (answer.timings.vision_ms > 0) == (part == "prefill") and answer.timings.total_ms > 0
        cancel.clear()
        ran.clear()
        with pytest.raises(RequestError, match="stopped before"):
            explain_request(model, PICTURE, Request("captioning"), "the car", cancel=cancel)
        assert ran == list(range(last + 1))
    finally:
        for hook in hooks:
            hook.remove()
    again = generate(model, PICTURE, task="captioning", max_new_tokens=3, stop_at_end=False)
    assert len(again.tokens) == 3, "the model answers as before"


def test_a_deadline_ends_a_prefill_too(model: Any) -> None:
    ran: list[int] = []
    hooks = watched(layers_of(model, "prefill"), ran, threading.Event(), LAYERS)
    answer = generate(model, PICTURE, task="captioning", deadline=1e-9)
    for hook in hooks:
        hook.remove()
    assert (answer.stop_reason, ran) == ("deadline", [])


@pytest.mark.parametrize("name", ["timm/eva02_tiny_patch14_224", "openai/clip-vit-base-patch32"])
def test_encoders_of_other_libraries_ask_before_every_layer(name: str) -> None:
    with torch.device("meta"):
        encoder = build_vision_encoder(VisionConfig(name, 224))
        pixels, asked = torch.zeros(1, 3, 224, 224), list[int]()
        with interruptible(lambda: asked.append(0)):
            encoder(pixels)
        assert len(asked) >= 12
        with pytest.raises(Interrupted), interruptible(lambda: len(asked) > 15 or asked.append(0)):
            encoder(pixels)
        assert len(asked) == 16
    with interruptible(lambda: True):
        shapes: list[Any] = []
        pixels = torch.zeros(1, 3, 224, 224, device="meta")
        thread = threading.Thread(target=lambda: shapes.append(encoder(pixels).shape))
        thread.start()
        thread.join()
    assert len(shapes) == 1, "the passes of another thread are not asked"


@pytest.mark.parametrize("kind", ["packed", "widened"])
def test_a_product_of_many_rows_ends_between_two_slices_of_its_weights(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One matrix of a large model takes tenths of a second."""
    from vlcompare.models.kernels import linear, packed

    made, weight = list[int](), torch.rand(64, 64)

    def product(x: Any, part: Any, bias: Any = None, plain: Any = torch.nn.functional.linear) -> Any:
        made.append(len(part))
        return plain(x, part, bias)

    def unpacked(own: Any, first: int, last: int, held: Any, plain: Any = packed.PackedLinear.unpacked_rows) -> Any:
        made.append(last - first)
        return plain(own, first, last, held)

    if kind == "packed":
        monkeypatch.setattr(packed, "_EVEN", 16)
        monkeypatch.setattr(packed, "_SLICE", 16 * 64 * 4)  # in bytes
        monkeypatch.setattr(packed.PackedLinear, "unpacked_rows", unpacked)
        work = partial(packed.PackedLinear("int8", *packed.quantized(weight, "int8"), (64, 64)), torch.rand(99, 64))
    else:
        monkeypatch.setattr(linear, "_SLICE", 16 * 64)
        monkeypatch.setattr(linear.F, "linear", product)
        work = partial(linear._widened, torch.rand(99, 64).bfloat16(), weight.bfloat16(), None)
    with interruptible(lambda: len(made) == 2), pytest.raises(Interrupted):
        work()
    assert made == [16, 16]
