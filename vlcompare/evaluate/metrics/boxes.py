"""Predicted boxes against true ones: IoU, the thresholds, and whether the centre is inside.

Both boxes are clipped to 0..1; an inverted or empty box has the IoU 0 and no centre. Whole columns are computed at
once, so that a set of fifty thousand rows takes milliseconds. `match_phrases` matches grounded captions' phrases, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlcompare.types import Box

THRESHOLDS = (0.5, 0.3, 0.7, 0.9)
# Two-decimal boxes reach a threshold exactly, and then floating point must not decide: 0.08 / 0.16 counts as 0.5.
SLACK = 1e-9
MAX_PAIRS = 100  # of a caption that are matched: the time grows with their square

Floats = NDArray[np.float64]


def as_columns(boxes: Sequence[Box | None]) -> Floats:
    """(n, 4), nan where there is no box."""
    missing = (np.nan,) * 4
    return np.array([missing if box is None else box for box in boxes], dtype=np.float64).reshape(len(boxes), 4)


def ious(predicted: Floats, truth: Floats) -> Floats:
    """IoU of each row; 0 where there is no box, or it is inverted, empty, or outside the picture."""
    a, b = np.clip(predicted, 0, 1), np.clip(truth, 0, 1)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    union = _areas(a) + _areas(b) - shared
    usable = has_area(predicted) & has_area(truth)
    return np.where(usable, shared / np.where(usable, union, 1.0), 0.0)


def centers_inside(predicted: Floats, truth: Floats) -> NDArray[np.bool_]:
    """Whether the centre of each predicted box lies inside the true one."""
    a, b = np.clip(predicted, 0, 1), np.clip(truth, 0, 1)
    x, y = (a[:, 0] + a[:, 2]) / 2, (a[:, 1] + a[:, 3]) / 2
    return has_area(predicted) & (x >= b[:, 0]) & (x <= b[:, 2]) & (y >= b[:, 1]) & (y <= b[:, 3])


def has_area(boxes: Floats) -> NDArray[np.bool_]:
    """Neither inverted nor empty, nor outside the picture; False where there is no box."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]) & (_areas(np.clip(boxes, 0, 1)) > 0)


def _areas(boxes: Floats) -> Floats:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def reaches(iou: Floats, threshold: float) -> NDArray[np.bool_]:
    """IoU >= threshold. (The checkpoints' authors count IoU > threshold; the two differ on exact hits alone.)"""
    return iou >= threshold - SLACK


def match_phrases(
    predicted: list[tuple[str, Box]], truth: list[tuple[str, Box]], threshold: float = 0.5
) -> tuple[int, int, int]:
    """(matched, predicted, true) pairs of phrase and box: the same phrase at IoU >= threshold, each used once.

    A maximum matching, independent of the order in which they are named; pairs after the first MAX_PAIRS of a
    caption are counted, but not matched.
    """
    others = [(name, box.clip()) for name, box in truth[:MAX_PAIRS]]
    fitting = []
    for phrase, box in predicted[:MAX_PAIRS]:
        ours = box.clip()
        near = (name == phrase and ours.iou(other) >= threshold - SLACK for name, other in others)
        fitting.append([index for index, fits in enumerate(near) if fits])
    return most_pairs(fitting), len(predicted), len(truth)


def most_pairs(fitting: Sequence[Sequence[int]]) -> int:
    """Size of a maximum bipartite matching, by augmenting paths; `fitting[i]` are the partners that fit i.

    Iterative: a path may lead through thousands of pairs.
    """
    owner: dict[int, int] = {}  # partner -> the one matched with it
    partner_of: dict[int, int] = {}
    for start in range(len(fitting)):
        reached_from: dict[int, int] = {}  # partner -> the one before it on the shortest path from `start`
        queue: list[int] = [start]
        free: int | None = None
        for one in queue:
            for partner in fitting[one]:
                if partner in reached_from:
                    continue
                reached_from[partner] = one
                if partner not in owner:
                    free = partner
                    break
                queue.append(owner[partner])
            if free is not None:
                break
        while free is not None:  # each on the path moves on to the partner it was reached through
            one, taken = reached_from[free], free
            free = partner_of.get(one)
            owner[taken], partner_of[one] = one, taken
    return len(partner_of)
