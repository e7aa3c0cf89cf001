"""The picture of what answers rest on: a panel for each side, the blocks coloured on one scale for both.

The picture is shown pale. A block is the more purple the further the answer's log-probability falls without it, and
green where the answer becomes more likely; the block with the largest fall has a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from PIL import Image, ImageDraw

from vlcompare.evidence import EvidenceMap
from vlcompare.render.draw import STYLES, Mark, Role, annotate
from vlcompare.render.fonts import wrap
from vlcompare.tasks.prompts import task_title
from vlcompare.types import Box, Request
from vlcompare.units import decimal

PANEL = 720  # pixels of a panel's width
MARGIN, GAP, BAR = 36, 32, 8
SIZE, LEADING = 24, 34  # of the text
INK, GREY = "#1f2328", "#57606a"
FALL, RISE, LARGEST = "#8e0f5f", "#00725c", "#3b0a2a"
NO_CHANGE = "#e6e6e6"  # in the middle of the scale
_BLANKED = {"mean": "with the mean patch in place of a block", "blur": "with a block blurred"}
_SOLID = 0.85  # the share of the colour at the scale's end
_TALLEST = 1.5  # height of a panel's picture at most, in its widths


@dataclass(frozen=True)
class Place:
    """The place that a question is about: its boxes, their label on the picture, and their name in sentences."""

    badge: str
    name: str
    boxes: tuple[Box, ...]


_PLACES = {"region_description": ("region", "region asked about"), "pointing": ("right", "right choice")}


def place_of(task: str, boxes: Sequence[Box]) -> Place:
    """Boxes as what a task's questions are about: the true boxes, the region asked about, or the right choice."""
    return Place(*_PLACES.get(task, ("truth", "true box")), tuple(boxes))


def place_in(request: Request, truth: Sequence[Box]) -> Place:
    """The place that a request is about; the region that it holds itself needs no truth."""
    own = request.task == "region_description" and request.box is not None
    return place_of(request.task, (request.box,) if own else truth)  # type: ignore[arg-type]


def evidence_picture(
    picture: Image.Image, request: Request, maps: Mapping[Role, EvidenceMap], truth: Sequence[Box] = ()
) -> Image.Image:
    """The maps of one picture and question side by side, each with its answer and its figures.

    picture: upright. maps: "left" and "right", or one of them. truth: the true boxes, drawn dashed; the boxes of an
    answer are drawn in its side's colour. Of a region description the region is drawn instead of a truth.
    """
    small = picture.convert("RGB")
    small = small.resize((PANEL, max(1, min(round(_TALLEST * PANEL), round(PANEL * small.height / small.width)))))
    scale = evidence_scale(maps)
    place = place_in(request, truth)
    panels = [_panel(small, side, map, scale, place) for side, map in maps.items()]
    width = 2 * MARGIN + sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    question = request.text or task_title(request.task)
    head = list(islice(wrap(question, width - 2 * MARGIN, SIZE, bold=True), 4))
    top = MARGIN + len(head) * LEADING + GAP // 2
    height = top + max(panel.height for panel in panels) + GAP + 3 * LEADING + MARGIN
    whole = Image.new("RGB", (width, height), "#ffffff")
    draw = ImageDraw.Draw(whole)
    for index, line in enumerate(head):
        line.draw(draw, MARGIN, MARGIN + index * LEADING, SIZE, INK, bold=True)
    for index, panel in enumerate(panels):
        whole.paste(panel, (MARGIN + index * (PANEL + GAP), top))
    blanks = " and ".join(dict.fromkeys(_BLANKED[map.blank] for map in maps.values()))
    _draw_scale(draw, (MARGIN, height - MARGIN - 3 * LEADING, width - MARGIN), scale, blanks)
    return whole


def evidence_scale(maps: Mapping[Role, EvidenceMap]) -> float:
    """The fall at which the colour is full, the same for all maps; above 0."""
    return max(1e-6, *(abs(fall) for map in maps.values() for fall in map.falls if fall is not None), 1e-6)


