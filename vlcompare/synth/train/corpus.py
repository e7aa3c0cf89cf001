"""What the language models are trained on: cached features of the frozen encoder, truth of patches, and lessons.

Made once by `prepare_features` and `prepare_lessons` from the drawn pictures and the trained encoder; both families
read the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlcompare.errors import CheckpointError
from vlcompare.models.scene_encoder import SceneEncoder
from vlcompare.synth.train import encoded_questions, word_tokenizer
from vlcompare.synth.train.encoded_questions import Lessons
from vlcompare.synth.train.pictures import HELD_OUT, PictureStore, Shard, normalised, workers
from vlcompare.synth.train.recipe import PictureRecipe, Recipe
from vlcompare.tasks.sequence import IMAGE_SLOT, image_ids

TRUTH = ("centre", "owner", "attributes", "boxes")
PROBED = 240  # held-out pictures on which a training is scored


def prefix_ids(grid: int) -> Tensor:
    """The image's positions, as the engine lays them out."""
    mark, separator = word_tokenizer.token_id(word_tokenizer.MARK), word_tokenizer.token_id(word_tokenizer.SEPARATOR)
    return torch.tensor(image_ids(grid, grid, mark=mark, separator=separator))


@dataclass
class TrainingSet:
    """Features (N, P, C) in float16 on disk, their truth in memory, and all samples."""

    lessons: Lessons
    stored: np.ndarray
    arrays: dict[str, np.ndarray]
    seed: int
    image_leads: bool = field(default=True, kw_only=True)  # every prompt begins with the image, which no lesson holds
    beside: int = field(default=0, kw_only=True)  # positions of a lesson that are not its question: images, distractors
    shares: bool = field(default=True, kw_only=True)  # the question comes last: what stands before it is computed once

    @cached_property
    def image(self) -> np.ndarray:
        """The image's ids."""
        return prefix_ids(self.grid).numpy()

    def lesson(self, sample: int) -> tuple[np.ndarray, int, int]:
        """Ids of a whole prompt with its answer, how long the prompt is, and how much of it other questions share."""
        lessons = self.lessons
        row, begin = lessons.ids[lessons.starts[sample] : lessons.starts[sample + 1]], int(lessons.answers[sample])
        if self.image_leads:
            row, begin = np.concatenate([self.image, row]), begin + len(self.image)
            before = len(self.image) + self.beside
        else:
            before = int(np.nonzero(row == IMAGE_SLOT)[0][-1]) + 2 if self.shares else 0  # a mark ends the image
        return row, begin, min(before, begin - 1) if self.shares else 0

    @property
    def grid(self) -> int:
        """Rows (= columns) of patches."""
        return round(self.stored.shape[1] ** 0.5)

    @property
    def width(self) -> int:
        return self.stored.shape[2]

    def order(self, step: int, count: int) -> np.ndarray:
        """Pictures of a step: each pass over all pictures has its own order."""
        total = min(len(self.stored), self.lessons.picture_count)
        per_pass = total // count
        passed, place = divmod(step, per_pass)
        order = np.random.default_rng([self.seed, 7, passed]).permutation(total)
        return order[place * count : (place + 1) * count]

    def features(self, pictures: np.ndarray) -> Tensor:
        return torch.from_numpy(np.stack([self.stored[picture] for picture in pictures])).float()

    def truth(self, pictures: np.ndarray, device: torch.device) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(self.arrays[name][pictures]).to(device) for name in TRUTH)


@dataclass
class Corpus(TrainingSet):
    """What the embedded pair is trained on, and held-out questions beside it."""

    held_lessons: Lessons
    held_features: np.ndarray

    @classmethod
    def open(cls, out: Path, recipe: Recipe) -> Corpus:
        """Raises CheckpointError where the features have not been prepared."""
        folder = out / "features"
        stored, arrays = stored_features(folder)
        return cls(
            encoded_questions.read(folder / "lessons.npz"),
            stored,
            arrays,
            recipe.seed,
            encoded_questions.read(folder / "held-lessons.npz"),
            np.load(folder / "held-features.npy"),
        )


def stored_features(folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The features that `prepare_features` wrote, and their truth. Raises CheckpointError where there are none."""
    if not (folder / "truth.npz").exists():
        raise CheckpointError(f"There are no features in {folder}; run the stages `encoder` and `features` first.")
    with np.load(folder / "truth.npz") as data:
        arrays = {name: data[name] for name in TRUTH}
    return np.load(folder / "features.npy", mmap_mode="r"), arrays


@torch.no_grad()
def encode(encoder: SceneEncoder, shard: Shard, device: torch.device, batch: int = 64) -> np.ndarray:
    """Features of a shard's pictures, float16 (n, P, C)."""
    encoder.eval()
    parts = [
        encoder(torch.from_numpy(normalised(shard.pixels[i : i + batch])).to(device)).half().cpu().numpy()
        for i in range(0, len(shard.pixels), batch)
    ]
    return np.concatenate(parts)


def _lessons_of(seeds: Sequence[int], recipe: PictureRecipe) -> Lessons:
    return encoded_questions.make_lessons(seeds, recipe.image_size // 16, sampling=recipe.sampling)


def prepare_lessons(out: Path, recipe: Recipe, count: int) -> None:
    """Ask and encode the questions of the first `count` pictures, in the recipe's number of processes at most."""
    folder = out / "features"
    folder.mkdir(parents=True, exist_ok=True)
    store = PictureStore(out / "pictures", recipe.pictures)
    shards = [store.seeds(index) for index in range(-(-count // recipe.pictures.shard))]
    with workers(recipe.pictures.workers) as pool:
        parts = list(pool.map(_lessons_of, shards, [recipe.pictures] * len(shards)))
    encoded_questions.save(encoded_questions.joined(parts), folder / "lessons.npz")
    held = _lessons_of(range(HELD_OUT, HELD_OUT + min(PROBED, recipe.pictures.shard)), recipe.pictures)
    encoded_questions.save(held, folder / "held-lessons.npz")


def prepare_features(
    encoder: SceneEncoder, out: Path, recipe: Recipe, device: torch.device, count: int | None = None
) -> int:
    """Features and truth of the first `count` pictures (all by default); returns how many there are."""
    folder = out / "features"
    folder.mkdir(parents=True, exist_ok=True)
    store = PictureStore(out / "pictures", recipe.pictures)
    wanted = recipe.pictures.count if count is None else count
    shards = -(-wanted // recipe.pictures.shard)
    total, grid = shards * recipe.pictures.shard, recipe.pictures.image_size // encoder.patch_size
    partial = folder / "features.partial.npy"
    table = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=(total, grid * grid, encoder.width))
    if hasattr(os, "posix_fallocate"):  # a full disk is an error here; in the map it is a signal
        with partial.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in TRUTH}
    for index in range(shards):
        shard = store.get(index)
        begin = index * recipe.pictures.shard
        table[begin : begin + recipe.pictures.shard] = encode(encoder, shard, device)
        for name in TRUTH:
            arrays[name].append(getattr(shard, name))
    table.flush()
    held = store.held_out(min(480, recipe.pictures.shard))
    np.save(folder / "held-features.npy", encode(encoder, held, device))
    truth: dict[str, Any] = {name: np.concatenate(parts) for name, parts in arrays.items()}
    np.savez(folder / "truth.npz", **truth)
    partial.rename(folder / "features.npy")
    return total
