"""Small documents with text that can be read at 112 pixels: receipt, form, table and bar chart of 2 to 5 lines.

A line is a key of a closed list and a number of up to three digits; no two lines share a key or a number. Laid out in
shares of the picture, painted afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from vlcompare.synth.scenes import shapes
from vlcompare.synth.scenes.dice import Dice
from vlcompare.types import Box

KEYS: dict[str, tuple[str, ...]] = {
    "receipt": ("bread", "milk", "eggs", "rice", "soup", "juice", "tip"),
    "form": ("age", "room", "seat", "floor", "code", "gate"),
    "table": ("wins", "goals", "games", "score", "team", "rank"),
    "chart": ("mon", "tue", "wed", "thu", "fri"),
}
DOCUMENTS = tuple(KEYS)
ACCENTS = ("red", "green", "blue", "purple", "orange")
_WIDTH = {"receipt": 0.68, "form": 0.84, "table": 0.8, "chart": 0.9}  # of the card
_HEAD = {"receipt": 0.11, "form": 0.07, "table": 0.08, "chart": 0.06}  # free space above the first line
_FOOT = {"receipt": 0.08, "form": 0.04, "table": 0.02, "chart": 0.06}
_KEY_WIDTH = 0.235  # of the picture: where a chart's bars begin
_BAR, _GAP = 0.36, 0.02  # the longest bar; the space between a bar and its number
_PAPER: shapes.RGB = (255, 254, 250)
_RULE: shapes.RGB = (206, 208, 214)


@dataclass(frozen=True, slots=True)
class DocumentLine:
    key: str
    value: int
    box: Box  # the whole line, from the key to the number


@dataclass(frozen=True, slots=True)
class Document:
    kind: str  # of DOCUMENTS
    lines: tuple[DocumentLine, ...]
    card: Box
    accent: str  # a colour's name
    letter: float  # height of the font, as a share of the picture


def _values(dice: Dice, kind: str, count: int) -> list[int]:
    """Different numbers; a chart's are all of two or all of three digits, so that its bars can be seen."""
    chart_digits = 2 + dice.below(2)
    values: list[int] = []
    while len(values) < count:
        digits = chart_digits if kind == "chart" else dice.one((1, 2, 2, 3, 3))
        low = 10 ** (digits - 1)
        value = low + dice.below(9 * low)
        if value not in values:
            values.append(value)
    return values


def draw_document(dice: Dice) -> Document:
    """A document laid out at random."""
    kind = dice.one(DOCUMENTS)
    count = 2 + dice.below(4)
    keys = dice.some(KEYS[kind], count)
    if kind == "chart":
        keys.sort(key=KEYS["chart"].index)
    values = _values(dice, kind, count)
    pitch = dice.between(0.142, 0.155)
    width, height = _WIDTH[kind], _HEAD[kind] + pitch * count + _FOOT[kind]
    x, y = dice.between(0.04, 0.96 - width), dice.between(0.03, 0.97 - height)
    inner = 0.05 if kind == "receipt" else 0.04
    lines = []
    for row, (key, value) in enumerate(zip(keys, values, strict=True)):
        top, right = y + _HEAD[kind] + pitch * row, x + width - inner
        if kind == "chart":  # a chart's line ends with its number, just behind the bar
            right = x + inner + _KEY_WIDTH + _BAR * value / max(values) + _GAP + 0.425 * pitch * len(str(value))
        lines.append(DocumentLine(key, value, Box(x + inner, top, right, top + pitch)))
    return Document(kind, tuple(lines), Box(x, y, x + width, y + height), dice.one(ACCENTS), pitch * 0.7)


