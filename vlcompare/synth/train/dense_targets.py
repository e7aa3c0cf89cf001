"""Dense supervision of the scene encoder: what every patch of a rendered picture has to know, as targets and losses.

A patch belongs to the thing (or the line of a document) that covers most of it, and always to the one whose centre it
holds. Patches with an owner must tell its kind, colour, size, box and text; all patches tell whether they are empty,
covered, or a centre. The heads are linear and thrown away after training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlcompare.synth.scenes import documents, shapes
from vlcompare.synth.scenes.documents import Document
from vlcompare.synth.scenes.scene import SIGN_WORDS, SceneObject
from vlcompare.types import Box

IGNORE = -100
MAX_OWNERS = 8  # owners per picture, at most
BLANK = 10  # a digit place that is empty

KINDS: tuple[str, ...] = (*shapes.KINDS, shapes.SIGN, *documents.DOCUMENTS)
COLORS: tuple[str, ...] = tuple(shapes.COLORS)
SIZES: tuple[str, ...] = tuple(shapes.SIZES)
KEYS: tuple[str, ...] = tuple(dict.fromkeys(key for keys in documents.KEYS.values() for key in keys))
WORDS: tuple[str, ...] = (*SIGN_WORDS, "#")  # "#": the sign holds a number

# head -> number of classes; digits are right-aligned places of a number
CLASSES: dict[str, int] = {
    "kind": len(KINDS),
    "color": len(COLORS),
    "size": len(SIZES),
    "word": len(WORDS),
    "key": len(KEYS),
    "hundreds": 11,
    "tens": 11,
    "ones": 11,
}
COLUMNS = tuple(CLASSES)
STATES = 3  # of a patch: empty, covered, centre
SLOTS = 3  # thirds of a patch, each wide enough for the centre of one digit of a document
# how far left of a line's end its number ends, as a share of the picture
_INSET = {"receipt": 0.0, "form": 0.03, "table": 0.01, "chart": 0.0}


@dataclass(frozen=True)
class PatchTruth:
    """One picture's targets: `owner` (P,) index of the owner or -1, `centre` (P,), attributes and boxes of owners."""

    owner: np.ndarray  # int8
    centre: np.ndarray  # bool
    attributes: np.ndarray  # int16 (MAX_OWNERS, len(COLUMNS)), IGNORE where it does not apply
    boxes: np.ndarray  # float32 (MAX_OWNERS, 4)


def _digits(number: int) -> tuple[int, int, int]:
    text = str(number).rjust(3)
    hundreds, tens, ones = (BLANK if mark == " " else int(mark) for mark in text[-3:])
    return hundreds, tens, ones


def _object_row(thing: SceneObject) -> list[int]:
    row = [KINDS.index(thing.kind), COLORS.index(thing.color), SIZES.index(thing.size)]
    if not thing.text:
        return row + [IGNORE] * 5
    if thing.text.isdigit():
        return [*row, WORDS.index("#"), IGNORE, *_digits(int(thing.text))]
    return [*row, WORDS.index(thing.text), *[IGNORE] * 4]


def _line_row(document: Document, index: int) -> list[int]:
    line = document.lines[index]
    color = COLORS.index(document.accent)
    return [KINDS.index(document.kind), color, IGNORE, IGNORE, KEYS.index(line.key), *_digits(line.value)]


def _shares(box: Box, grid: int) -> np.ndarray:
    """How much of each patch the box covers, 0..1: (grid, grid), rows first."""
    edges = np.arange(grid + 1) / grid
    across = np.clip(np.minimum(box.x1, edges[1:]) - np.maximum(box.x0, edges[:-1]), 0, None)
    down = np.clip(np.minimum(box.y1, edges[1:]) - np.maximum(box.y0, edges[:-1]), 0, None)
    return np.outer(down, across) * grid * grid


def patch_truth(
    objects: tuple[SceneObject, ...], document: Document | None, grid: int, least: float = 0.25
) -> PatchTruth:
    """Targets of one laid-out scene for a grid of patches. A patch covered less than `least` has no owner."""
    boxes = [line.box for line in document.lines] if document else [thing.box for thing in objects]
    rows = (
        [_line_row(document, index) for index in range(len(boxes))] if document else [_object_row(o) for o in objects]
    )
    attributes = np.full((MAX_OWNERS, len(COLUMNS)), IGNORE, np.int16)
    corners = np.zeros((MAX_OWNERS, 4), np.float32)
    attributes[: len(rows)], corners[: len(rows)] = rows, boxes
    shares = np.stack([_shares(box, grid) for box in boxes])  # (owners, grid, grid)
    owner = np.where(shares.max(0) >= least, shares.argmax(0), -1).astype(np.int8)
    centre = np.zeros((grid, grid), bool)
    for index, box in enumerate(boxes):
        x, y = box.center
        cell = min(grid - 1, int(y * grid)), min(grid - 1, int(x * grid))
        owner[cell], centre[cell] = index, True
    return PatchTruth(owner.reshape(-1), centre.reshape(-1), attributes, corners)


@cache
def _digit_width() -> float:
    """Advance of a digit in the built-in font, in units of the font's height."""
    return shapes.font(100).getlength("0") / 100


