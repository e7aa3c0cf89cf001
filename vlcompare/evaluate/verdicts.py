"""What one answer is worth where the right one is known: a mark and a few words, for the page and the result card.

Right is what the evaluation counts as right: its metrics and thresholds are used, on one row.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from vlcompare.errors import RequestError
from vlcompare.evaluate.metrics.answers import fold
from vlcompare.evaluate.metrics.boxes import THRESHOLDS
from vlcompare.evaluate.metrics.objects import Words, objects_right
from vlcompare.evaluate.replies import read_reply
from vlcompare.evaluate.scoring import metric_of, score
from vlcompare.render.markup import shorten
from vlcompare.tasks.prompts import SPECS, read_box
from vlcompare.tasks.reading import MISSING
from vlcompare.tasks.verdict import Verdict
from vlcompare.types import CUT_SHORT, Answer, Box, Request, Sample

_FOUND = THRESHOLDS[0]  # the IoU from which on a box is found


def read_truth(request: Request, truth: Any) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    """The true boxes, and the expected answers, of a right answer as a person gives it.

    truth: a box or several, (x0, y0, x1, y1) or "x0,y0,x1,y1", where the task is answered with boxes; else a text or
    several. None: it is not known. Raises RequestError where it is neither.
    """
    if truth is None:
        return (), ()
    boxed = SPECS[request.task].reads in ("boxes", "phrases")
    several = list(truth) if isinstance(truth, (list, tuple)) else [truth]
    if boxed and len(several) == 4 and not any(isinstance(value, (str, list, tuple)) for value in several):
        several = [tuple(several)]
    if boxed:
        return tuple(read_box(box, "true box") for box in several), ()
    if not several or not all(isinstance(reference, str) for reference in several):
        raise RequestError(f"The truth of {request.task} is a text, or a list of texts.")
    references = tuple(several)
    index = string.ascii_uppercase.find(references[0].strip().upper()[:1] or "?")
    if request.task == "pointing" and 0 <= index < len(request.choices or ()):
        return (Box(*(request.choices or ())[index]),), references
    return (), references


def verdict(
    request: Request,
    answer: Answer,
    *,
    truth: Sequence[Box] = (),
    references: Sequence[str] = (),
    objects: Sequence[Mapping[str, Any]] = (),
    words: Words | None = None,
) -> Verdict | None:
    """The verdict on one answer.

    truth: the true boxes. references: as in a Sample. objects: of a rendered scene, by which its captions are judged;
    words: for such objects (default: these objects' own). None where nothing can be said: the side failed or was cut
    short, no right answer is known of what could be read, or it is a caption without objects, whose metrics mean
    something over many pictures.
    """
    if answer.error or answer.stop_reason in CUT_SHORT:
        return None
    judged = _judged(request, answer, truth, references, objects, words)
    return judged or (Verdict("bad", "unparseable") if answer.parse == "unparseable" else None)


def _judged(
    request: Request,
    answer: Answer,
    truth: Sequence[Box],
    references: Sequence[str],
    objects: Sequence[Mapping[str, Any]],
    words: Words | None,
) -> Verdict | None:
    """The verdict on a whole answer beside the right one; None where that is not known."""
    if request.task in ("grounding", "grounded_captioning") and truth:
        return _of_boxes(answer, truth)
    if request.task == "captioning":
        return _of_caption(answer, objects, words) if objects else None
    return _of_text(request, answer, references) if references else None


def overlap(answer: Answer, truth: Sequence[Box]) -> tuple[float, int] | None:
    """The IoU with the truth, and how many true boxes are found; None where the answer holds no box.

    With one true box the answer's first box counts. With several, each takes the answer's best, and the IoU is their
    mean.
    """
    if not answer.boxes or not truth:
        return None
    counted = answer.boxes[:1] if len(truth) == 1 else answer.boxes
    best = [max(box.iou(true) for box in counted) for true in truth]
    return sum(best) / len(best), sum(iou >= _FOUND for iou in best)


def _of_boxes(answer: Answer, truth: Sequence[Box]) -> Verdict:
    overlapping = overlap(answer, truth)
    if overlapping is None:
        return Verdict("bad", "no box")
    iou, found = overlapping
    if len(truth) == 1:
        return Verdict("good" if found else "bad", f"IoU {iou:.2f}")
    return Verdict("good" if found == len(truth) else "part" if found else "bad", f"{found} of {len(truth)} boxes")


def _of_caption(answer: Answer, objects: Sequence[Mapping[str, Any]], words: Words | None) -> Verdict:
    if objects_right(answer.text, objects, words or Words.of([objects])):
        return Verdict("good", "all it names is there")
    return Verdict("bad", "names what is not there")


def _of_text(request: Request, answer: Answer, references: Sequence[str]) -> Verdict | None:
    sample = Sample("", None, request.task, request.text, request.choices, tuple(references), source=request.source)
    reply = read_reply(sample, {"text": answer.text})
    expected = f"expected {shorten(references[0], 32)}"
    spec = SPECS[request.task]
    if spec.structured and not reply.readable:
        return Verdict("bad", f"{MISSING[spec.reads]}; {expected}")
    scores = score(request.task, [sample], [reply], Words.of(()))
    if scores is None:
        return None
    if fold(reply.text) in map(fold, references):
        return Verdict("good", "as expected")
    right = float(scores.values[scores.main][0]) >= metric_of(request.task, scores.main).right_at
    return Verdict("part", f"nearly: {expected}") if right else Verdict("bad", expected)
