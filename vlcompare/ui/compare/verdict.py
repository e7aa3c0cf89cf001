"""The verdict on one side of a run, as the evaluation judges it."""

from __future__ import annotations

from vlcompare.evaluate import verdicts
from vlcompare.evaluate.metrics.objects import Words
from vlcompare.tasks.verdict import Verdict
from vlcompare.ui.compare.session import Run
from vlcompare.ui.examples import load_examples


def verdict(run: Run, side: str) -> Verdict | None:
    """The verdict on this side's answer; None while there is none, where it was cut short, where nothing is known of
    the right one, and before a blind vote, which is the visitor's own judgement."""
    answer = run.answer(side)
    if answer is None or run.hidden:
        return None
    words = None
    if run.objects:  # the words for objects are those of all scenes that come with the project
        words = Words.of((run.objects, *(example.objects for example in load_examples())))
    return verdicts.verdict(
        run.request, answer, truth=run.truth, references=run.references, objects=run.objects, words=words
    )
