"""Files that replace each other as a whole, and a disk that becomes full under what a training writes."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from vlcompare.errors import CheckpointError
from vlcompare.models.scene_encoder import SceneEncoder, SceneEncoderConfig
from vlcompare.study.grid import grid_of
from vlcompare.study.models import build
from vlcompare.study.recipe import RECIPES
from vlcompare.study.run import run_grid
from vlcompare.study.weights import save_weights
from vlcompare.synth.train import corpus, encoded_questions
from vlcompare.synth.train.pictures import draw_shard
from vlcompare.synth.train.recipe import SMOKE
from vlcompare.training.progress import load_state, save_state
from vlcompare.whole_files import whole_file, write_whole

SETTING = {"task": "position", "order": "query_first", "length": 4, "vocabulary": 8, "width": 32, "recipe": "smoke",
           "learning_rate": 0.004, "budget": 1024}  # fmt: skip
TOO_LARGE = rf"^\[Errno {errno.EFBIG}\]"


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: the same error, by another number, as that of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_could_not_be_written_whole_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "text", "old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "text") as partial:
        partial.write_text("half")
        assert (tmp_path / "text").read_text() == "old"
        _ = 1 / 0
    with pytest.raises(OSError), full_after(1000):
        write_whole(tmp_path / "text", "x" * 2000)
    assert [path.name for path in tmp_path.iterdir()] == ["text"] and (tmp_path / "text").read_text() == "old"


def test_threads_that_write_one_file_at_once_leave_a_whole_one(tmp_path: Path) -> None:
    texts = [letter * 100_000 for letter in "abcd"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: write_whole(tmp_path / "text", text), texts * 20))
    assert [path.name for path in tmp_path.iterdir()] == ["text"] and (tmp_path / "text").read_text() in texts


def test_states_and_tensors_do_so_too(tmp_path: Path) -> None:
    save_state(tmp_path / "state.pt", {"steps": 1})
    (tmp_path / "model.safetensors").write_text("old")
    row = dict.fromkeys([*SETTING, "family", "layers", "state_size"], "x")
    model = build("pythia", 16, 32, 2, 16, RECIPES["smoke"])
    with full_after(1000):
        with pytest.raises(OSError, match=TOO_LARGE):
            save_state(tmp_path / "state.pt", {"steps": 2, "more": torch.zeros(10_000)})
        with pytest.raises(OSError, match=TOO_LARGE):
            save_weights(model, tmp_path / "model.safetensors", row)
    assert load_state(tmp_path / "state.pt") == {"steps": 1}
    assert (tmp_path / "model.safetensors").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "state.pt"]


def test_a_study_says_that_the_disk_is_full_and_goes_on_later(tmp_path: Path) -> None:
    grid = grid_of({"name": "tiny", "axes": {"family": ["pythia"]}, "fixed": SETTING})
    said = rf"^{tmp_path} cannot be written to \(.+\); give another --out\.$"
    with pytest.raises(CheckpointError, match=said), full_after(10_000):
        run_grid(grid, tmp_path, say=lambda text: None)
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    assert run_grid(grid, tmp_path, say=lambda text: None) == 1


def test_what_the_trainer_draws_and_encodes_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of features is a map of a file, in which a full disk would end the process without a word."""
    recipe = SMOKE
    monkeypatch.setattr(corpus.PictureStore, "get", lambda *given: pytest.fail("begun without room"))
    encoder = SceneEncoder(SceneEncoderConfig(grid=recipe.pictures.image_size // 16))
    with full_after(1000):
        with pytest.raises(OSError):
            draw_shard(tmp_path / "shard.npz", recipe.pictures, [1, 2])
        with pytest.raises(OSError):
            lessons = encoded_questions.Lessons(**dict.fromkeys(encoded_questions.FIELDS, np.zeros(1000)))
            encoded_questions.save(lessons, tmp_path / "lessons.npz")
        with pytest.raises(OSError):
            corpus.prepare_features(encoder, tmp_path, recipe, torch.device("cpu"))
    assert not list(tmp_path.glob("*.npz*")) and not (tmp_path / "features" / "features.npy").exists()