def glyph_truth(document: Document | None, grid: int) -> np.ndarray:
    """Which digit has its centre in each third of each patch: int8 (P, SLOTS), BLANK for none.

    Reading begins with glyphs: without this local target the places of numbers are learnt much later.
    IGNORE where the picture is not a document.
    """
    if document is None:
        return np.full((grid * grid, SLOTS), IGNORE, np.int8)
    slots = np.full((grid, grid * SLOTS), BLANK, np.int8)
    width = _digit_width() * document.letter
    for line in document.lines:
        end = line.box.x1 - _INSET[document.kind]
        row = min(grid - 1, int(line.box.center[1] * grid))
        for place, digit in enumerate(reversed(str(line.value))):
            x = end - (place + 0.5) * width
            slots[row, min(grid * SLOTS - 1, int(x * grid * SLOTS))] = int(digit)
    return slots.reshape(grid * grid, SLOTS)


class BatchTruth(NamedTuple):
    """The targets of a batch's pictures: `PatchTruth` with the picture as the first axis, and `glyph_truth`."""

    owner: Tensor
    centre: Tensor
    attributes: Tensor
    boxes: Tensor
    glyphs: Tensor


class DenseHeads(nn.Module):
    """Linear read-outs of (B, P, C): patch state, box, one class per column, and the glyphs of documents."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [STATES, 4, *CLASSES.values()]
        self.read = nn.Linear(width, sum(self.sizes))
        self.glyphs = nn.Linear(width, SLOTS * (BLANK + 1))

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        state, box, *classes = self.read(patches).split(self.sizes, dim=-1)
        return state, box, dict(zip(COLUMNS, classes, strict=True))


def dense_loss(heads: DenseHeads, patches: Tensor, truth: BatchTruth) -> tuple[Tensor, dict[str, float]]:
    """The sum of all patch losses of a batch, and its parts for the log."""
    owner, centre, attributes, boxes, glyphs = truth
    batch, count, _ = patches.shape
    state, box, classes = heads(patches)
    owned = owner >= 0
    target_state = owned.long() + (owned & centre).long()
    losses = {"state": F.cross_entropy(state.flatten(0, 1), target_state.flatten())}
    picture = torch.arange(batch, device=owner.device)[:, None].expand(batch, count)[owned]
    index = owner[owned].long()
    losses["box"] = 20 * F.smooth_l1_loss(box[owned], boxes[picture, index], beta=0.05)
    if (glyphs != IGNORE).any():
        scores = heads.glyphs(patches).unflatten(-1, (SLOTS, BLANK + 1)).flatten(0, 2)
        rarity = torch.ones(BLANK + 1, device=patches.device)
        rarity[BLANK] = 0.1  # most thirds hold no digit
        losses["glyph"] = F.cross_entropy(scores, glyphs.flatten().long(), rarity, ignore_index=IGNORE)
    classes_there = attributes[picture, index].long()  # (owned patches, columns)
    for column, name in enumerate(COLUMNS):
        target = classes_there[:, column]
        if (target != IGNORE).any():
            losses[name] = F.cross_entropy(classes[name][owned], target, ignore_index=IGNORE)
    total = torch.stack(list(losses.values())).sum()
    return total, {name: float(loss.detach()) for name, loss in losses.items()}


@torch.no_grad()
def dense_scores(heads: DenseHeads, patches: Tensor, truth: BatchTruth) -> dict[str, float]:
    """At centre patches: share right per column, box IoU above 0.5, everything right."""
    owner, centre, attributes, boxes, glyphs = truth
    state, box, classes = heads(patches)
    target_state = (owner >= 0).long() + centre.long()
    scores = {"state": _share(state.argmax(-1) == target_state)}
    picture = torch.arange(len(owner), device=owner.device)[:, None].expand_as(owner)[centre]
    index = owner[centre].long()
    targets, real = attributes[picture, index].long(), boxes[picture, index]
    right = torch.ones(len(index), dtype=torch.bool, device=owner.device)
    for column, name in enumerate(COLUMNS):
        applies = targets[:, column] != IGNORE
        hit = classes[name][centre].argmax(-1) == targets[:, column]
        scores[name] = _share(hit[applies])
        right &= hit | ~applies
    read = heads.glyphs(patches).unflatten(-1, (SLOTS, BLANK + 1)).argmax(-1)
    scores["glyph"] = _share((read == glyphs)[(glyphs != IGNORE) & (glyphs != BLANK)])
    near = _ious(box[centre], real) > 0.5
    things = targets[:, COLUMNS.index("size")] != IGNORE
    scores["box"] = near[things].float().mean().item()
    scores["thing"] = (right & near)[things].float().mean().item()
    if not things.all():
        scores["line"] = _share(right[~things])
    return scores


def _share(right: Tensor) -> float:
    """The share that is right; 0 of none."""
    return right.float().mean().item() if right.numel() else 0.0


def _ious(first: Tensor, second: Tensor) -> Tensor:
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (first[:, 2:] - first[:, :2]).clamp(min=0).prod(-1) + (second[:, 2:] - second[:, :2]).prod(-1)
    return shared / (area - shared).clamp(min=1e-6)
