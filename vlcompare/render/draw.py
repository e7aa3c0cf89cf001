"""Boxes and labels drawn onto a copy of a picture, thumbnails, and the colours of the two sides.

Boxes are 0..1 until they are drawn. The sides are blue and orange (of Okabe and Ito's palette, distinct under every
kind of colour blindness), the truth is dashed black and white; every line has a light rim, so that it shows on any
background. Lines run outside their box. A label is put inside the picture, where it hides the least of small boxes and
other labels.
"""

from __future__ import annotations

import math
import string
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from PIL import Image, ImageDraw

from vlcompare.render.fonts import face, fit
from vlcompare.types import Answer, Box, Request

Role = Literal["left", "right", "truth", "neutral"]  # whose box it is

MAX_LABEL = 48  # characters of a label


class Style(NamedTuple):
    color: str
    text_color: str  # of text on the colour
    dashed: bool = False


STYLES: dict[str, Style] = {
    "left": Style("#0072b2", "#ffffff"),
    "right": Style("#e69f00", "#000000"),
    "truth": Style("#000000", "#ffffff", dashed=True),
    "neutral": Style("#cc79a7", "#000000"),
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A box to draw. An inverted or empty one is drawn with its diagonals, so that it can be seen for what it is."""

    box: Box
    label: str = ""
    side: Role = "neutral"


class _Area(NamedTuple):
    """Pixels, x1 and y1 not included."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: _Area) -> float:
        return max(0.0, min(self.x1, other.x1) - max(self.x0, other.x0)) * max(
            0.0, min(self.y1, other.y1) - max(self.y0, other.y0)
        )

    def size(self) -> float:
        return max(1.0, (self.x1 - self.x0) * (self.y1 - self.y0))


def annotate(image: Image.Image, marks: Sequence[Mark], legend: Sequence[tuple[Role, str]] = ()) -> Image.Image:
    """A copy of the picture with the marks drawn, and a line for each entry of the legend below it."""
    canvas = image.convert("RGB") if image.mode != "RGB" else image.copy()
    draw = ImageDraw.Draw(canvas)
    width = line_width(canvas.size)
    areas = [_area(mark.box, canvas.size) for mark in marks]
    # large boxes first, so that small ones lie on top
    for mark, area in sorted(zip(marks, areas, strict=True), key=lambda pair: -pair[1].size()):
        _draw_box(draw, area, mark, width, canvas.size)
    taken: list[_Area] = []
    for mark, area in zip(marks, areas, strict=True):
        placed = _draw_label(draw, area, mark, areas, taken, canvas.size)
        if placed is not None:
            taken.append(placed)
    return _with_legend(canvas, legend) if legend else canvas


def request_marks(request: Request) -> list[Mark]:
    """The boxes that a question itself holds: its region, or the choices with their letters."""
    marks = [Mark(request.box, "region")] if request.box else []
    choices = request.choices or () if request.task == "pointing" else ()
    return marks + [Mark(Box(*box), string.ascii_uppercase[index % 26]) for index, box in enumerate(choices)]


def answer_marks(answer: Answer, side: Role, name: str = "") -> list[Mark]:
    """The boxes of an answer; each is labelled with its phrase where there is one, and with `name` before it."""
    phrases = (*answer.phrases, *[""] * len(answer.boxes))
    return [
        Mark(box, ": ".join(part for part in (name, phrase) if part), side)
        for box, phrase in zip(answer.boxes, phrases, strict=False)
    ]


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """A copy of at most `side` pixels a side, in RGB; never enlarged."""
    small = image.convert("RGB") if image.mode != "RGB" else image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def line_width(image_wh: tuple[int, int]) -> int:
    """Pixels of a line that looks the same on pictures of any size."""
    return max(1, round(min(image_wh) / 160))


def clean_label(text: str, limit: int = MAX_LABEL) -> str:
    """One line of printable characters, cut with an ellipsis."""
    # separators and "Cc", "Cf", "Cs", "Co", "Cn": controls, direction marks, surrogates and the like become spaces
    plain = "".join(" " if unicodedata.category(character)[0] in "ZC" else character for character in text[: 4 * limit])
    plain = " ".join(plain.split())
    return plain if len(plain) <= limit else plain[: limit - 1].rstrip() + "…"


def _area(box: Box, image_wh: tuple[int, int]) -> _Area:
    box = Box(*box).clip()
    (x0, x1), (y0, y1) = sorted((box.x0, box.x1)), sorted((box.y0, box.y1))
    return _Area(x0 * image_wh[0], y0 * image_wh[1], x1 * image_wh[0], y1 * image_wh[1])


def _draw_box(draw: ImageDraw.ImageDraw, area: _Area, mark: Mark, width: int, image_wh: tuple[int, int]) -> None:
    rim = _rim(width)
    frame = _frame(area, width + rim, rim, image_wh)
    style = STYLES[mark.side]
    draw.rectangle(_frame(area, width + 2 * rim, 0, image_wh), outline="#ffffff", width=width + 2 * rim)
    draw.rectangle(frame, outline=style.color, width=width)
    if style.dashed:
        _draw_dashes(draw, frame, width)
    if not Box(*mark.box).clip().area:
        for line in ((frame[0], frame[1], frame[2], frame[3]), (frame[0], frame[3], frame[2], frame[1])):
            draw.line(line, fill="#ffffff", width=width + 2 * rim)
            draw.line(line, fill=style.color, width=width)


def _rim(width: int) -> int:
    return max(1, width // 3)


def _frame(area: _Area, out: int, inset: int, image_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """Corners (included) of a rectangle `out` pixels around the area, at least `inset` from the picture's edge."""
    right, bottom = image_wh[0] - 1 - inset, image_wh[1] - 1 - inset
    x0 = min(max(inset, math.floor(area.x0) - out), max(0, right))
    y0 = min(max(inset, math.floor(area.y0) - out), max(0, bottom))
    return x0, y0, max(x0, min(right, math.ceil(area.x1) - 1 + out)), max(y0, min(bottom, math.ceil(area.y1) - 1 + out))


def _draw_dashes(draw: ImageDraw.ImageDraw, frame: tuple[int, int, int, int], width: int) -> None:
    """White dashes on the black line, which show on any background."""
    x0, y0, x1, y1 = frame
    dash = 3 * width
    for start in range(x0 + dash, x1 - 1, 2 * dash):
        stop = min(start + dash - 1, x1)
        draw.rectangle((start, y0, stop, min(y0 + width - 1, y1)), fill="#ffffff")
        draw.rectangle((start, max(y1 - width + 1, y0), stop, y1), fill="#ffffff")
    for start in range(y0 + dash, y1 - 1, 2 * dash):
        stop = min(start + dash - 1, y1)
        draw.rectangle((x0, start, min(x0 + width - 1, x1), stop), fill="#ffffff")
        draw.rectangle((max(x1 - width + 1, x0), start, x1, stop), fill="#ffffff")


def _draw_label(
    draw: ImageDraw.ImageDraw,
    area: _Area,
    mark: Mark,
    boxes: Sequence[_Area],
    taken: Sequence[_Area],
    image_wh: tuple[int, int],
) -> _Area | None:
    """Draw the label where it costs least, and give its area; None without a text, or on too small a picture."""
    size = max(10, round(min(image_wh) / 34))
    font = face(size)
    pad = max(2, size // 5)
    room = min(image_wh[0], max(8 * size, round(image_wh[0] * 0.6)))
    text = fit(clean_label(mark.label), font, room - 2 * pad)
    width, height = math.ceil(font.getlength(text)) + 2 * pad, round(size * 1.25) + pad
    if not text or width > image_wh[0] or height > image_wh[1]:
        return None
    gap = line_width(image_wh) + 2 * _rim(line_width(image_wh)) + 1
    best = min(
        _label_areas(area, width, height, gap, image_wh),
        key=lambda label: _cost(label, area, boxes, taken, image_wh),
    )
    style = STYLES[mark.side]
    draw.rectangle((best.x0 - 1, best.y0 - 1, best.x1, best.y1), fill="#ffffff")
    draw.rectangle((best.x0, best.y0, best.x1 - 1, best.y1 - 1), fill=style.color)
    draw.text(((best.x0 + best.x1) / 2, (best.y0 + best.y1) / 2), text, fill=style.text_color, font=font, anchor="mm")
    return best


def _label_areas(area: _Area, width: int, height: int, gap: int, image_wh: tuple[int, int]) -> Iterable[_Area]:
    """Where a label may go, best first, each moved inside the picture: above, below, beside, inside, then corners."""
    above, below = area.y0 - gap - height, area.y1 + gap
    left, right = area.x0 - gap - width, area.x1 + gap
    from_right = area.x1 - width
    corners = [(area.x0, above), (from_right, above), (area.x0, below), (from_right, below)]
    corners += [(right, area.y0), (left, area.y0), (right, area.y1 - height), (left, area.y1 - height)]
    corners += [(area.x0 + gap, area.y0 + gap), (area.x0 + gap, area.y1 - height - gap)]
    corners += [(from_right, above - height - 2), (area.x0, above - height - 2), (area.x0, below + height + 2)]
    corners += [(0, 0), (image_wh[0], 0), (0, image_wh[1]), (image_wh[0], image_wh[1])]
    for x, y in corners:
        x = round(min(max(0, x), image_wh[0] - width))
        y = round(min(max(0, y), image_wh[1] - height))
        yield _Area(x, y, x + width, y + height)


def _cost(label: _Area, own: _Area, boxes: Sequence[_Area], taken: Sequence[_Area], image_wh: tuple[int, int]) -> float:
    """What a label would hide: other labels weigh most, then boxes by the share that is hidden, then the distance."""
    labels = sum(label.overlap(other) / label.size() for other in taken)
    hidden = sum(label.overlap(box) / box.size() for box in boxes)
    across = max(0.0, label.x0 - own.x1, own.x0 - label.x1)
    down = max(0.0, label.y0 - own.y1, own.y0 - label.y1)
    return round(20 * labels + 5 * hidden + 2 * (across + down) / sum(image_wh), 2)


def _with_legend(canvas: Image.Image, legend: Sequence[tuple[Role, str]]) -> Image.Image:
    """The picture above a light strip with a swatch and a text for each entry."""
    size = max(12, round(min(canvas.size) / 30))
    font, row = face(size), round(size * 1.6)
    whole = Image.new("RGB", (canvas.width, canvas.height + row * len(legend) + size // 2), "#ffffff")
    whole.paste(canvas)
    draw = ImageDraw.Draw(whole)
    for index, (side, text) in enumerate(legend):
        top = canvas.height + size // 4 + index * row
        swatch = (size // 2, top + row // 4, size * 2, top + row * 3 // 4)
        draw.rectangle(swatch, fill=STYLES[side].color)
        if STYLES[side].dashed:
            third = (swatch[2] - swatch[0]) // 3
            draw.rectangle((swatch[0] + third, swatch[1] + 2, swatch[0] + 2 * third, swatch[3] - 2), fill="#ffffff")
        text = fit(clean_label(text, 200), font, canvas.width - 3 * size)
        draw.text((size * 2.5, top + row / 2), text, fill="#000000", font=font, anchor="lm")
    return whole
