"""What an answer rests on, as values: a map of falls in log-probability over the picture, and its figures.

Knows nothing of tensors. `vlcompare.runtime.blanking` measures such maps, `vlcompare.render.evidence_picture` draws
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, get_args

from vlcompare.errors import RequestError
from vlcompare.types import Box

Blank = Literal["mean", "blur"]  # features of the picture's mean patch, or blurred pixels
BLANKS: tuple[Blank, ...] = get_args(Blank)
MAX_BLOCKS = 64  # that a picture is divided into, where the caller does not say how large a block is
_DIGITS = 5  # of a fall in JSON, after the point


class Block(NamedTuple):
    """Patches that are blanked together: rows and columns from 0, the ends not included."""

    row: int
    column: int
    row_end: int
    column_end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A grid of patches divided into blocks of `block` x `block` patches; those at the far edges may be smaller."""

    rows: int
    columns: int
    block: int

    @classmethod
    def of(cls, rows: int, columns: int, block: int | None = None) -> Layout:
        """With blocks of this size, by default the smallest that divide the grid into no more than MAX_BLOCKS.

        Raises RequestError where a block has no patch, or more than the grid.
        """
        if block is None:
            block = next(
                size for size in range(1, max(rows, columns) + 1) if len(cls(rows, columns, size)) <= MAX_BLOCKS
            )
        if isinstance(block, bool) or not isinstance(block, int) or not 1 <= block <= max(rows, columns):
            raise RequestError(f"A block has 1 to {max(rows, columns)} patches a side in this model, not {block!r}.")
        return cls(rows, columns, block)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return math.ceil(self.rows / self.block), math.ceil(self.columns / self.block)

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __iter__(self) -> Iterator[Block]:
        """The blocks in raster order."""
        for row in range(0, self.rows, self.block):
            for column in range(0, self.columns, self.block):
                ends = min(self.rows, row + self.block), min(self.columns, column + self.block)
                yield Block(row, column, *ends)

    def box(self, block: Block) -> Box:
        """The block's part of the picture."""
        row, column, row_end, column_end = block
        return Box(column / self.columns, row / self.rows, column_end / self.columns, row_end / self.rows)


@dataclass(frozen=True, slots=True)
class PlaceFigures:
    """How much an answer rests on one place, against the rest of the picture.

    inside, outside: the mean fall of a block, each block weighted by its area within the place, and by its area outside
    of it. difference: inside - outside, nats a block; above 0 where the place matters more than the same area
    elsewhere. largest_inside: whether the block with the largest fall overlaps the place. chance: the share of blocks
    that overlap it, which is how often a block taken at random does.
    """

    inside: float
    outside: float
    difference: float
    largest_inside: bool
    chance: float


@dataclass(frozen=True, slots=True)
class EvidenceMap:
    """How far the log-probability of one given answer falls where a block of the picture is blanked.

    falls: a value for each block in raster order, log p(answer | picture) - log p(answer | picture with the block
    blanked), natural logarithms summed over the answer's tokens; below 0 where the answer becomes more likely, None
    where the measurement was stopped before. logprob: of the answer given the whole picture.
    """

    falls: tuple[float | None, ...]
    layout: Layout
    blank: Blank
    logprob: float
    answer: str
    boxes: tuple[Box, ...] = ()  # that the answer names
    tokens: int = 0
    checkpoint: str = ""

    @classmethod
    def from_json(
        cls, value: Mapping[str, Any], *, answer: str = "", boxes: Sequence[Box] = (), checkpoint: str = ""
    ) -> EvidenceMap:
        """The map that `to_json` wrote; answer, boxes, checkpoint: of the answer that it is about.

        value: as `evaluate.evidence_field` checks it. Raises RequestError for a block size that the grid does not have.
        """
        rows, columns = value["grid"]
        return cls(
            falls=tuple(value["falls"]),
            layout=Layout.of(rows, columns, value["block"]),
            blank=value["blank"],
            logprob=value["logprob"],
            answer=answer,
            boxes=tuple(boxes),
            tokens=value.get("tokens", 0),
            checkpoint=checkpoint,
        )

    @property
    def complete(self) -> bool:
        """Whether every block was measured."""
        return None not in self.falls

    @property
    def largest(self) -> Block | None:
        """The block with the largest fall, the first of several; None where blanking lowers nothing anywhere."""
        measured = [(fall, block) for fall, block in zip(self.falls, self.layout, strict=True) if fall is not None]
        fall, block = max(measured, key=lambda pair: pair[0], default=(0.0, None))
        return block if fall > 0 else None

    def against(self, boxes: Sequence[Box]) -> PlaceFigures | None:
        """The figures of a place, made of one or more boxes.

        None where they cannot be said: the map is not complete, or the place is nowhere in the picture or all of it.
        """
        areas = [self.layout.box(block) for block in self.layout]
        shares = [_covered(area, boxes) for area in areas]
        weights = [(area.area * share, area.area * (1 - share)) for area, share in zip(areas, shares, strict=True)]
        inside, outside = (sum(column) for column in zip(*weights, strict=True))
        if not self.complete or inside < 1e-9 or outside < 1e-9:
            return None
        falls = [fall or 0.0 for fall in self.falls]
        means = [
            sum(fall * pair[index] for fall, pair in zip(falls, weights, strict=True)) / total
            for index, total in enumerate((inside, outside))
        ]
        overlapping = [block for block, share in zip(self.layout, shares, strict=True) if share > 0]
        return PlaceFigures(
            means[0], means[1], means[0] - means[1], self.largest in overlapping, len(overlapping) / len(self.layout)
        )

    def to_json(self, truth: Sequence[Box] = ()) -> dict[str, Any]:
        """Plain values: the map, and its figures for the true boxes and for the boxes that the answer names."""
        return {
            "blank": self.blank,
            "grid": [self.layout.rows, self.layout.columns],
            "block": self.layout.block,
            "logprob": round(self.logprob, _DIGITS),
            "tokens": self.tokens,
            "falls": [None if fall is None else round(fall, _DIGITS) for fall in self.falls],
            "true_place": _rounded(self.against(truth)),
            "answered_place": _rounded(self.against(self.boxes)),
        }


def _rounded(figures: PlaceFigures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    return {name: round(value, _DIGITS) if type(value) is float else value for name, value in asdict(figures).items()}


def _covered(area: Box, boxes: Sequence[Box]) -> float:
    """The share of `area` that is covered by the boxes together."""
    cut = [Box(max(area.x0, box.x0), max(area.y0, box.y0), min(area.x1, box.x1), min(area.y1, box.y1)) for box in boxes]
    cut = [box for box in cut if box.x1 > box.x0 and box.y1 > box.y0]
    xs = sorted({x for box in cut for x in (box.x0, box.x1)})
    ys = sorted({y for box in cut for y in (box.y0, box.y1)})
    covered = sum(
        (right - left) * (bottom - top)
        for left, right in zip(xs, xs[1:], strict=False)
        for top, bottom in zip(ys, ys[1:], strict=False)
        if any(box.contains((left + right) / 2, (top + bottom) / 2) for box in cut)
    )
    return covered / area.area
