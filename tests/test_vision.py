"""Vision encoders: which patches come out, which sizes are refused, positions resampled, nothing lost on meta."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from vlcompare.errors import CheckpointError, RequestError
from vlcompare.models import vision
from vlcompare.models.config import VisionConfig
from vlcompare.models.meta_init import real_buffers, structure_only
from vlcompare.models.vision import ClipShape, VisionEncoder, build_vision_encoder, resample_position_embedding

TINY_EVA = "timm/eva02_tiny_patch14_224"


@pytest.fixture
def tiny_clip(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(vision.CLIP_SHAPES, "test/clip", ClipShape(32, 3, 2, 64, 16))
    return "test/clip"


def pixels(size: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(size))


def filled(encoder: VisionEncoder, source: VisionEncoder) -> VisionEncoder:
    encoder.load_state_dict(source.state_dict(), strict=True, assign=True)
    return encoder


@pytest.mark.parametrize(
    ("name", "size", "patch", "grid", "width"),
    [
        (TINY_EVA, 56, 14, (4, 4), 192),
        ("eva02_tiny_patch14_336", 112, 14, (8, 8), 192),
        ("test/clip", 64, 16, (4, 4), 32),
        ("vlcompare/scene", 112, 16, (7, 7), 192),
        ("vlcompare/scene", 160, 16, (10, 10), 192),
    ],
)
def test_shapes(name: str, size: int, patch: int, grid: tuple[int, int], width: int, tiny_clip: str) -> None:
    encoder = build_vision_encoder(VisionConfig(name, size))
    assert (encoder.patch_size, encoder.grid, encoder.width) == (patch, grid, width)
    with torch.no_grad():
        features = encoder(pixels(size, batch=2))
    assert features.shape == (2, grid[0] * grid[1], width)
    assert not encoder.training


@pytest.mark.parametrize("name", [TINY_EVA, "test/clip", "vlcompare/scene"])
def test_built_on_meta_then_filled_is_the_same(name: str, tiny_clip: str) -> None:
    """Buffers are in no file: they must be right although the module was built without memory."""
    torch.manual_seed(0)
    config = VisionConfig(name, 112)
    real = build_vision_encoder(config)
    with torch.device("meta"):
        empty = build_vision_encoder(config)
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert not any(buffer.is_meta for buffer in empty.buffers())
    with torch.no_grad():
        torch.testing.assert_close(filled(empty, real)(pixels(112)), real(pixels(112)), atol=0, rtol=0)


@pytest.mark.parametrize("name", [TINY_EVA, "test/clip"])
def test_filled_in_another_precision(name: str, tiny_clip: str) -> None:
    """A loader casts parameters alone. Buffers that are multiplied with them follow; the angles' tables stay exact."""
    torch.manual_seed(0)
    config = VisionConfig(name, 112)
    real = build_vision_encoder(config)
    with torch.device("meta"):
        empty = build_vision_encoder(config)
    empty.load_state_dict({key: tensor.bfloat16() for key, tensor in real.state_dict().items()}, assign=True)
    with torch.no_grad():
        ours, exact = empty(pixels(112).bfloat16()), real(pixels(112))
    assert ours.dtype == torch.bfloat16
    assert {buffer.dtype for path, buffer in empty.named_buffers() if "rope" in path} <= {torch.float32}
    assert (ours.float() - exact).abs().mean() < 0.05 * exact.abs().mean()


@pytest.mark.parametrize("name", [TINY_EVA, "test/clip"])
def test_a_structure_then_filled_is_the_same(name: str, tiny_clip: str) -> None:
    config = VisionConfig(name, 112)
    real, register = build_vision_encoder(config), torch.nn.Module.register_parameter
    with structure_only():
        empty = build_vision_encoder(config)
    assert torch.nn.Module.register_parameter is register
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert not any(buffer.is_meta for buffer in empty.buffers())
    with torch.no_grad():
        torch.testing.assert_close(filled(empty, real)(pixels(112)), real(pixels(112)), atol=0, rtol=0)


@pytest.mark.parametrize("name", [TINY_EVA, "test/clip"])
def test_built_by_accelerate_then_filled_is_the_same(name: str, tiny_clip: str) -> None:
    from accelerate import init_empty_weights

    config = VisionConfig(name, 112)
    real = build_vision_encoder(config)
    with init_empty_weights(include_buffers=False):
        empty = build_vision_encoder(config)
    assert all(parameter.is_meta for parameter in empty.parameters())
    with torch.no_grad():
        torch.testing.assert_close(filled(empty, real)(pixels(112)), real(pixels(112)), atol=0, rtol=0)


def test_eva_is_timms_features_without_the_class_token() -> None:
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("eva02_tiny_patch14_224", num_classes=0, img_size=112).eval()
    ours = build_vision_encoder(VisionConfig(TINY_EVA, 112))
    ours.model.load_state_dict(theirs.state_dict(), strict=True)
    with torch.no_grad():
        expected = theirs.forward_features(pixels(112))[:, 1:]
        torch.testing.assert_close(ours(pixels(112)), expected, atol=0, rtol=0)


