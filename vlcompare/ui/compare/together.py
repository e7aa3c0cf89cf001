"""Both sides' answers beside each other and against the truth, as markup. Pure functions of a run."""

from __future__ import annotations

from collections.abc import Sequence

from vlcompare.render.markup import Safe, el
from vlcompare.tasks.boxes import find_boxes, rounding_ceiling
from vlcompare.tasks.prompts import SPECS
from vlcompare.ui.compare.cards import result_text, side_name
from vlcompare.ui.compare.picture import overlap_rows, overlay, size_line
from vlcompare.ui.compare.session import Run


def has_boxes(run: Run) -> bool:
    """Whether this task has boxes to show, in its question or in its answers: known before the answers are."""
    spec = SPECS[run.request.task]
    return (
        spec.reads in ("boxes", "phrases")
        or spec.box
        or spec.choices == "boxes"
        or any(answer is not None and answer.boxes for answer in map(run.answer, run.sides))
    )


def no_boxes(run: Run, side: str) -> Safe:
    """In place of a side's picture, where the task has no boxes."""
    return el("p", size_line(run.picture, run.answer(side)).rpartition(" · boxes")[0], class_="vl-note")


def together(run: Run) -> Safe:
    """Both sides and the truth on one picture, and what they overlap; empty where no box is involved."""
    answers = {side: run.answer(side) for side in run.sides}
    facts = [_expected(run)]
    if run.truth:
        facts.append(_overlap_table(run))
    if len(answers) == 2 and all(answer and answer.boxes for answer in answers.values()):
        first, second = (answer.boxes[0] for answer in answers.values() if answer)
        facts.append(
            el("p", f"The two sides' first boxes overlap with an IoU of {first.iou(second):.2f}.", class_="vl-note")
        )
    if has_boxes(run):
        if not run.truth:
            facts.append(el("p", "No ground truth is known for this question.", class_="vl-empty"))
        return el("div", overlay(run), el("div", *facts, class_="vl-facts"), class_="vl-together")
    return el("div", *facts, _answers(run), class_="vl-facts")


def _answers(run: Run) -> Safe:
    """Both texts below each other, for tasks without boxes."""
    rows = []
    for side in run.sides:
        answer = run.answer(side)
        mark = None
        if answer is not None and run.references and not answer.error:
            same = answer.text.strip(" .").lower() in {reference.strip(" .").lower() for reference in run.references}
            mark = "as expected" if same else "not word for word as expected"
        rows.append(
            el(
                "tr",
                _row_head(run, side),
                el("td", result_text(answer)),
                el("td", mark, class_="vl-muted") if mark else None,
            )
        )
    return el("table", el("tbody", *rows), class_="vl-table vl-words")


def _row_head(run: Run, side: str) -> Safe:
    return el("th", el("i", class_="vl-key", data_side=side), side_name(run, side)[0], scope="row")


def _expected(run: Run) -> Safe | None:
    if not run.references:
        return None
    # phrases are expected with their boxes, which are on the picture and in the table
    shown = " / ".join(dict.fromkeys(_without_boxes(reference) for reference in run.references))
    return el("p", el("span", "Expected: ", class_="vl-muted"), el("b", shown[:400]), class_="vl-expected")


def _without_boxes(text: str) -> str:
    for found in reversed(find_boxes(text)):
        text = text[: found.start].rstrip() + text[found.stop :]
    return text.replace("||", "") or "a box"


def _overlap_table(run: Run) -> Safe:
    rows = []
    several = len(run.truth) > 1
    for side, iou, found in overlap_rows(run):
        name = _row_head(run, side)
        if iou is None:
            answer = run.answer(side)
            reason = "failed" if answer and answer.error else "no box" if answer else "…"
            rows.append(el("tr", name, el("td", "–"), el("td", reason, class_="vl-muted")))
            continue
        bar = el(
            "span",
            el("span", class_="vl-iou-fill", style=f"width:{100 * iou:.1f}%"),
            el("span", class_="vl-iou-line", title="0.5"),
            class_="vl-iou",
            data_side=side,
        )
        result = f"{found} of {len(run.truth)} found" if several else "right at 0.5" if found else "below 0.5"
        rows.append(el("tr", name, el("td", f"{iou:.2f}"), el("td", bar, result)))
    ceilings = [rounding_ceiling(box) for box in run.truth]
    ceiling = sum(ceilings) / len(ceilings) if ceilings else 0.0
    note = f"The line is IoU 0.5. Two decimals alone allow at most {ceiling:.2f} here."
    head = el("tr", el("th", "Side"), el("th", "Mean IoU" if several else "IoU"), el("th", ""))
    table = el("table", el("thead", head), el("tbody", *rows), class_="vl-table")
    return el("div", table, el("p", note, class_="vl-note"))


def three_view(runs: Sequence[Run], shown: str = "") -> Safe:
    """One picture, three questions: each side's answers; a question is a button that shows its run."""
    if not runs:
        return el("div")
    head = [el("th", side_name(runs[0], side)[0], scope="col", data_side=side) for side in runs[0].sides]
    rows = []
    for run in runs:
        cells = []
        for side in run.sides:
            answer = run.answer(side)
            mark = " (unparseable)" if answer and answer.parse == "unparseable" else ""
            cells.append(el("td", result_text(answer), mark))
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
