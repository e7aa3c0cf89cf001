"""One sample on the inspect page: the picture with the truth and both boxes, both answers with tokens, prompt, timings.

The sample and its answers become a run of the compare tab, so everything that is drawn there is drawn here by the same
functions, and the same run can be asked again. Knows nothing of gradio or of run folders.
"""

from __future__ import annotations

import io
from typing import Any

from vlcompare.errors import VLCompareError
from vlcompare.evaluate.replies import request_of
from vlcompare.evaluate.results.aspects import target_box
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.render.markup import Safe, el
from vlcompare.tasks.boxes import rounding_ceiling
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import PROMPT_ORDERS, QUANTIZATIONS, Answer, Sample, Side
from vlcompare.ui.compare import cards
from vlcompare.ui.compare import display_limits as shown
from vlcompare.ui.compare.figures import figures_table
from vlcompare.ui.compare.picture import overlay, size_line
from vlcompare.ui.compare.session import Picture, Run, SideRun
from vlcompare.ui.compare.tokens import prompt_view, tokens_view
from vlcompare.ui.inspect.selection import Opened
from vlcompare.ui.inspect.session import recorded_of
from vlcompare.ui.inspect.views import Cell, Line, Names


def as_run(opened: Opened, row: int, picture: Picture) -> Run:
    """The sample as a run of the compare tab, with the answers that stand in the run folder."""
    sample = opened.run.samples[row]
    sides = {}
    for role, side in opened.roles.items():
        answer, damage = opened.run.answer_and_problem(side, row)
        if answer is not None:
            settings, said = _side(opened, role, answer), (damage,) if damage else ()
            sides[role] = SideRun(settings, status="", prompt=answer.prompt, answer=answer, notices=said)
    box = target_box(sample) if sample.task in ("grounding", "pointing") else None
    truth = sample.boxes if sample.task == "grounded_captioning" else (box,) if box else ()
    return Run(request=request_of(sample), picture=picture, sides=sides, truth=truth, references=sample.references)


def _side(opened: Opened, role: str, answer: Answer) -> Side:
    """A side's settings as the compare tab takes them; what is not recorded is left to the defaults."""
    known, asked = recorded_of(opened.run, opened.roles[role])
    quantization = known.get("quantization", answer.quantization)
    order = asked.get("prompt_order", known.get("prompt_order"))
    numbers = ("max_new_tokens", "temperature", "top_p", "top_k", "seed")
    return Side(
        checkpoint=str(asked.get("checkpoint") or known.get("checkpoint") or answer.checkpoint),
        quantization=quantization if quantization in QUANTIZATIONS else "none",
        prompt_order=order if order in PROMPT_ORDERS else None,
        image_size=asked.get("image_size"),
        **{name: asked.get(name, known.get(name)) for name in numbers},
    )


def picture_for(run: RunFolder, row: int) -> tuple[Picture, str | None]:
    """(the sample's picture, why it is not shown): a grey one stands in, so that boxes can still be seen."""
    from vlcompare.runtime.image import open_image

    try:
        found = run.picture(row)
        data = found if isinstance(found, bytes) else found.read_bytes()
        return Picture.of(open_image(data), data), None
    except VLCompareError as error:
        return _grey(), f"The picture is not shown. {error}"
    except OSError:
        return _grey(), "The picture is not shown: its file cannot be read."


def _grey() -> Picture:
    from PIL import Image

    buffer = io.BytesIO()
    empty = Image.new("RGB", (320, 240), (150, 150, 150))
    empty.save(buffer, "PNG")
    return Picture.of(empty, buffer.getvalue())


