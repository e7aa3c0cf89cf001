"""Slice dimensions of a run: what each sample is like, as a small number of named values.

An aspect holds a code for each row and the names of the codes; -1 where a sample has no value. Raster position: a
picture is read row by row, so a target's place in that sequence is a candidate cause.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlcompare.errors import RequestError
from vlcompare.evaluate.readers.json_lines import finite
from vlcompare.tasks.prompts import SPECS, task_title
from vlcompare.types import Box, Sample

TAG = "tag: "  # begins the name of an aspect that is a tag of the data set
MAX_VALUES = 40  # a tag with more values than this is not a slice
MAX_TAG_NAMES = 100  # names of tags that become slices, the first of them
GRID = 24  # patches a side at 336 pixels and patch 14
_BOX_SIZES = ((0.01, "below 1 %"), (0.05, "1 to 5 %"), (0.15, "5 to 15 %"), (0.4, "15 to 40 %"), (10**9, "above 40 %"))
_LENGTHS = ((1, "1 word"), (3, "2 to 3 words"), (7, "4 to 7 words"), (10**9, "8 words or more"))
_SIMILAR = ((0, "none"), (1, "1"), (2, "2"), (10**9, "3 or more"))
_POSITIONS = ("first fifth", "second fifth", "third fifth", "fourth fifth", "last fifth")


@dataclass(frozen=True, slots=True)
class Aspect:
    """One dimension. `values` are in their own order where they have one, else by how many rows they have."""

    name: str
    title: str
    codes: NDArray[np.int32]
    values: tuple[str, ...]
    of_answers: bool = False  # says what an answer is like, not a sample: to filter by, not a cause of differences

    def rows_of(self, value: str, count: int) -> NDArray[np.bool_]:
        """Mask of the rows with a value. Raises RequestError where no row has it."""
        if value not in self.values:
            raise RequestError(f"The slice {self.name!r} has no value {value!r}; it has {', '.join(self.values)}.")
        return self.codes == self.values.index(value)

    def value_title(self, value: str) -> str:
        """What a value is called wherever a person reads it; exports and filters keep the value itself."""
        return task_title(value) if self.name == "task" else value

    def slice_title(self, value: str) -> str:
        """The dimension and a value of it: "Task: Locate"."""
        return f"{self.title}: {self.value_title(value)}"

    def near_unique(self, least: int) -> bool:
        """Whether this is a tag most of whose rows have values that fewer than `least` rows share: a name, a position,
        an answer, which tells rows apart and no groups of them."""
        if not self.name.startswith(TAG):
            return False
        counts = np.bincount(self.codes[self.codes >= 0])
        return bool(2 * counts[counts >= least].sum() < counts.sum())

    def value_of(self, row: int) -> str:
        """A row's value; "" where it has none."""
        code = int(self.codes[row])
        return self.values[code] if code >= 0 else ""


def target_box(sample: Sample) -> Box | None:
    """The box that a sample is about: the true one, the region asked about, or the choice that is right."""
    spec = SPECS[sample.task]
    if spec.located and sample.boxes:
        return sample.boxes[0]
    if spec.choices == "boxes" and sample.choices and sample.references:
        index = ord(sample.references[0].strip().upper()[:1] or "@") - ord("A")
        return Box(*sample.choices[index]) if 0 <= index < len(sample.choices) else None
    return None


def raster_position(box: Box) -> float:
    """Where the patch under a box's centre comes in the image sequence, 0 first and 1 last."""
    x, y = box.center
    column, row = (min(GRID - 1, max(0, int(value * GRID))) for value in (x, y))
    return (row * GRID + column) / (GRID * GRID - 1)


def _box_size(sample: Sample, box: Box | None) -> str | None:
    area = (box.x1 - box.x0) * (box.y1 - box.y0) if box else finite(sample.tags.get("area"))
    return None if area is None else next((name for limit, name in _BOX_SIZES if area < limit), None)


def _position(sample: Sample, box: Box | None) -> str | None:
    share = raster_position(box) if box else finite(sample.tags.get("position"))
    return None if share is None else _POSITIONS[min(4, int(max(0.0, share) * 5))]


def _similar(sample: Sample, box: Box | None) -> str | None:
    """Objects to mistake for the target: as the sample says, else others of its kind in a rendered scene."""
    count = finite(sample.tags.get("distractors", sample.tags.get("similar")))
    if count is None:
        things = [thing for thing in sample.objects if thing.get("box")]
        if box is None or not things:
            return None
        near = max(things, key=lambda thing: Box(*thing["box"]).iou(box))
        count = sum(thing["kind"] == near["kind"] for thing in things) - 1
    return next((name for limit, name in _SIMILAR if count <= limit), None)


