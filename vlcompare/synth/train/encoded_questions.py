"""Questions of the training scenes as token ids: prompt and answer exactly as the engine sees them, stored flat.

Turns come from `vlcompare.tasks.prompts` and are encoded one by one. Stored with the ids: the index of the answer's
first token, and the patch that holds the thing asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlcompare.synth.scenes.dice import Dice
from vlcompare.synth.scenes.phrases import caption, document_caption
from vlcompare.synth.scenes.questions import ask, place_tags
from vlcompare.synth.scenes.scene import Sampling, Scene, lay_out
from vlcompare.synth.train import word_tokenizer
from vlcompare.tasks.boxes import format_box
from vlcompare.tasks.forms import format_text
from vlcompare.tasks.prompts import build_turns
from vlcompare.tasks.sequence import prompt_ids
from vlcompare.types import TASKS, Box, Request, Sample
from vlcompare.whole_files import whole_file

CHAT: tuple[str, ...] = ("What is in the picture?", "What is this?")  # both are answered with the caption


def request_of(sample: Sample) -> Request:
    """What is asked by a rendered row; region descriptions take their box from it."""
    box = sample.boxes[0] if sample.task == "region_description" else None
    return Request(sample.task, text=sample.text, choices=sample.choices, box=box)


def answer_of(sample: Sample) -> str:
    """What the model is taught to write, without the end of text: capitalised and with a full stop, as published."""
    if sample.task == "grounding":
        return format_box(sample.boxes[0]) + "."
    text = sample.references[0]
    if sample.task == "grounded_captioning":
        return text
    if sample.task in ("region_description", "chat"):
        return format_text(text) + "\n"
    return format_text(text)


def chat_sample(scene: Scene) -> Sample:
    """A chat turn that is answered with the caption."""
    dice = Dice(scene.seed, scene.stream, 999)
    text = caption(scene.objects) if scene.document is None else document_caption(scene.document)
    return Sample(f"{scene.seed}-chat", None, "chat", dice.one(CHAT), references=(text,))


def taught_box(sample: Sample) -> Box | None:
    """The box of the one thing that a row is about, if it is about one."""
    if sample.task in ("grounding", "region_description", "pointing"):
        return Box(*sample.boxes[0]) if sample.boxes else None
    tags = sample.tags
    if "row" not in tags or sample.task == "grounded_captioning":
        return None
    boxes = [Box(*thing["box"]) for thing in sample.objects if tags.get("kind", thing["kind"]) == thing["kind"]]
    there = [box for box in boxes if all(place_tags(box)[name] == tags[name] for name in ("row", "column"))]
    # a document's card and one of its lines may share a cell: the area, which is given rounded, tells them apart
    return min(there, key=lambda box: abs(box.area - tags["area"]), default=None)


def patch_of(box: Box | None, grid: int) -> int:
    """The patch that holds the centre of a box, in raster order; -1 without a box."""
    if box is None:
        return -1
    x, y = box.center
    return min(grid - 1, int(y * grid)) * grid + min(grid - 1, int(x * grid))


@dataclass(frozen=True)
class Lessons:
    """All samples of many pictures, end to end."""

    ids: np.ndarray  # int16: prompt, answer and end of each sample
    starts: np.ndarray  # int64 (n + 1,): where each sample begins in `ids`
    answers: np.ndarray  # int16 (n,): how long its prompt is
    tasks: np.ndarray  # int8 (n,): index in TASKS
    targets: np.ndarray  # int16 (n,): patch of the thing asked about, -1 for none
    pictures: np.ndarray  # int64 (m + 1,): where each picture's samples begin

    @property
    def picture_count(self) -> int:
        return len(self.pictures) - 1


FIELDS = tuple(Lessons.__dataclass_fields__)


def encoder() -> Callable[[str], tuple[int, ...]]:
    """The tokenizer's plain encoding, remembering what it has seen (most turns come again and again)."""
    library = word_tokenizer.build()
    library.encode_special_tokens = True
    seen: dict[str, tuple[int, ...]] = {}

    def encode(text: str) -> tuple[int, ...]:
        if text not in seen:
            if len(seen) > 200_000:
                seen.clear()
            seen[text] = tuple(library.encode(text, add_special_tokens=False).ids)
        return seen[text]

    return encode


