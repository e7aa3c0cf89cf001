"""Rendered scenes as a data set: pictures and samples.jsonl, from the evaluation stream and from no other.

A run of `count` pictures from seed S holds the scenes S * SPAN, S * SPAN + 1, ..: different seeds share no scene.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vlcompare.errors import RequestError, SampleError
from vlcompare.evaluate.readers.jsonl import to_row
from vlcompare.synth.scenes.questions import ask
from vlcompare.synth.scenes.scene import Sampling, Scene, draw_scene
from vlcompare.types import Sample
from vlcompare.whole_files import whole_file

SPAN = 1_000_000  # scenes that belong to one seed
SAMPLES, PICTURES = "samples.jsonl", "pictures"


def evaluation_scenes(
    count: int, seed: int, size: int = 224, tasks: Sequence[str] | None = None, sampling: Sampling = "balanced"
) -> Iterator[tuple[Scene, list[Sample]]]:
    """`count` scenes of the evaluation stream with their rows.

    Raises RequestError for a count or a seed out of range; a size or a task that cannot be is refused at the first.
    """
    if not 1 <= count <= SPAN:
        raise RequestError(f"A seed has scenes for 1 to {SPAN:,} pictures; {count:,} cannot be drawn from it.")
    if seed < 0:
        raise RequestError(f"A seed is a whole number from 0 on, not {seed}.")
    for index in range(count):
        scene = draw_scene(seed * SPAN + index, stream="evaluation", size=size, sampling=sampling)
        yield scene, ask(scene, tasks)


def write_scenes(
    folder: Path,
    count: int,
    seed: int,
    size: int = 224,
    tasks: Sequence[str] | None = None,
    progress: Callable[[int], None] = lambda done: None,
    sampling: Sampling = "balanced",
) -> tuple[Path, int]:
    """Write samples.jsonl and the pictures into `folder`; returns the file's path and how many rows it has.

    A picture that has no row for the tasks asked for is drawn all the same: `count` counts pictures. The file is
    written beside its place and moved there last, so that a run cut short leaves no half file.

    Raises SampleError where the folder cannot be written, RequestError as `evaluation_scenes` does.
    """
    scenes = evaluation_scenes(count, seed, size, tasks, sampling)
    rows = 0
    first = next(scenes)  # raises before anything is written
    try:
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        with whole_file(folder / SAMPLES) as partial, partial.open("w", encoding="utf-8") as file:
            for done, (scene, samples) in enumerate(itertools.chain([first], scenes), start=1):
                picture = f"{PICTURES}/{scene.seed:06d}.png"
                scene.image.save(folder / picture)
                for sample in samples:
                    file.write(json.dumps(to_row(sample, picture), ensure_ascii=False) + "\n")
                rows += len(samples)
                progress(done)
    except OSError as error:
        reason = error.strerror or error
        raise SampleError(f"{folder} cannot be written to ({reason}); choose another folder.") from error
    return folder / SAMPLES, rows
