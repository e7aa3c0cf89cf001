"""The scene encoder: shapes, sizes, positions resampled, and its config."""

from __future__ import annotations

import pytest
import torch

from vlcompare.errors import CheckpointError
from vlcompare.models.scene_encoder import SceneEncoder, SceneEncoderConfig

SMALL = SceneEncoderConfig(stem=(4, 8, 8, 16), depth=2, heads=2, hidden=24, grid=3)


@pytest.mark.parametrize(("size", "patches"), [(48, 9), (32, 4), (64, 16), (112, 49)])
def test_any_multiple_of_the_patch_gives_a_grid_of_patches(size: int, patches: int) -> None:
    encoder = SceneEncoder(SMALL).eval()
    out = encoder(torch.randn(2, 3, size, size))
    assert out.shape == (2, patches, 16)
    assert torch.isfinite(out).all()


def test_positions_are_the_table_itself_at_the_trained_size_and_resampled_elsewhere() -> None:
    encoder = SceneEncoder(SMALL)
    assert encoder.positions_for(3, 3) is encoder.positions
    with torch.no_grad():
        encoder.positions.copy_(torch.arange(16.0).expand(9, 16))
    resampled = encoder.positions_for(5, 5)
    assert resampled.shape == (25, 16)
    assert torch.allclose(resampled, torch.arange(16.0).expand(25, 16), atol=1e-4)  # what is constant stays so


def test_patches_come_in_raster_order() -> None:
    """A change in one corner of the picture moves that corner's patch most, before the blocks mix patches."""
    torch.manual_seed(0)
    encoder = SceneEncoder(SceneEncoderConfig(stem=(4, 8, 8, 16), depth=0, heads=2, hidden=24, grid=3)).eval()
    picture = torch.randn(1, 3, 48, 48)  # not a flat one, which the stem's norms turn into nothing
    changed = picture.clone()
    changed[:, :, 2:12, 37:47] += 3.0  # top right, well inside its patch: the stem's convolutions look over the edge
    moved = (encoder(changed) - encoder(picture)).abs().sum(-1)[0]
    assert int(moved.argmax()) == 2


def test_config_reads_its_own_fields_and_refuses_others() -> None:
    config = SceneEncoderConfig.from_dict({"stem": [8, 8, 16, 24], "depth": 1})
    assert (config.width, config.patch_size, config.depth, config.heads) == (24, 16, 1, SceneEncoderConfig().heads)
    assert SceneEncoderConfig.from_dict(None) == SceneEncoderConfig()
    with pytest.raises(CheckpointError, match="unknown fields: .*layers"):
        SceneEncoderConfig.from_dict({"layers": 3})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"stem": "abc"}, "'stem' is 'abc'"),
        ({"stem": []}, r"'stem' is \[\]"),
        ({"stem": [8, -16]}, "'stem' is -16"),
        ({"stem": [8] * 40}, "1 to 8 numbers"),
        ({"depth": "x"}, "'depth' is 'x'"),
        ({"depth": 10**9}, "'depth' is 1000000000"),  # would be built for hours
        ({"stem_blocks": 1.5}, "'stem_blocks' is 1.5"),
        ({"hidden": 0}, "'hidden' is 0"),
        ({"grid": 10**6}, "'grid' is 1000000"),
        ({"heads": 0}, "'heads' is 0"),
        ({"stem": [8, 24], "heads": 5}, "5 heads cannot share the 24 channels"),
    ],
    ids=str,
)
def test_odd_fields_are_one_sentence(data: dict[str, object], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        SceneEncoderConfig.from_dict(data)
