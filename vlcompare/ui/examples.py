"""The pictures that come with the project, each with a question and, mostly, its ground truth.

Reads `examples/examples.json`: rows as in the sample format (`id`, `image`, `task`, `text`, `choices`, `references`,
`boxes`) with a `title`. A row that cannot be used is left out, a missing file means no examples: the page works
without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlcompare.paths import EXAMPLES
from vlcompare.types import TASKS, Answer, Box
from vlcompare.ui import webp

FOLDER = EXAMPLES


@dataclass(frozen=True, slots=True)
class Example:
    """One picture with a question; `truth` and `references` are what a right answer is."""

    id: str
    title: str
    image: Path
    task: str
    text: str = ""
    choices: tuple[Any, ...] = ()
    box: Box | None = None
    truth: tuple[Box, ...] = ()
    references: tuple[str, ...] = ()
    ocr_text: str = ""
    objects: tuple[dict[str, Any], ...] = ()  # of a rendered scene, which captions are judged by
    answers: Mapping[str, Answer] = field(default_factory=dict)  # side -> the answer recorded with the example


def load_examples(folder: Path | None = None) -> tuple[Example, ...]:
    """Every usable row, in the file's order."""
    return _load(folder or FOLDER)


@lru_cache(maxsize=4)
def _load(folder: Path) -> tuple[Example, ...]:
    try:
        rows = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    rows = rows.get("examples", []) if isinstance(rows, dict) else rows
    examples = [example for row in rows if (example := _read(row, folder)) is not None]
    return tuple({example.id: example for example in examples}.values())


def _read(row: Any, folder: Path) -> Example | None:
    """One row, or None where its picture or its task is not there."""
    try:
        image = (folder / row["image"]).resolve()
        if row["task"] not in TASKS or not image.is_relative_to(folder.resolve()) or not image.is_file():
            return None
        boxes = tuple(Box(*(float(value) for value in box)) for box in row.get("boxes") or ())
        choices = tuple(row.get("choices") or ())
        references = tuple(str(value) for value in row.get("references") or ())
        task = row["task"]
        if task == "pointing":
            choices = tuple(Box(*(float(value) for value in box)) for box in choices)
        return Example(
            id=str(row.get("id") or image.stem),
            title=str(row.get("title") or row.get("text") or image.stem),
            image=image,
            task=task,
            text=str(row.get("text") or ""),
            choices=choices,
            box=boxes[0] if task == "region_description" and boxes else None,
            truth=_truth(task, boxes, choices, references),
            references=references,
            ocr_text=str(row.get("ocr_text") or ""),
            objects=tuple(dict(thing) for thing in row.get("objects") or ()),
            answers={side: _recorded(recorded) for side, recorded in (row.get("answers") or {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _recorded(recorded: Any) -> Answer:
    """The answer that was recorded when the example was made: the text and its boxes, no figures."""
    return Answer(
        text=str(recorded["text"]),
        boxes=tuple(Box(*(float(value) for value in box)) for box in recorded.get("boxes") or ()),
        phrases=tuple(str(phrase) for phrase in recorded.get("phrases") or ()),
        parse=recorded.get("parse") if recorded.get("parse") in ("ok", "unparseable") else "none",
        stop_reason="recorded",
        checkpoint=str(recorded["checkpoint"]),
    )


def _truth(task: str, boxes: tuple[Box, ...], choices: tuple[Any, ...], references: tuple[str, ...]) -> tuple[Box, ...]:
    """The boxes that a right answer names: none where the task's answer is only text."""
    if task == "grounding":
        return boxes[:1]
    if task == "pointing" and references:
        index = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".find(references[0].strip().upper()[:1])
        return (choices[index],) if 0 <= index < len(choices) else ()
    if task == "grounded_captioning":
        if boxes:
            return boxes
        from vlcompare.tasks.boxes import parse_boxes

        return tuple(box for reference in references[:1] for box in parse_boxes(reference))
    return ()


@lru_cache(maxsize=128)
def example_thumbnail(path: Path, side: int = 96) -> str:
    """A small WebP of a picture as a data URI, for places of `side` CSS pixels."""
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        return webp.data_uri(webp.encode(ImageOps.exif_transpose(picture.convert("RGB")), 2 * side, 80))
