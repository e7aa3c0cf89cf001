"""Whether one answer is right, by its task's metric, for the page and the result card.

The same as Inspect's, but for a document's answer, which is right here only where it is exact: by ANLS, 621 is near
to 821.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlcompare.evaluate.metrics.objects import Words, objects_right
from vlcompare.evaluate.replies import read_reply
from vlcompare.evaluate.scoring import metric_of, score
from vlcompare.tasks.prompts import SPECS
from vlcompare.tasks.reading import MISSING
from vlcompare.types import Answer, Box, Request, Sample, Verdict

_NAMES = {"vqa": "VQA accuracy", "document_vqa": "ANLS", "grounded_captioning": "box F1"}


def verdict(
    request: Request,
    answer: Answer,
    *,
    truth: Sequence[Box] = (),
    references: Sequence[str] = (),
    objects: Sequence[Mapping[str, Any]] = (),
) -> Verdict | None:
    """The verdict on one answer.

    truth: the true boxes, of which the first counts for "grounding". references: as in a Sample. objects: of a rendered
    scene, by which its captions are judged. None where nothing can be said: no right answer is known, the side failed
    or was stopped, or it is a caption without objects, whose figures mean something over many pictures only.
    """
    if answer.error or answer.stop_reason in ("cancelled", "deadline"):
        return None
    if not _known(request, truth, references, objects):
        return None
    sample = Sample(
        "", None, request.task, request.text, request.choices, tuple(references),
        tuple(truth) if request.task == "grounding" else (), request.source, objects=tuple(map(dict, objects)),
    )  # fmt: skip
    given = {"boxes": answer.boxes} if request.task == "grounding" else {}  # others are in the text, with their phrases
    reply = read_reply(sample, {"text": answer.text, **given})
    spec = SPECS[request.task]
    if spec.structured and not reply.readable:
        return Verdict(False, MISSING[spec.reads])
    if request.task == "captioning":
        right = objects_right(reply.text, sample.objects, Words.of([sample.objects])) > 0
        return Verdict(right, "every object is there" if right else "an object is not there")
    scores = score(request.task, [sample], [reply], Words.of(()))
    if scores is None:
        return None
    value = float(scores.values[scores.main][0])
    right = value >= (1.0 if request.task == "document_vqa" else metric_of(request.task, scores.main).right_at)
    if request.task == "grounding":
        return Verdict(right, f"IoU {float(scores.values['mean_iou'][0]):.2f}")
    if request.task == "grounded_captioning" or request.task in _NAMES and 0.0 < value < 1.0:
        return Verdict(right, f"{_NAMES[request.task]} {value:.2f}")
    return Verdict(right, "as expected" if right else "not as expected")


def _known(
    request: Request, truth: Sequence[Box], references: Sequence[str], objects: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether what is right is known, in the form in which this task is judged."""
    if request.task == "grounding":
        return bool(truth)
    return bool(objects if request.task == "captioning" else references)