def view(run: Run, sample: Sample, line: Line, names: Names, place: str, missing: str | None) -> Safe:
    """The whole sample. place: where it stands in the selection; missing: why its picture is not shown."""
    sides = [_answer(run, side, line.cells.get(side) or Cell(state="missing"), names) for side in names.sides]
    return el(
        "article",
        el("p", place, class_="vl-note vi-place", role="status"),
        _question(sample),
        el("p", missing, class_="vl-warn") if missing else None,
        el("figure", overlay(run), el("figcaption", _caption(run, sample)), class_="vl-figure"),
        el("div", *sides, class_="vi-answers"),
        _tags(sample),
        el(
            "details",
            el("summary", "The exact prompts"),
            prompt_view(run),
            class_="vi-fold",
            data_fold="prompts",
        ),
        el("details", el("summary", "Times and memory"), _times(run), class_="vi-fold", data_fold="times"),
        class_="vi-sample",
        data_row=str(line.row),
    )


def _caption(run: Run, sample: Sample) -> str:
    answers = [run.answer(side) for side in run.sides]
    said = size_line(run.picture, next((answer for answer in answers if answer and answer.image_size), None))
    if sample.task == "grounding" and sample.boxes:
        said += f" · two decimals allow an IoU of {rounding_ceiling(sample.boxes[0]):.3f} at best"
    return said


def _question(sample: Sample) -> Safe:
    facts = [sample.id, sample.task.replace("_", " "), sample.source, sample.split]
    choices = None
    if sample.choices and sample.task != "pointing":
        lines = [
            el("li", el("b", chr(65 + index)), " ", shown.cut(str(choice), 1000))
            for index, choice in enumerate(sample.choices)
        ]
        choices = el("ol", *lines, class_="vi-choices")
    right = " / ".join(dict.fromkeys(sample.references))
    return el(
        "header",
        el("p", " · ".join(str(fact) for fact in facts if fact), class_="vi-facts"),
        el("h3", shown.cut(sample.text, 4000) or SPECS[sample.task].title, class_="vi-text"),
        choices,
        el("p", el("span", "Expected: ", class_="vl-muted"), el("b", right[:600]), class_="vl-expected")
        if right
        else None,
    )


def _tags(sample: Sample) -> Safe | None:
    known = [f"{key}: {value}" for key, value in sample.tags.items() if value is not None]
    chips = [el("span", shown.cut(each, 300), class_="vi-tag") for each in known]
    if not chips:
        return None
    title = el("summary", f"{len(chips)} tags of the data set")
    return el("details", title, el("div", *chips[:40], class_="vi-tags"), class_="vi-fold", data_fold="tags")


def _answer(run: Run, side: str, cell: Cell, names: Names) -> Safe:
    part = run.sides.get(side)
    verdict = {True: "right", False: "wrong", None: "no right answer known"}[cell.right]
    if cell.state == "unparseable":
        verdict = "unparseable, counts as wrong"
    figures = [
        el(
            "span",
            verdict,
            class_=f"vi-verdict vi-{'right' if cell.right else 'wrong' if cell.right is False else 'none'}",
        ),
        el("span", f"IoU {cell.iou:.3f}") if cell.iou is not None else None,
        el("span", f"score {cell.score:.2f}") if cell.score is not None and cell.iou is None else None,
        el("span", f"confidence {cell.confidence:.2f}") if cell.confidence is not None else None,
    ]
    if part is None or part.answer is None:
        body: Any = el("p", "No answer of this side is in the run.", class_="vl-empty")
    elif part.answer.error:
        body = el("p", shown.cut(part.answer.error), class_="vl-error")
    else:
        body = [
            el("div", cards.answer_text(part.answer), class_="vl-answer vi-answer"),
            *[el("p", sentence, class_="vl-warn") for sentence in part.notices],
            tokens_view(run, side),
        ]
    head = el("div", el("b", names.sides[side], class_="vl-name"), *figures, class_="vl-card-head")
    return el("section", head, body, class_=f"vl-side vl-{side} vi-side", data_side=side, aria_label=f"{side} answer")


def _times(run: Run) -> Safe:
    """The figures of the compare tab; answers of a batch shared the device, so theirs are marked."""
    modes = {answer.timings.mode for side in run.sides if (answer := run.answer(side))}
    shared = "batch" in modes
    note = "Answered in batches: times are of the whole batch's turn, shared with other samples." if shared else None
    return el("div", el("p", note, class_="vl-note") if note else None, figures_table(run))
