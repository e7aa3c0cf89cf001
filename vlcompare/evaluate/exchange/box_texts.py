"""Boxes in the spellings of other models, rewritten as `[x0,y0,x1,y1]`, the form that is parsed.

    Qwen-VL, Qwen2-VL   <box>(x0,y0),(x1,y1)</box>, <|box_start|>(x0,y0),(x1,y1)<|box_end|>
    Qwen2.5-VL          {"bbox_2d": [x0,y0,x1,y1], "label": ..}: the brackets are read as they stand, as are
                        InternVL's <box>[[..]]</box> and DeepSeek-VL2's <|det|>[[..]]<|/det|>
    objects             {"x": .., "y": .., "width": .., "height": ..}, {"xmin": .., ..}, {"left": .., "top": .., ..}
    PaliGemma           <loc0123> four times: y0, x0, y1, x1 in 1024 steps (big_vision's paligemma_parse)
    Florence-2          <loc_123> four times: x0, y0, x1, y1, the middles of 1000 steps (transformers' processor)
    Kosmos-2            <patch_index_0044><patch_index_0863>: two cells of a 32 x 32 grid (transformers' processor)
    MiniGPT-v2          {<12><34><56><78>}: x0, y0, x1, y1 in per cent (its evaluation script)

The last four say by themselves what they are shares of. The numbers of the others are in the declared scale.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlcompare.evaluate.readers.json_lines import finite
from vlcompare.tasks.boxes import find_boxes

FORMATS = ("xyxy", "xywh", "yxyx")  # what four numbers in brackets are
Convert = Callable[[Sequence[float]], Sequence[float]]  # x0, y0, x1, y1 in the declared scale -> shares

_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{0,20})?)\s*"
_PAIR = rf"\({_NUMBER},{_NUMBER}\)"
_CORNERS = re.compile(rf"{_PAIR}\s*,?\s*{_PAIR}")
_MARKED = re.compile(r"(?:<box>|<\|box_start\|>)([^<\[]{1,2000})(?:</box>|<\|box_end\|>|\Z)")
_NAMED = re.compile(r"(?:<ref>|<phrase>|<\|object_ref_start\|>)([^<]{0,500})(?:</ref>|</phrase>|<\|object_ref_end\|>)")
_MARKS = re.compile(r"</?(?:box|object)>")
_OBJECT = re.compile(r"\{[^{}\[\]<>]{1,400}\}")
_FIELD = re.compile(rf"[\"']?([A-Za-z_]{{1,8}}[0-2]?)[\"']?\s{{0,9}}[:=]{_NUMBER}(?=[,}}\s]|\Z)")
_BRACKETED = re.compile(r"[^\s,;\[\]]+")

# names of an object's fields, in lower case without underscores -> how its four numbers become corners
_CORNER_NAMES = (
    (("x0", "y0", "x1", "y1"), "xyxy"),
    (("x1", "y1", "x2", "y2"), "xyxy"),
    (("xmin", "ymin", "xmax", "ymax"), "xyxy"),
    (("left", "top", "right", "bottom"), "xyxy"),
    (("left", "top", "width", "height"), "xywh"),
    (("x", "y", "width", "height"), "xywh"),
    (("x", "y", "w", "h"), "xywh"),
)
_BOX_KEYS = ("bbox_2d", "bbox", "box", "bounding_box", "box_2d")


def as_corners(numbers: Sequence[float], format: str) -> tuple[float, ...]:
    """Four numbers of a format as x0, y0, x1, y1."""
    a, b, c, d = numbers
    return {"xyxy": (a, b, c, d), "xywh": (a, b, a + c, b + d), "yxyx": (b, a, d, c)}[format]


def bracketed_numbers(group: str) -> list[float]:
    """The numbers of a box that was found in a text, from its text with the brackets."""
    return [float(part) for part in _BRACKETED.findall(group)]


def rewritten(text: str, convert: Convert, format: str) -> str:
    """A text with every box as `[x0,y0,x1,y1]`; `convert` and `format` are of the boxes that do not say it themselves.

    Linear in the text's length.
    """
    parts, last = [], 0
    for found in find_boxes(text):
        corners = as_corners(bracketed_numbers(text[found.start : found.stop]), format)
        parts += [text[last : found.start], _written(convert(corners))]
        last = found.stop
    text = "".join([*parts, text[last:]])
    if "<" in text:
        text = _NAMED.sub(r"||\1||", text)
        text = _MARKED.sub(lambda match: _pairs(match[1], convert), text)
        for pattern, shares in _TOKENS:
            text = pattern.sub(lambda match, shares=shares: _written(shares(match)), text)  # type: ignore[misc]
        text = _MARKS.sub("", text)
    if "{" in text:
        text = _OBJECT.sub(lambda match: _object(match[0], convert), text)
    return text


def _pairs(inside: str, convert: Convert) -> str:
    """The text between Qwen's marks as boxes, if it is pairs of corners; else unchanged."""
    return _CORNERS.sub(lambda match: _written(convert([float(number) for number in match.groups()])), inside)