def evidence_overlay(picture: Image.Image, map: EvidenceMap, scale: float) -> Image.Image:
    """The picture, pale, under the map's colours, in its own size; blocks not measured stay as they are."""
    pale = Image.blend(picture.convert("RGB"), picture.convert("L").convert("RGB"), 0.6)
    canvas = Image.blend(pale, Image.new("RGB", pale.size, "#ffffff"), 0.25)
    for block, fall in zip(map.layout, map.falls, strict=True):
        if fall is not None:
            area = _pixels(map.layout.box(block), canvas.size)
            part = canvas.crop(area)
            color = Image.new("RGB", part.size, FALL if fall > 0 else RISE)
            canvas.paste(Image.blend(part, color, _SOLID * min(1.0, abs(fall) / scale)), area[:2])
    if map.largest is not None:
        x0, y0, x1, y1 = _pixels(map.layout.box(map.largest), canvas.size)
        draw, line = ImageDraw.Draw(canvas), max(2, min(canvas.size) // 200)
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline="#ffffff", width=2 * line)
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=LARGEST, width=line)
    return canvas


def figures_in_words(map: EvidenceMap, place: Place) -> list[str]:
    """The figures of a map as short lines: the answer's log-probability, then `place` and the answer's own."""
    lines = [f"log-probability of the answer {decimal(map.logprob)}, given the whole picture"]
    if not map.complete:
        return [*lines, "Stopped before all blocks were measured."]
    for name, boxes in ((place.name, place.boxes), ("answer's own box", map.boxes)):
        figures = map.against(boxes) if boxes else None
        if figures is not None:
            hit = "the largest fall is in it" if figures.largest_inside else "the largest fall is elsewhere"
            inside, outside = decimal(figures.inside), decimal(figures.outside)
            lines.append(f"{name}: a block's mean fall {inside} inside, {outside} outside; {hit}")
    if map.largest is None:
        lines.append("No block lowers the log-probability: this answer does not rest on one place.")
    return lines


def _panel(picture: Image.Image, side: Role, map: EvidenceMap, scale: float, place: Place) -> Image.Image:
    marks = [Mark(box, "", side) for box in map.boxes] + [Mark(box, place.badge, "truth") for box in place.boxes]
    drawn = annotate(evidence_overlay(picture, map, scale), marks)
    texts = [(map.checkpoint, True, INK), (map.answer or "(no text)", False, INK)]
    texts += [(line, False, GREY) for line in figures_in_words(map, place)]
    lines = [
        (line, bold, color) for text, bold, color in texts for line in islice(wrap(text, PANEL, SIZE, bold=bold), 6)
    ]
    panel = Image.new("RGB", (PANEL, drawn.height + BAR + (len(lines) + 1) * LEADING), "#ffffff")
    panel.paste(drawn)
    draw = ImageDraw.Draw(panel)
    draw.rectangle((0, drawn.height + 4, PANEL, drawn.height + 4 + BAR), fill=STYLES[side].color)
    for index, (line, bold, color) in enumerate(lines):
        line.draw(draw, 0, drawn.height + BAR + 16 + index * LEADING, SIZE, color, bold=bold)
    return panel


def _draw_scale(draw: ImageDraw.ImageDraw, place: tuple[int, int, int], scale: float, blanks: str) -> None:
    """A bar from the largest rise to the largest fall, with its ends in nats."""
    x0, y0, x1 = place
    width = min(420, x1 - x0)
    for x in range(width):
        value = 2 * x / (width - 1) - 1
        share = _SOLID * abs(value)
        shade = Image.blend(
            Image.new("RGB", (1, 1), NO_CHANGE), Image.new("RGB", (1, 1), FALL if value > 0 else RISE), share
        ).getpixel((0, 0))
        draw.line((x0 + x, y0, x0 + x, y0 + LEADING - 8), fill=shade)
    ends = f"-{scale:.2f} to {scale:.2f} nats: how far the log-probability falls {blanks}"
    for index, line in enumerate(islice(wrap(ends, x1 - x0, SIZE - 4), 2)):
        line.draw(draw, x0, y0 + LEADING + index * (LEADING - 6), SIZE - 4, GREY)


def _pixels(box: Box, image_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    wide, high = image_wh
    return round(box.x0 * wide), round(box.y0 * high), round(box.x1 * wide), round(box.y1 * high)