@dataclass(frozen=True)
class Prompting:
    """How lessons are asked: by default as the embedded pair's, the ids behind a leading image, about all tasks."""

    turns: Callable[[Request, int], Sequence[str]] = lambda request, seed: build_turns(request)  # seed: the picture's
    image: Sequence[int] = ()  # what stands in a lesson for an image
    tasks: Sequence[str] | None = None
    longest: int = 96  # ids of a lesson; longer ones are left out


PLAIN = Prompting()


def sample_ids(
    sample: Sample, encode: Callable[[str], tuple[int, ...]], prompting: Prompting = PLAIN, seed: int = 0
) -> tuple[list[int], int]:
    """Ids of the prompt with the answer and its end, and the prompt's length."""
    prompt = prompt_ids(prompting.turns(request_of(sample), seed), encode, prompting.image)
    return [*prompt, *encode(answer_of(sample)), 0], len(prompt)


def make_lessons(
    seeds: Sequence[int], grid: int, prompting: Prompting = PLAIN, sampling: Sampling = "balanced"
) -> Lessons:
    """Ask and encode the questions about the training scenes of these seeds."""
    encode = encoder()
    ids: list[np.ndarray] = []
    starts, answers, tasks, targets, pictures = [0], [], [], [], [0]
    for seed in seeds:
        ground, objects, document = lay_out(int(seed), "training", sampling)
        scene = Scene(None, objects, document, ground, int(seed), "training")  # type: ignore[arg-type]
        samples = ask(scene, prompting.tasks)
        for sample in samples if prompting.tasks else (*samples, chat_sample(scene)):
            row, prompt = sample_ids(sample, encode, prompting, int(seed))
            if len(row) > prompting.longest:
                continue
            ids.append(np.array(row, np.int16))
            starts.append(starts[-1] + len(row))
            answers.append(prompt)
            tasks.append(TASKS.index(sample.task))
            targets.append(patch_of(taught_box(sample), grid))
        pictures.append(len(tasks))
    return Lessons(
        np.concatenate(ids),
        np.array(starts, np.int64),
        np.array(answers, np.int16),
        np.array(tasks, np.int8),
        np.array(targets, np.int16),
        np.array(pictures, np.int64),
    )


def joined(parts: Sequence[Lessons]) -> Lessons:
    """Several collections as one."""

    def end_to_end(name: str) -> np.ndarray:
        arrays = [getattr(part, name) for part in parts]
        if name not in ("starts", "pictures"):
            return np.concatenate(arrays)
        ends = np.cumsum([0, *(array[-1] for array in arrays)])  # these count on from one part to the next
        return np.concatenate([arrays[0][:1], *(array[1:] + end for array, end in zip(arrays, ends, strict=False))])

    return Lessons(**{name: end_to_end(name) for name in FIELDS})


def save(lessons: Lessons, path: Path) -> None:
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **{name: getattr(lessons, name) for name in FIELDS})


def read(path: Path) -> Lessons:
    with np.load(path) as data:
        return Lessons(**{name: data[name] for name in FIELDS})


def choose(lessons: Lessons, picture: int, count: int, weights: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """`count` different samples of a picture, by the weights of their tasks (in the order of TASKS)."""
    first, last = lessons.pictures[picture], lessons.pictures[picture + 1]
    # Efraimidis-Spirakis: the largest u^(1/w) are a weighted sample without replacement
    keys = np.log(dice.random(last - first)) / weights[lessons.tasks[first:last]]
    return first + np.argsort(-keys)[:count]


def blocks_of(lengths: np.ndarray, limits: Sequence[int]) -> list[np.ndarray]:
    """Indices of the samples grouped by length, so that little padding is needed; empty groups are left out."""
    edges = [0, *limits, int(lengths.max(initial=0)) + 1]
    groups = [np.nonzero((lengths > low) & (lengths <= high))[0] for low, high in zip(edges, edges[1:], strict=False)]
    return [group for group in groups if len(group)]


def pad(rows: Sequence[np.ndarray], value: int = 0) -> np.ndarray:
    """Rows of different lengths as one matrix, filled up on the right."""
    out = np.full((len(rows), max(len(row) for row in rows)), value, np.int64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out
