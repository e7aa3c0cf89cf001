"""Predicted boxes in other units than shares of the picture: declared with `--answer-box-scale`, never guessed.

    unit      0..1 of the picture, as this project's models write
    percent   0..100
    thousand  0..1000 (Qwen-VL, InternVL, ..)
    pixel     of the original picture, or of a model's input of `--answer-box-size` (448, or 640x480)
    auto      as `unit`, with a warning where most boxes have coordinates above 1

What the four numbers are is declared likewise, with `--answer-box-format`; "auto" reads them as x0, y0, x1, y1, with a
warning where many boxes end before they begin. A row is rewritten in shares before it is read, in its `boxes` and in
its text, so that reading and scoring are the same for all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.exchange import box_texts
from vlcompare.evaluate.readers.json_lines import finite
from vlcompare.evaluate.replies import MAX_SCORED_TEXT
from vlcompare.tasks.boxes import find_boxes
from vlcompare.types import Sample

SCALES = ("auto", "unit", "percent", "thousand", "pixel")
FORMATS = ("auto", *box_texts.FORMATS)
ORIGINAL = "original"
BOX_TASKS = ("grounding", "grounded_captioning")
LARGE = 1.5  # above this, a coordinate cannot have been meant as a share of the picture
_FIXED = {"percent": 100.0, "thousand": 1000.0}
_SIZE = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?\Z")
_SWAPPED = re.compile(r"[\"']box_2d\b")
_COORDINATE = re.compile(r"\d+(?:\.\d+)?")

SizeOf = Callable[[Sample], tuple[float, float]]


def check(scale: str, size: str, format: str = "auto") -> tuple[float, float] | None:
    """The size that pixels are of: (width, height) where it was given, None for the original picture's.

    Raises SampleError for an unreadable declaration.
    """
    if scale not in SCALES:
        raise SampleError(f"--answer-box-scale is one of {', '.join(SCALES)}, not {scale!r}.")
    if format not in FORMATS:
        raise SampleError(f"--answer-box-format is one of {', '.join(FORMATS)}, not {format!r}.")
    if size == ORIGINAL:
        return None
    match = _SIZE.match(size)
    if not match or "0" in (match[1], match[2]):
        raise SampleError(f"--answer-box-size is {ORIGINAL}, a side such as 448, or WIDTHxHEIGHT, not {size!r}.")
    if scale != "pixel":
        raise SampleError("--answer-box-size is about pixels: give --answer-box-scale pixel, too.")
    return float(match[1]), float(match[2] or match[1])


def in_shares(
    row: Mapping[str, Any], sample: Sample, scale: str, size_of: SizeOf, format: str = "xyxy"
) -> Mapping[str, Any]:
    """The row with its boxes as shares of the picture, x0, y0, x1, y1, however they are spelled; see `box_texts`."""
    if sample.task not in BOX_TASKS:
        return row
    convert: box_texts.Convert = tuple
    if scale not in ("auto", "unit"):
        width, height = (_FIXED[scale],) * 2 if scale in _FIXED else size_of(sample)
        divisors = (width, height, width, height)

        def convert(box: Sequence[float]) -> Sequence[float]:
            return [number / divisor for number, divisor in zip(box, divisors, strict=True)]

    made = dict(row)
    if isinstance(row.get("boxes"), (list, dict)):
        made["boxes"] = box_texts.list_of(row["boxes"], convert, format)
    text = row.get("text")
    if isinstance(text, str) and ("<" in text or "{" in text or convert is not tuple or format != "xyxy"):
        made["text"] = box_texts.rewritten(text[:MAX_SCORED_TEXT], convert, format)
    return made


# ---- what is doubtful about them -------------------------------------------------------------------------------------


def warnings(
    samples: Sequence[Sample], answers: Mapping[str, Mapping[str, Any]], side: str, scale: str, format: str
) -> list[str]:
    """Sentences about a side most of whose boxes cannot have been meant as they are read, or are not read at all.

    `answers` are as `in_shares` gives them; nothing is said of what was declared.
    """
    rows = [answers[sample.id] for sample in samples if sample.task in BOX_TASKS and sample.id in answers]
    firsts = [first for row in rows if (first := _first(row))]
    found = [_unread(rows)]
    if scale == "auto":
        found.append(_large(firsts))
    if format == "auto":
        found.append(_order(rows, firsts))
    return [f"{side}: {text}" if side else text for text in found if text]


def _large(boxes: Sequence[Sequence[float]]) -> str:
    large = [box for box in boxes if max(box) > LARGE]
    if len(large) * 2 <= len(boxes):
        return ""
    return (
        f"{len(large)} of {len(boxes)} answers have a box with coordinates above 1 (up to {max(map(max, large)):g}), "
        "and shares of the picture (0..1) are expected: as they are read they score next to nothing. If they are "
        "pixels, per cent or thousandths, say so with --answer-box-scale pixel, percent or thousand."
    )


def _order(rows: Sequence[Mapping[str, Any]], boxes: Sequence[Sequence[float]]) -> str:
    """Boxes that end before they begin are a rarity in x0, y0, x1, y1; `box_2d` is Gemini's y0, x0, y1, x1."""
    swapped = sum(isinstance(row.get("text"), str) and bool(_SWAPPED.search(row["text"])) for row in rows)
    if swapped * 2 > len(rows):
        return (
            f"{swapped} of {len(rows)} answers write `box_2d`, which some models mean as y0, x0, y1, x1; they are read "
            "as x0, y0, x1, y1. Say which they are with --answer-box-format yxyx or xyxy."
        )
    inverted = sum(box[2] < box[0] or box[3] < box[1] for box in boxes)
    if inverted * 4 <= len(boxes):
        return ""
    return (
        f"{inverted} of {len(boxes)} answers have a box that ends before it begins, as x0, y0, x1, y1 is read. If they "
        "are x, y, width, height, say so with --answer-box-format xywh (or yxyx)."
    )


def _unread(rows: Sequence[Mapping[str, Any]]) -> str:
    unread = [
        row["text"]
        for row in rows
        if isinstance(row.get("text"), str) and not _first(row) and len(_COORDINATE.findall(row["text"][:2000])) >= 4
    ]
    if len(unread) * 2 <= len(rows):
        return ""
    return (
        f"{len(unread)} of {len(rows)} answers hold four numbers or more but no box that can be read, such as "
        f"{ascii(unread[0][:60])}: they count as wrong. A box is read from [x0,y0,x1,y1], from the marks of Qwen-VL, "
        "PaliGemma, Florence-2, Kosmos-2 and MiniGPT-v2, and from an object that names its corners; write them so, or "
        "give each row `boxes`."
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
    found = find_boxes(text[:MAX_SCORED_TEXT]) if isinstance(text, str) else ()
    return box_texts.bracketed_numbers(text[found[0].start : found[0].stop]) if found and isinstance(text, str) else []
