"""One predicted box against the true one: IoU, the thresholds, and whether its centre is inside.

Knows nothing of text. Both boxes are clipped to 0..1; an inverted or empty box has the IoU 0 and no centre.
"""

from __future__ import annotations

from vlcompare.types import Box

THRESHOLDS = (0.5, 0.3, 0.7, 0.9)
# Two-decimal boxes reach a threshold exactly, and then floating point must not decide: 0.08 / 0.16 counts as 0.5.
SLACK = 1e-9


def box_iou(predicted: Box | None, truth: Box) -> float:
    return predicted.clip().iou(truth.clip()) if predicted is not None and is_area(predicted) else 0.0


def reaches(iou: float, threshold: float) -> bool:
    """IoU >= threshold. (The checkpoints' authors count IoU > threshold; the two differ on exact hits alone.)"""
    return iou >= threshold - SLACK


def center_inside(predicted: Box | None, truth: Box) -> bool:
    return predicted is not None and is_area(predicted) and truth.clip().contains(*predicted.clip().center)


def is_area(box: Box) -> bool:
    """Neither inverted nor empty, nor outside the picture."""
    return box.x1 > box.x0 and box.y1 > box.y0 and box.clip().area > 0


def match_phrases(
    predicted: list[tuple[str, Box]], truth: list[tuple[str, Box]], threshold: float = 0.5
) -> tuple[int, int, int]:
    """(matched, predicted, true) pairs of phrase and box: the same phrase at IoU >= threshold, each used once."""
    free = list(truth)
    matched = 0
    for phrase, box in predicted:
        fitting = [pair for pair in free if pair[0] == phrase and reaches(box_iou(box, pair[1]), threshold)]
        if fitting:
            free.remove(max(fitting, key=lambda pair: box_iou(box, pair[1])))
            matched += 1
    return matched, len(predicted), len(truth)
