"""Both sides' answers beside each other and against the truth, as markup. Pure functions of a run."""

from __future__ import annotations

from collections.abc import Sequence

from vlcompare.render.markup import Safe, el, join
from vlcompare.render.terms import term
from vlcompare.tasks.boxes import find_boxes, rounding_ceiling
from vlcompare.tasks.prompts import SPECS
from vlcompare.ui.compare.cards import result_text, side_name, verdict_mark
from vlcompare.ui.compare.picture import overlay
from vlcompare.ui.compare.session import Run
from vlcompare.units import decimal


def has_boxes(run: Run) -> bool:
    """Whether this task has boxes to show, in its question or in its answers: known before the answers are."""
    spec = SPECS[run.request.task]
    return (
        spec.reads in ("boxes", "phrases")
        or spec.box
        or spec.choices == "boxes"
        or any(answer is not None and answer.boxes for answer in map(run.answer, run.sides))
    )


def together(run: Run) -> Safe:
    """Both sides and the truth on one picture, and what is to be said of it; without boxes only what was expected.
    Before a blind vote neither the truth nor what was expected is shown."""
    expected = None if run.hidden else _expected(run)
    if not has_boxes(run):
        return el("div", expected)
    title = "Both, and the truth" if run.truth and not run.hidden else "Both"
    return el(
        "figure",
        el("figcaption", title),
        overlay(run),
        expected,
        el("p", join(_notes(run), " "), class_="vl-note"),
        class_="vl-figure",
    )


def _notes(run: Run) -> list[Safe | str]:
    """Short sentences on the boxes: from where on they count, and how far the two sides agree."""
    notes: list[Safe | str] = []
    if run.hidden:
        notes += ["The truth: after your vote."] if run.truth else []
    elif run.truth and SPECS[run.request.task].reads in ("boxes", "phrases"):  # not where one of given boxes is chosen
        ceilings = [rounding_ceiling(box) for box in run.truth]
        ceiling = sum(ceilings) / len(ceilings)
        limit = f" 0.5 or more is right. A box written with two decimals reaches {decimal(ceiling)} at most here."
        notes.append(join([term("iou", "IoU"), limit]))
    elif SPECS[run.request.task].reads in ("boxes", "phrases"):
        notes.append("No ground truth is known for this question.")
    firsts = [answer.boxes[0] for answer in map(run.answer, run.sides) if answer and answer.boxes]
    if len(firsts) == 2 and SPECS[run.request.task].reads != "letter":  # of given boxes two are the same, or are not
        which = "boxes" if all(len(run.answer(side).boxes) == 1 for side in run.sides) else "first boxes"  # type: ignore[union-attr]
        notes.append(f"The two sides' {which} overlap with IoU {decimal(firsts[0].iou(firsts[1]))}.")
    return notes


def _expected(run: Run) -> Safe | None:
    """The right answer, where it is more than the word that the verdict names."""
    if not run.references or SPECS[run.request.task].reads not in ("text", "phrases"):
        return None
    # phrases are expected with their boxes, which are on the picture
    shown = " / ".join(dict.fromkeys(_without_boxes(reference) for reference in run.references))
    return el("p", el("span", "Expected: ", class_="vl-muted"), el("span", shown[:400]), class_="vl-expected")


def _without_boxes(text: str) -> str:
    for found in reversed(find_boxes(text)):
        text = text[: found.start].rstrip() + text[found.stop :]
    return text.replace("||", "") or "a box"


def three_view(runs: Sequence[Run], shown: str = "") -> Safe:
    """One picture, three questions: each side's answers; a question is a button that shows its run."""
    if not runs:
        return el("div")
    first = next((run for run in runs if run.id == shown), runs[0])
    head = [el("th", side_name(first, side)[0], scope="col", data_side=side) for side in first.sides]
    rows = []
    for run in runs:
        cells = []
        exchanged = run.settings != first.settings and [*run.settings.values()] == [*first.settings.values()][::-1]
        for side in reversed(run.sides) if exchanged else run.sides:  # one column a model
            answer = run.answer(side)
            cells.append(el("td", result_text(answer), " ", verdict_mark(run, side)))
        asked = el(
            "button",
            el("b", SPECS[run.request.task].title),
            el("span", run.request.text) if run.request.text else None,
            type="button",
            class_="vl-asked-one",
            data_pick=run.id,
            aria_pressed="true" if run.id == shown else "false",
        )
        rows.append(el("tr", el("th", asked, scope="row"), *cells))
    table = el(
        "table", el("thead", el("tr", el("th", "Question"), *head)), el("tbody", *rows), class_="vl-table vl-words"
    )
    heading = el("h2", "One picture, three questions", class_="vl-section")
    return el("div", heading, el("div", table, class_="vl-scroll"), class_="vl-three")