def _answer_length(sample: Sample, box: Box | None) -> str | None:
    if not sample.references or SPECS[sample.task].reads in ("letter", "truth"):
        return None
    words = len(sample.references[0].split())
    return next(name for limit, name in _LENGTHS if words <= limit)


def _question_type(sample: Sample, box: Box | None) -> str | None:
    """As the data set says, else the first two words of a question."""
    for name in ("question_type", "type"):
        if isinstance(sample.tags.get(name), str):
            return str(sample.tags[name])
    words = sample.text.lower().rstrip("?.! ").split()
    spec = SPECS[sample.task]
    return " ".join(words[:2]) if words and spec.text == "question" and spec.choices != "boxes" else None


# name -> (title, value of a sample, order of the values or ())
ASPECTS: dict[str, tuple[str, Callable[[Sample, Box | None], str | None], tuple[str, ...]]] = {
    "task": ("Task", lambda sample, box: sample.task, ()),
    "split": ("Split", lambda sample, box: sample.split, ()),
    "source": ("Source", lambda sample, box: sample.source, ()),
    "box size": ("Box size, share of the picture", _box_size, tuple(name for _, name in _BOX_SIZES)),
    "position": ("Target's place in the image sequence", _position, _POSITIONS),
    "similar objects": ("Similar objects", _similar, tuple(name for _, name in _SIMILAR)),
    "answer length": ("Length of the right answer", _answer_length, tuple(name for _, name in _LENGTHS)),
    "question type": ("Question type", _question_type, ()),
}


def aspects_of(samples: Sequence[Sample]) -> dict[str, Aspect]:
    """All aspects with at least two values, and the tags (as "tag: name") that have two to MAX_VALUES."""
    aspects = {}
    targets = [target_box(sample) for sample in samples]
    for name, (title, value, order) in ASPECTS.items():
        column = [value(sample, box) for sample, box in zip(samples, targets, strict=True)]
        aspect = _aspect(name, title, column, order)
        if aspect is not None:
            aspects[name] = aspect
    names = dict.fromkeys(tag for sample in samples for tag in sample.tags)
    for tag in itertools.islice(names, MAX_TAG_NAMES):
        column = [_shown(sample.tags.get(tag)) for sample in samples]
        title = _tag_title(tag, [known.title for known in aspects.values()])
        aspect = _aspect(f"{TAG}{tag}", title, column, ())
        if aspect is not None:
            aspects[aspect.name] = aspect
    return aspects


def _tag_title(tag: str, taken: Sequence[str]) -> str:
    """A tag's name as a heading; marked as a tag where another dimension is called the same."""
    words = " ".join(tag.replace("_", " ").split())
    title = words[:1].upper() + words[1:]
    return f"{title} (tag)" if title in taken else title


def evidence_aspects(rows: Mapping[str, Sequence[Mapping[str, Any] | None]]) -> dict[str, Aspect]:
    """For each side whose answers were explained: whether the block that matters most overlaps the target's box.

    rows: each side's slim rows, in the samples' order. Nothing for a side where all explained answers are alike.
    """
    aspects = {}
    for side, answers in rows.items():
        column = [_shown((row or {}).get("rests_on_target")) for row in answers]
        aspect = _aspect(f"{side} looked at the target", f"{side.capitalize()} looked at the target", column, ())
        if aspect is not None:
            aspects[aspect.name] = replace(aspect, of_answers=True)
    return aspects


def _shown(value: Any) -> str | None:
    if value is None or isinstance(value, (list, dict)):
        return None
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _aspect(name: str, title: str, column: Sequence[str | None], order: tuple[str, ...]) -> Aspect | None:
    counts: dict[str, int] = {}
    for value in column:
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    if name != "task" and not len(counts) > 1:
        return None
    values = [value for value in order if value in counts] if order else sorted(counts, key=lambda v: (-counts[v], v))
    if len(values) > MAX_VALUES:
        if name.startswith(TAG):
            return None
        values = values[:MAX_VALUES]
    place = {value: code for code, value in enumerate(values)}
    codes = np.array([-1 if value is None else place.get(value, -1) for value in column], dtype=np.int32)
    return Aspect(name, title, codes, tuple(values))