def _object(text: str, convert: Convert) -> str:
    corners = _named_corners({name: float(number) for name, number in _FIELD.findall(text)})
    return _written(convert(corners)) if corners else text


def _named_corners(fields: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The corners that an object's fields name; None where they name none."""
    plain = {str(name).lower().replace("_", ""): finite(value) for name, value in fields.items()}
    for names, format in _CORNER_NAMES:
        numbers = [plain.get(name) for name in names]
        if None not in numbers:
            return as_corners([number for number in numbers if number is not None], format)
    return None


def _written(box: Sequence[float]) -> str:
    return "[" + ",".join(f"{value:.6f}" for value in box) + "]"


# ---- tokens of a position: shares of the picture, whatever is declared -----------------------------------------------


def _numbers(match: re.Match[str]) -> list[int]:
    return [int(number) for number in match.groups()]


def _paligemma(match: re.Match[str]) -> tuple[float, ...]:
    return as_corners([number / 1024 for number in _numbers(match)], "yxyx")


def _florence(match: re.Match[str]) -> tuple[float, ...]:
    return tuple((number + 0.5) / 1000 for number in _numbers(match))


def _minigpt(match: re.Match[str]) -> tuple[float, ...]:
    return tuple(number / 100 for number in _numbers(match))


def _kosmos(match: re.Match[str]) -> tuple[float, ...]:
    """From the middle of one cell to that of the other; cells of one row or column count whole."""
    (y0, x0), (y1, x1) = (divmod(number, 32) for number in _numbers(match))
    start, stop = (0.0, 1.0) if x0 == x1 or y0 == y1 else (0.5, 0.5)
    return (x0 + start) / 32, (y0 + start) / 32, (x1 + stop) / 32, (y1 + stop) / 32


_TOKENS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Sequence[float]]], ...] = (
    (re.compile(r"<loc(\d{4})>\s?" * 3 + r"<loc(\d{4})>"), _paligemma),
    (re.compile(r"<loc_(\d{1,3})>\s?" * 3 + r"<loc_(\d{1,3})>"), _florence),
    (re.compile(r"<patch_index_(\d{4})>\s?<patch_index_(\d{4})>"), _kosmos),
    (re.compile(r"\{<(\d{1,3})>\s?<(\d{1,3})>\s?<(\d{1,3})>\s?<(\d{1,3})>\}"), _minigpt),
)

# ---- boxes as values -------------------------------------------------------------------------------------------------


def holds_boxes(value: Any) -> bool:
    """Whether a JSON value is a box or a list of boxes: four numbers, or an object that names its corners or a box."""
    if isinstance(value, dict):
        return _named_corners(value) is not None or any(isinstance(value.get(key), list) for key in _BOX_KEYS)
    if not isinstance(value, list) or not value:
        return False
    return _is_box(value) or all(isinstance(item, dict) and holds_boxes(item) or _is_box(item) for item in value)


def list_of(value: Any, convert: Convert, format: str) -> list[Any]:
    """The boxes of a JSON value as [x0, y0, x1, y1] each; other values stay unchanged, and are skipped when read."""
    items = [value] if isinstance(value, dict) or _is_box(value) else value if isinstance(value, list) else []
    return [_one(item, convert, format) for item in items]


def _one(item: Any, convert: Convert, format: str) -> Any:
    if isinstance(item, dict):
        if corners := _named_corners(item):
            return list(convert(corners))
        item = next((item[key] for key in _BOX_KEYS if key in item), item)
    if _is_box(item):
        return list(convert(as_corners([float(number) for number in item], format)))
    return item


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and None not in map(finite, value)