def paint_document(image: Image.Image, document: Document) -> None:
    """Draw the card and its lines onto a square picture."""
    size = image.width
    pen = ImageDraw.Draw(image)
    _card(image, pen, document, size)
    accent = shapes.COLORS[document.accent]
    face = shapes.font(max(6, round(document.letter * size)))
    thin = max(1, round(size / 160))
    largest = max(line.value for line in document.lines)
    for row, line in enumerate(document.lines):
        x0, y0, x1, y1 = (round(value * size) for value in line.box)
        middle, height, right = (y0 + y1) / 2, y1 - y0, x1
        if document.kind == "receipt" and row:
            for x in range(x0, x1 - thin, 4 * thin):
                pen.rectangle((x, y0, x + 2 * thin - 1, y0 + thin - 1), fill=_RULE)
        elif document.kind == "form":
            left = round(x1 - 0.34 * size)
            field = (left, y0 + height // 10, x1, y1 - height // 10)
            edge = shapes.blend(accent, _PAPER, 0.4)
            pen.rounded_rectangle(field, size // 50, fill=(246, 248, 252), outline=edge, width=thin)
            right = x1 - round(0.03 * size)
        elif document.kind == "table":
            _cells(pen, document, row, (x0, y0, x1, y1), thin, size)
            right = x1 - round(0.01 * size)
        elif document.kind == "chart":
            left = x0 + round(_KEY_WIDTH * size)
            right = left + max(2, round(line.value / largest * _BAR * size))
            pen.rectangle((left, y0 + height // 6, right, y1 - height // 6), fill=accent)
            pen.line((left - thin, y0, left - thin, y1), fill=shapes.INK, width=thin)
        pen.text((x0, middle), line.key.capitalize(), font=face, fill=shapes.INK, anchor="lm")
        if document.kind == "chart":
            pen.text((right + round(_GAP * size), middle), str(line.value), font=face, fill=shapes.INK, anchor="lm")
        else:
            pen.text((right, middle), str(line.value), font=face, fill=(24, 26, 34), anchor="rm")


def _card(image: Image.Image, pen: ImageDraw.ImageDraw, document: Document, size: int) -> None:
    """The paper with its soft shadow, and what tells its kind: a torn edge, a head line, a bar."""
    x0, y0, x1, y1 = (round(value * size) for value in document.card)
    accent, drop = shapes.COLORS[document.accent], max(1, round(size * 0.015))
    image.paste(_shade(image, (x0 + drop, y0 + drop, x1 + drop, y1 + drop)), (x0 + drop, y0 + drop))
    if document.kind == "receipt":
        tooth = max(3, round((x1 - x0) / 14))
        pen.rectangle((x0, y0, x1, y1 - tooth), fill=_PAPER)
        for x in range(x0, x1 - tooth // 2, tooth):
            pen.polygon((x, y1 - tooth, min(x + tooth, x1), y1 - tooth, min(x + tooth / 2, x1), y1), fill=_PAPER)
        middle, half = (x0 + x1) // 2, round(0.13 * size)
        top, bottom = y0 + round(0.035 * size), y0 + round(0.075 * size)
        pen.rounded_rectangle((middle - half, top, middle + half, bottom), size // 60, fill=accent)
    elif document.kind == "form":
        pen.rounded_rectangle((x0, y0, x1, y1), size // 40, fill=_PAPER)
        pen.rounded_rectangle((x0, y0, x1, y0 + round(0.045 * size)), size // 40, fill=accent)
    else:
        pen.rounded_rectangle((x0, y0, x1, y1), size // 50, fill=_PAPER)
    if document.kind == "table":
        rim = size // 50
        pen.rectangle((x0 + rim, y0 + rim, x1 - rim, y0 + round(0.065 * size)), fill=accent)


def _shade(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    return image.crop(box).point([value * 7 // 8 for value in range(256)] * 3)


def _cells(
    pen: ImageDraw.ImageDraw, document: Document, row: int, box: tuple[int, int, int, int], thin: int, size: int
) -> None:
    """A table's row: shaded every other time, ruled below and between its two columns."""
    x0, y0, x1, y1 = box
    rim = round(0.02 * size)
    if row % 2 == 0:
        pale = shapes.blend(shapes.COLORS[document.accent], _PAPER, 0.86)
        pen.rectangle((x0 - rim, y0, x1 + rim, y1 - 1), fill=pale)
    pen.line((x0 - rim, y1, x1 + rim, y1), fill=_RULE, width=thin)
    split = round(x1 - 0.27 * size)
    pen.line((split, y0, split, y1), fill=_RULE, width=thin)
