"""Boxes as the models write them, `[x0,y0,x1,y1]` with two decimals, and back; what rounding costs.

Reading is total: any text gives a tuple of boxes, in time linear in its length.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import NamedTuple

from vlcompare.types import Box

STEP = 0.01  # of a coordinate: two decimals

# A group is the text between the innermost brackets; no nesting, so that the search is linear. An answer that was cut
# off may lack the closing bracket: then a group also ends with the text.
_GROUP = re.compile(r"\[([^\[\]]{0,400})(?:\]|\Z)")
_SEPARATOR = re.compile(r"\s*[,;]\s*|\s+")
_NUMBER = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,4})?\Z", re.ASCII)


class BoxSpan(NamedTuple):
    """A box and the span of its text: [start, stop), brackets included."""

    box: Box
    start: int
    stop: int


def format_box(box: Box) -> str:
    """`[0.10,0.60,0.35,0.87]`: no spaces, two decimals ("%.2f", as the checkpoints were trained), within 0..1."""
    return "[" + ",".join(f"{value:.2f}" for value in Box(*box).clip()) + "]"


def parse_boxes(text: str) -> tuple[Box, ...]:
    """All boxes in a text, in order, clipped to 0..1.

    A box is four finite numbers in square brackets, with any spacing. Three or five numbers, "nan", or other words
    between the brackets are not a box. An inverted box is one, and has the area 0.
    """
    return tuple(span.box for span in find_boxes(text))


def find_boxes(text: str) -> tuple[BoxSpan, ...]:
    """As `parse_boxes`, each with the span of its text."""
    groups = ((match, _read(match.group(1))) for match in _GROUP.finditer(text))
    return tuple(BoxSpan(box, match.start(), match.end()) for match, box in groups if box is not None)


def rounding_ceiling(box: Box) -> float:
    """The best IoU with `box` that coordinates of two decimals can reach; 0 for an inverted or empty box.

    Moving an edge past the neighbouring step, inward or outward, can only lose: the best is among the neighbours.
    """
    box = Box(*box).clip()
    steps = [
        {math.floor(value / STEP + slack) for slack in (-1e-9, 1e-9)}
        | {math.ceil(value / STEP + slack) for slack in (-1e-9, 1e-9)}
        for value in box
    ]
    return max(box.iou(Box(*(step * STEP for step in corner)).clip()) for corner in itertools.product(*steps))


def _read(group: str) -> Box | None:
    parts = _SEPARATOR.split(group.strip())
    if len(parts) != 4 or not all(_NUMBER.match(part) for part in parts):
        return None
    values = [float(part) for part in parts]
    return Box(*values).clip() if all(map(math.isfinite, values)) else None
