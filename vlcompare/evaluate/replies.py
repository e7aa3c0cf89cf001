"""One side's answer to one sample, as scoring sees it: the same for this program's answers and for others'.

The text is read by `vlcompare.tasks`. Boxes that a row brings along are taken as they are; only in a row without any
they are read from the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vlcompare.evaluate.readers.json_lines import finite
from vlcompare.tasks.reading import Reading, read_answer
from vlcompare.types import Box, Request, Sample

MAX_SCORED_TEXT = 20_000  # characters of an answer that are read; no task's answer is near it


@dataclass(frozen=True, slots=True)
class Reply:
    """A side's answer to a sample. `status`: "ok", "missing" (no row), or "error" (the side failed)."""

    text: str = ""  # as the task reads it
    raw: str = ""  # the row's text, unchanged
    boxes: tuple[Box, ...] = ()
    phrases: tuple[str, ...] = ()  # beside `boxes`; "" where it is not known
    readable: bool = False  # the structure that the task asks for (box, letter, true / false) was there
    status: str = "ok"

    @property
    def box(self) -> Box | None:
        return self.boxes[0] if self.boxes else None


MISSING = Reply(status="missing")


def read_reply(sample: Sample, row: Mapping[str, Any] | None) -> Reply:
    """Read one prediction row for its sample; never raises, whatever the row holds."""
    if row is None:
        return MISSING
    if row.get("error"):
        return Reply(status="error")
    text = row.get("text")
    text = "" if text is None else str(text)[:MAX_SCORED_TEXT]
    given = read_boxes(row.get("boxes"))
    if given and sample.task == "grounding":
        return Reply(text, text, given, (), True)
    reading = _read(sample.task, sample.choices, text)
    boxes = given or reading.boxes
    readable = reading.parse == "ok" or (bool(given) and sample.task == "grounded_captioning")
    phrases = reading.phrases
    if given and isinstance(row.get("phrases"), list):
        phrases = tuple(map(str, row["phrases"]))
    if given and len(phrases) != len(given):  # which belongs to which is not known; each box counts all the same
        phrases = ("",) * len(given)
    return Reply(reading.text, text, boxes, phrases, readable)


@lru_cache(maxsize=16384)
def _read(task: str, choices: tuple[Any, ...] | None, text: str) -> Reading:
    """Short answers repeat: "yes", "True.", "B". Reading depends on nothing but the task, its choices and the text."""
    return read_answer(Request(task, choices=choices), text)


def read_boxes(value: Any) -> tuple[Box, ...]:
    """Boxes from JSON: a list of [x0, y0, x1, y1], or one such box alone; other values are left out."""
    if not isinstance(value, (list, tuple)):
        return ()
    if len(value) == 4 and None not in map(finite, value):
        value = [value]
    return tuple(
        Box(*map(float, box))
        for box in value
        if isinstance(box, (list, tuple)) and len(box) == 4 and None not in map(finite, box)
    )


def request_of(sample: Sample) -> Request:
    """The question a sample asks, without any side's settings (which the runner adds)."""
    return Request(
        task=sample.task,
        text=sample.text,
        choices=sample.choices,
        box=sample.boxes[0] if sample.task == "region_description" and sample.boxes else None,
        ocr_text=sample.ocr_text,
        source=sample.source,
    )
