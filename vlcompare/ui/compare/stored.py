"""Answers that an evaluation stored, shown on the compare tab: where they are from, and whether asking again agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vlcompare.render.markup import Safe, el, shorten
from vlcompare.types import SIDES
from vlcompare.ui.compare.forms import question_of

if TYPE_CHECKING:
    from vlcompare.ui.compare.session import Run

TO_SAMPLE = "sample"  # what the button that leads back sends
SHORT = 60  # characters of a stored answer


@dataclass(frozen=True, slots=True)
class Stored:
    """The sample that a question is from, and what an evaluation stored of both sides."""

    evaluation: str  # its name
    sample: str  # its id
    answers: Mapping[str, tuple[str, str, str]]  # side -> its checkpoint, its quantization, and what it answered

    def fits(self, run: Run) -> bool:
        """Whether the answers are of the run's models, side by side."""
        return all(
            (part.settings.checkpoint, part.settings.quantization) == self.answers.get(side, ("", "", ""))[:2]
            for side, part in run.sides.items()
        )

    def swapped(self) -> Stored:
        """The same with the sides exchanged."""
        return replace(
            self, answers={side: self.answers[other] for side, other in zip(SIDES, reversed(SIDES), strict=True)}
        )


def stored_of(run: Run, evaluation: str, sample: str) -> Stored:
    """What is stored of a run's answers."""
    answers = {}
    for side, part in run.sides.items():
        text = part.answer.text if part.answer else ""
        answers[side] = (part.settings.checkpoint, part.settings.quantization, text)
    return Stored(evaluation, sample, answers)


def continued(before: Run | None, run: Run) -> Stored | None:
    """What is stored about a new run: the same as about the one that was shown, if it asks the same of the picture."""
    if before is None or before.stored is None:
        return None
    if question_of(before.request) != question_of(run.request) or not before.picture.hashes & run.picture.hashes:
        return None
    swapped = before.stored.swapped()  # a blind run's sides are shuffled
    return swapped if swapped.fits(run) and not before.stored.fits(run) else before.stored


def stored_line(run: Run) -> Safe | None:
    """Where the answers or their question are from, whether both agree, and the way back to the sample."""
    if run.stored is None:
        return None
    where = f"{run.stored.sample} of {run.stored.evaluation}"
    if run.recorded:
        said = f"Stored answers to {where}. Compare asks again."
    elif not run.done or run.hidden:
        said = f"Asking {where} again."
    else:
        said = " ".join([f"{where}, asked again:", *[f"{side} {_agreement(run, side)}." for side in run.sides]])
    back = el("button", "Back to the sample", type="button", data_pick=TO_SAMPLE, class_="vl-way-back")
    return el("p", el("span", said), " ", back, class_="vl-stored")


def _agreement(run: Run, side: str) -> str:
    """How a side's answer compares with what is stored of it."""
    assert run.stored is not None
    part, answer = run.sides[side], run.answer(side)
    checkpoint, quantization, text = run.stored.answers.get(side, ("", "", ""))
    if (checkpoint, quantization) != (part.settings.checkpoint, part.settings.quantization):
        return "is another model than the stored one"
    if answer is None or answer.error:
        return "failed"
    if answer.text.strip() == text.strip():
        return "agrees with what is stored"
    return f"differs from what is stored (“{shorten(text, SHORT)}”)"
