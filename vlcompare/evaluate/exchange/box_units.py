"""Predicted boxes in other units than shares of the picture: declared with `--answer-box-scale`, never guessed.

    unit      0..1 of the picture, as this project's models write
    percent   0..100
    thousand  0..1000 (Qwen-VL, InternVL, ..)
    pixel     of the original picture, or of a model's input of `--answer-box-size` (448, or 640x480)
    auto      as `unit`, with a warning where most boxes have coordinates above 1

A row is rewritten in shares before it is read, in its `boxes` and in its text, so that reading and scoring are the same
for all. The boxes are x0, y0, x1, y1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.json_lines import finite
from vlcompare.tasks.boxes import find_boxes
from vlcompare.types import Sample

SCALES = ("auto", "unit", "percent", "thousand", "pixel")
ORIGINAL = "original"
TASKS = ("grounding", "grounded_captioning")
LARGE = 1.5  # above this, a coordinate cannot have been meant as a share of the picture
_FIXED = {"percent": 100.0, "thousand": 1000.0}
_SIZE = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?\Z")
_NUMBERS = re.compile(r"[^\s,;\[\]]+")

SizeOf = Callable[[Sample], tuple[float, float]]


def check(scale: str, size: str) -> tuple[float, float] | None:
    """The size that pixels are of: (width, height) where it was given, None for the original picture's.

    Raises SampleError for an unreadable declaration.
    """
    if scale not in SCALES:
        raise SampleError(f"--answer-box-scale is one of {', '.join(SCALES)}, not {scale!r}.")
    if size == ORIGINAL:
        return None
    match = _SIZE.match(size)
    if not match or "0" in (match[1], match[2]):
        raise SampleError(f"--answer-box-size is {ORIGINAL}, a side such as 448, or WIDTHxHEIGHT, not {size!r}.")
    if scale != "pixel":
        raise SampleError("--answer-box-size is about pixels: give --answer-box-scale pixel, too.")
    return float(match[1]), float(match[2] or match[1])


def in_shares(row: Mapping[str, Any], sample: Sample, scale: str, size_of: SizeOf) -> Mapping[str, Any]:
    """The row with its boxes as shares of the picture; the row itself where they are declared to be that already."""
    if scale in ("auto", "unit") or sample.task not in TASKS:
        return row
    width, height = (_FIXED[scale],) * 2 if scale in _FIXED else size_of(sample)
    divisors = (width, height, width, height)
    made = dict(row)
    if isinstance(row.get("boxes"), list):
        made["boxes"] = _divided(row["boxes"], divisors)
    if isinstance(row.get("text"), str):
        made["text"] = _rewritten(row["text"], divisors)
    return made


def _divided(value: list[Any], divisors: Sequence[float]) -> list[Any]:
    if len(value) == 4 and None not in map(finite, value):
        return [number / divisor for number, divisor in zip(value, divisors, strict=True)]
    return [_divided(item, divisors) if isinstance(item, list) and len(item) == 4 else item for item in value]


def _rewritten(text: str, divisors: Sequence[float]) -> str:
    parts, last = [], 0
    for found in find_boxes(text):
        numbers = _numbers(text[found.start : found.stop])
        shares = ",".join(f"{number / divisor:.6f}" for number, divisor in zip(numbers, divisors, strict=True))
        parts += [text[last : found.start], f"[{shares}]"]
        last = found.stop
    return "".join([*parts, text[last:]])


def _numbers(group: str) -> list[float]:
    return [float(part) for part in _NUMBERS.findall(group)]


def warning(samples: Sequence[Sample], answers: Mapping[str, Mapping[str, Any]], side: str) -> str:
    """The sentence for a side most of whose boxes have coordinates above 1; "" where they have not."""
    large = boxes = 0
    most = 0.0
    for sample in samples:
        row = answers.get(sample.id)
        if sample.task not in TASKS or row is None:
            continue
        first = _first(row)
        if first:
            boxes += 1
            large += max(first) > LARGE
            most = max(most, *first)
    if large * 2 <= boxes:
        return ""
    return (
        f"{f'{side}: ' if side else ''}{large} of {boxes} answers have a box with coordinates above 1 (up to "
        f"{most:g}), and shares of the picture (0..1) are expected: as they are read they score next to nothing. If "
        "they are pixels, per cent or thousandths, say so with --answer-box-scale pixel, percent or thousand."
    )


def _first(row: Mapping[str, Any]) -> list[float]:
    """The numbers of a row's first box, unconverted."""
    boxes = row.get("boxes")
    if isinstance(boxes, list) and boxes:
        first = boxes[0] if isinstance(boxes[0], list) else boxes
        numbers = [finite(item) for item in first]
        if len(numbers) == 4 and None not in numbers:
            return [float(number) for number in numbers if number is not None]
    text = row.get("text")
    found = find_boxes(text[:20_000]) if isinstance(text, str) else ()
    return _numbers(text[found[0].start : found[0].stop]) if found and isinstance(text, str) else []
