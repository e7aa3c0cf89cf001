"""Training pictures on disk: scenes of the training stream, drawn, reduced, and stored with their patch targets.

Files of `shard` pictures each, in the order of their seeds; a reader takes them in that order and waits for those that
are not drawn yet.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlcompare.errors import CheckpointError
from vlcompare.machine import threads
from vlcompare.runtime.image import CLIP_MEAN, CLIP_STD
from vlcompare.synth.scenes.scene import Sampling, lay_out, render
from vlcompare.synth.train.dense_targets import glyph_truth, patch_truth
from vlcompare.synth.train.recipe import PictureRecipe
from vlcompare.whole_files import whole_file

SEEDS_PER_PICTURE = 4  # seeds set aside for one kept picture: scenes without documents are dropped at random
TRUTH = ("owner", "centre", "attributes", "boxes")
CHECKED = 48  # seeds of a stored shard that are compared with the recipe's
HELD_OUT = 1_000_000_000  # seeds of the training stream from here on are only ever scored on
_MEAN, _STD = np.array(CLIP_MEAN, np.float32), np.array(CLIP_STD, np.float32)


@dataclass(frozen=True)
class Shard:
    """Pictures and targets as arrays, first axis the picture."""

    pixels: np.ndarray  # uint8 (n, S, S, 3)
    seeds: np.ndarray  # int64 (n,)
    owner: np.ndarray
    centre: np.ndarray
    attributes: np.ndarray
    boxes: np.ndarray


def kept_seeds(first: int, count: int, scene_share: float) -> list[int]:
    """Seeds of `count` pictures: all documents among the seeds looked at, and a share of the other scenes.

    Picture number p looks at the seeds from 4 p on, so shards can be drawn in any order. Whether a scene without a
    document is kept is decided by its seed alone, so the seeds are the same for every sampling.
    """
    kept = []
    for number in range(first, first + count):
        candidates = range(SEEDS_PER_PICTURE * number, SEEDS_PER_PICTURE * (number + 1))
        for seed in candidates:
            chance = (seed * 2654435761 % 2**32) / 2**32
            if chance < scene_share or lay_out(seed, "training")[2] is not None:
                break
        kept.append(seed)
    return kept


def draw_shard(path: Path, recipe: PictureRecipe, seeds: list[int], patch: int = 16) -> None:
    """Draw the scenes of `seeds` and write them with their targets to `path` (atomically)."""
    size = recipe.image_size
    pixels, truths = [], []
    for seed in seeds:
        ground, objects, document = lay_out(seed, "training", recipe.sampling)
        image = render(ground, objects, document, recipe.sizes[seed % len(recipe.sizes)])
        pixels.append(np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), np.uint8))
        truths.append(patch_truth(objects, document, size // patch))
    with whole_file(path) as partial, partial.open("wb") as file:
        arrays: dict[str, Any] = {name: np.stack([getattr(truth, name) for truth in truths]) for name in TRUTH}
        np.savez(file, pixels=np.stack(pixels), seeds=np.array(seeds, np.int64), **arrays)


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.npz"


def read_shard(path: Path) -> Shard:
    with np.load(path) as data:
        return Shard(**{name: data[name] for name in Shard.__dataclass_fields__})


def glyphs_of(seeds: np.ndarray, grid: int, sampling: Sampling) -> np.ndarray:
    """Glyph targets (n, P, SLOTS) of stored pictures; they follow from the seeds."""
    return np.stack([glyph_truth(lay_out(int(seed), "training", sampling)[2], grid) for seed in seeds])


def normalised(pixels: np.ndarray) -> np.ndarray:
    """uint8 (n, S, S, 3) -> float32 (n, 3, S, S), as the published encoders expect."""
    return ((pixels.astype(np.float32) / 255 - _MEAN) / _STD).transpose(0, 3, 1, 2)


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """At most `count` processes, within the budget of threads.

    They ignore Ctrl-C. At the end of the block they are terminated, also in the middle of a task: a shard takes longer
    to draw than a stopped run may take to end, and its file is complete or absent.
    """
    count = max(1, min(count, threads.budget()))
    ignoring = (signal.SIGINT, signal.SIG_IGN)
    others = active_children()
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=signal.signal, initargs=ignoring)
    try:
        yield pool
    finally:
        for process in active_children():
            if process not in others:
                process.terminate()
        pool.shutdown(cancel_futures=True)


class PictureStore:
    """The shards of a recipe in a folder: draws the missing ones in other processes, gives them in order."""

    def __init__(self, folder: Path, recipe: PictureRecipe) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.recipe = folder, recipe
        self.count = -(-recipe.count // recipe.shard)
        self._pool: ProcessPoolExecutor | None = None
        self._workers = ExitStack()
        self._pending: dict[int, Future[None]] = {}

    def seeds(self, index: int) -> list[int]:
        return kept_seeds(index * self.recipe.shard, self.recipe.shard, self.recipe.scene_share)

    def start(self) -> None:
        """Begin to draw all missing shards, in order; each when it is read where the recipe has no workers."""
        if not self.recipe.workers:
            return
        self._pool = self._workers.enter_context(workers(self.recipe.workers))
        for index in range(self.count):
            if not shard_path(self.folder, index).exists():
                self._pending[index] = self._pool.submit(_draw_numbered, self.folder, self.recipe, index)

    def stop(self) -> None:
        """End the processes that draw; shards that are not complete are drawn again when they are read."""
        self._workers.close()
        self._pool = None
        self._pending.clear()

    def get(self, index: int) -> Shard:
        """Shard number `index` (counted round), once it is drawn."""
        index %= self.count
        path = shard_path(self.folder, index)
        if index in self._pending:
            self._pending.pop(index).result()
        while not path.exists():
            if self._pool is None:
                _draw_numbered(self.folder, self.recipe, index)
            time.sleep(0.2)
        shard = read_shard(path)
        first = kept_seeds(index * self.recipe.shard, min(CHECKED, self.recipe.shard), self.recipe.scene_share)
        shape = (self.recipe.shard, self.recipe.image_size)
        if shard.seeds[:CHECKED].tolist() != first or shard.pixels.shape[:2] != shape:
            # the questions follow from the recipe's seeds: they would be about other pictures than these
            raise CheckpointError(
                f"The pictures in {self.folder} were drawn with another recipe: go on with that one, or give another "
                "--out."
            )
        return shard

    def held_out(self, count: int) -> Shard:
        """Pictures of seeds that no shard uses."""
        path = self.folder / f"held-out-{count}.npz"
        if not path.exists():
            draw_shard(path, self.recipe, list(range(HELD_OUT, HELD_OUT + count)))
        return read_shard(path)

    def batches(self, start: int, size: int) -> Iterator[Shard]:
        """Endless batches from picture number `start` on; a batch never spans two shards."""
        per_shard = self.recipe.shard // size
        step = start // size
        while True:
            shard = self.get(step // per_shard)
            for part in range(step % per_shard, per_shard):
                rows = slice(part * size, (part + 1) * size)
                yield Shard(**{name: getattr(shard, name)[rows] for name in Shard.__dataclass_fields__})
                step += 1


def _draw_numbered(folder: Path, recipe: PictureRecipe, index: int) -> None:
    first = index * recipe.shard
    draw_shard(shard_path(folder, index), recipe, kept_seeds(first, recipe.shard, recipe.scene_share))