@pytest.mark.parametrize("layer", [-1, -2, 0, 2])
def test_clip_is_read_at_the_selected_hidden_state(layer: int, tiny_clip: str) -> None:
    encoder = build_vision_encoder(VisionConfig(tiny_clip, 64, select_layer=layer))
    with torch.no_grad():
        states = encoder.model(pixels(64), output_hidden_states=True).hidden_states
        torch.testing.assert_close(encoder(pixels(64)), states[layer][:, 1:], atol=0, rtol=0)
    assert len(states) == 4


def test_what_lies_behind_the_selected_layer_has_no_influence(tiny_clip: str) -> None:
    encoder = build_vision_encoder(VisionConfig(tiny_clip, 64, select_layer=-2))
    with torch.no_grad():
        before = encoder(pixels(64))
        for name, parameter in encoder.model.named_parameters():
            if ".layers.2." in name or "post_layernorm" in name:
                parameter.fill_(torch.nan)
        torch.testing.assert_close(encoder(pixels(64)), before, atol=0, rtol=0)


@pytest.mark.parametrize("name", [TINY_EVA, "test/clip"])
def test_learned_positions_are_where_the_encoder_says(name: str, tiny_clip: str) -> None:
    encoder = build_vision_encoder(VisionConfig(name, 112))
    rows, columns = encoder.grid
    assert encoder.position_key is not None
    stored = dict(encoder.model.named_parameters())[encoder.position_key]
    assert stored.shape[-2:] == (rows * columns + encoder.prefix_tokens, encoder.width)


def test_resampled_positions_are_timms_own() -> None:
    """A model of another size, filled through our function, equals timm's own change of size."""
    import timm

    torch.manual_seed(0)
    trained = timm.create_model("eva02_tiny_patch14_224", num_classes=0, img_size=112).eval()
    weights = {key: tensor.clone() for key, tensor in trained.state_dict().items()}
    weights["pos_embed"] = resample_position_embedding(weights["pos_embed"], (12, 12))
    ours = build_vision_encoder(VisionConfig(TINY_EVA, 168))
    ours.model.load_state_dict(weights, strict=True)
    trained.set_input_size(168)
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels(168)), trained.forward_features(pixels(168))[:, 1:])


def test_resampling_keeps_prefix_form_and_dtype() -> None:
    table = torch.randn(1 + 16, 8, dtype=torch.bfloat16)
    resampled = resample_position_embedding(table, (6, 6))
    assert (resampled.shape, resampled.dtype) == ((37, 8), torch.bfloat16)
    assert torch.equal(resampled[0], table[0])
    assert torch.equal(resample_position_embedding(table, (4, 4)), table)
    assert resample_position_embedding(table[None, 1:], (2, 2), prefix_tokens=0).shape == (1, 4, 8)
    with pytest.raises(CheckpointError, match="not a square grid"):
        resample_position_embedding(table[:-1], (6, 6))


@pytest.mark.parametrize("name", [TINY_EVA, "test/clip", "vlcompare/scene"])
@pytest.mark.parametrize("size", [100, 5])
def test_sizes_that_are_no_multiple_of_the_patch(name: str, size: int, tiny_clip: str) -> None:
    with pytest.raises(RequestError, match=f"{size} is not a multiple of 1[46], the patch size of {name}"):
        build_vision_encoder(VisionConfig(name, size))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm/eva02_gigantic_patch14", "EVA-02"),
        ("resnet50", "EVA-02"),
        ("eva02_large_patch14_clip_336.no_such_weights", "EVA-02"),
        ("someone/their-encoder", "not known"),
        ("vlcompare/other", "not known"),
    ],
)
def test_unknown_encoders(name: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        build_vision_encoder(VisionConfig(name, 224))


def test_clip_layers_out_of_range(tiny_clip: str) -> None:
    for layer in (4, -5):
        with pytest.raises(CheckpointError, match="3 layers"):
            build_vision_encoder(VisionConfig(tiny_clip, 64, select_layer=layer))


def test_a_thread_that_builds_a_structure_leaves_other_threads_their_parameters() -> None:
    inside, done, register = threading.Event(), threading.Event(), nn.Module.register_parameter

    def structure() -> bool:
        with structure_only(), real_buffers():
            inside.set()
            assert done.wait(60)
            return nn.Linear(2, 2).weight.is_meta

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(structure)
        try:
            assert inside.wait(60)
            other = nn.Linear(2, 2)
            other.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, assign=True)
        finally:
            done.set()
        assert not other.weight.is_meta and made.result()
    assert nn.Module.register_parameter is register


def test_no_parameter_of_another_thread_is_lost_as_the_context_is_entered_and_left() -> None:
    done = threading.Event()

    def build() -> None:
        while not done.is_set():
            with structure_only(), real_buffers():
                pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(build)
        try:
            lost = sum(nn.Linear(1, 1, bias=False).weight.is_meta for _ in range(3000))
        finally:
            done.set()
            sys.setswitchinterval(before)
        building.result()
    assert not lost
