"""One sample on the inspect page: the picture with the truth and both boxes, both answers with tokens, prompt, timings.

The sample and its answers become a run of the compare tab, so that the functions which draw that tab draw this sample,
too, and the question can be asked again.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from vlcompare.errors import VLCompareError
from vlcompare.evaluate.replies import request_of
from vlcompare.evaluate.results.aspects import target_box
from vlcompare.evaluate.results.run_folder import RunFolder
from vlcompare.evidence import EvidenceMap
from vlcompare.render.evidence_picture import place_of
from vlcompare.render.markup import Safe, el
from vlcompare.render.terms import term
from vlcompare.tasks.boxes import rounding_ceiling
from vlcompare.tasks.prompts import task_title
from vlcompare.types import DTYPES, PROMPT_ORDERS, QUANTIZATIONS, Answer, Sample, Side
from vlcompare.ui.compare import cards
from vlcompare.ui.compare import display_limits as shown
from vlcompare.ui.compare.evidence_maps import evidence_maps
from vlcompare.ui.compare.figures import figures_table
from vlcompare.ui.compare.picture import overlay, size_line
from vlcompare.ui.compare.session import Picture, Run, SideRun
from vlcompare.ui.compare.tokens import prompt_view, tokens_view
from vlcompare.ui.inspect.selection import Cell, Names, Opened, SampleRow
from vlcompare.ui.inspect.session import recorded_of
from vlcompare.units import decimal

MAX_BLOCKS_SHOWN = 1024  # of one map


def as_run(opened: Opened, row: int, picture: Picture) -> Run:
    """The sample as a run of the compare tab, with the answers from the run folder."""
    sample = opened.run.samples[row]
    sides = {}
    for role, side in opened.roles.items():
        answer, damage = opened.run.answer_and_problem(side, row)
        if answer is not None:
            notices, settings = (damage,) if damage else (), _side(opened, role, answer)
            sides[role] = SideRun(settings, status="", prompt=answer.prompt, answer=answer, notices=notices)
    box = target_box(sample) if sample.task in ("grounding", "pointing") else None
    truth = sample.boxes if sample.task == "grounded_captioning" else (box,) if box else ()
    return Run(request=request_of(sample), picture=picture, sides=sides, truth=truth, references=sample.references)


def _side(opened: Opened, role: str, answer: Answer) -> Side:
    """A side's settings as the compare tab takes them; what is not recorded is left to the defaults."""
    known, asked = recorded_of(opened.run, opened.roles[role])
    quantization = known.get("quantization", answer.quantization)
    order = asked.get("prompt_order", known.get("prompt_order"))
    dtype = asked.get("dtype", known.get("dtype"))
    numbers = ("max_new_tokens", "temperature", "top_p", "top_k", "seed")
    return Side(
        checkpoint=str(asked.get("checkpoint") or known.get("checkpoint") or answer.checkpoint),
        quantization=quantization if quantization in QUANTIZATIONS else "none",
        prompt_order=order if order in PROMPT_ORDERS else None,
        image_size=asked.get("image_size"),
        dtype=dtype if dtype in DTYPES else "auto",
        **{name: asked.get(name, known.get(name)) for name in numbers},
    )


def picture_for(run: RunFolder, row: int) -> tuple[Picture, str | None]:
    """(the sample's picture, why it is not shown): a grey one replaces a missing one, so that boxes are still seen."""
    from PIL import Image

    from vlcompare.runtime.image import open_image, read_bytes

    try:
        source = run.picture(row)
        data = source if isinstance(source, bytes) else read_bytes(source)
        return Picture.of(open_image(data), data), None
    except VLCompareError as error:
        buffer, grey = io.BytesIO(), Image.new("RGB", (320, 240), (150, 150, 150))
        grey.save(buffer, "PNG")
        # what the system says of a file names folders of the server
        reason = "Its file cannot be read." if isinstance(error.__cause__, OSError) else str(error)
        return Picture.of(grey, buffer.getvalue()), f"The picture is not shown. {reason}"


def picture_view(run: Run, position: str, missing: str | None) -> Safe:
    """The picture with all boxes. position: the sample's index in the selection; missing: why it is not shown."""
    return el(
        "div",
        el("p", position, class_="vl-note vi-place", role="status"),
        el("p", missing, class_="vl-warn") if missing else None,
        el("div", overlay(run), class_="vi-stage"),
        class_="vi-picture",
    )


def view(
    run: Run, sample: Sample, row: SampleRow, names: Names, refused: Mapping[str, str] = MappingProxyType({})
) -> Safe:
    """The question, both answers, what they rest on, and their details. refused: role -> why its map is not drawn."""
    sides = [_answer(run, side, row.cells.get(side) or Cell(state="missing"), names) for side in names.sides]
    return el(
        "article",
        _question(sample),
        el("div", *sides, class_="vi-answers"),
        el("p", _caption(run, sample), class_="vl-note"),
        evidence_view(run, sample, refused, names),
        _tags(sample),
        _fold("prompts", "The exact prompts", prompt_view(run)),
        _fold("times", "Times and memory", _times(run)),
        class_="vi-sample",
        data_row=str(row.row),
    )


def evidence_of(opened: Opened, row: int) -> tuple[dict[str, EvidenceMap], dict[str, str]]:
    """(the stored maps of what the answers rest on, why others are not drawn), both by role."""
    maps: dict[str, EvidenceMap] = {}
    refused: dict[str, str] = {}
    for role, side in opened.roles.items():
        found = opened.run.evidence(side, row)
        if isinstance(found, str):
            refused[role] = found
        elif found is not None and len(found.falls) > MAX_BLOCKS_SHOWN:
            refused[role] = f"This map has {len(found.falls):,} blocks; at most {MAX_BLOCKS_SHOWN:,} are drawn."
        elif found is not None:
            maps[role] = found
    return maps, refused


def evidence_view(run: Run, sample: Sample, refused: Mapping[str, str], names: Names) -> Safe | None:
    """The run's maps beside each other; None where `evaluate` was asked for none of this sample."""
    if not run.evidence and not refused:
        return None
    box = target_box(sample)
    place = place_of(sample.task, (box,) if box else ())
    maps = evidence_maps(run.picture, run.evidence, names.sides, place) if run.evidence else None
    return el(
        "section",
        el("h4", "What the answers rest on", class_="vi-subhead"),
        maps,
        *[el("p", f"{names.sides[role]}: {shown.cut(why)}", class_="vl-warn") for role, why in refused.items()],
        class_="vi-evidence",
    )


def _fold(name: str, title: str, content: Safe) -> Safe:
    """A part that is folded until it is opened; inspect.js keeps it open from one sample to the next, by name."""
    return el("details", el("summary", title), content, class_="vi-fold", data_fold=name)


def _caption(run: Run, sample: Sample) -> str:
    answers = [run.answer(side) for side in run.sides]
    caption = size_line(run.picture, next((answer for answer in answers if answer and answer.image_size), None))
    if sample.task == "grounding" and sample.boxes:
        most = decimal(rounding_ceiling(sample.boxes[0]))
        caption += f" · a box written with two decimals reaches IoU {most} at most here"
    return caption


def _question(sample: Sample) -> Safe:
    facts = [sample.id, task_title(sample.task), sample.source, sample.split]
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
        el("h3", shown.cut(sample.text, 4000) or task_title(sample.task), class_="vi-text"),
        choices,
        el("p", el("span", "Expected: ", class_="vl-muted"), el("b", right[:600]), class_="vl-expected")
        if right
        else None,
    )


def _tags(sample: Sample) -> Safe | None:
    tags = [f"{key}: {value}" for key, value in sample.tags.items() if value is not None]
    shown_tags = [el("span", shown.cut(tag, 300), class_="vi-tag") for tag in tags[:40]]
    content = el("div", *shown_tags, class_="vi-tags")
    return _fold("tags", f"{len(tags)} tags of the data set", content) if tags else None


def _answer(run: Run, side: str, cell: Cell, names: Names) -> Safe:
    part = run.sides.get(side)
    kind = {True: "right", False: "wrong", None: "none"}[cell.right]
    verdict = "no right answer known" if cell.right is None else kind
    if cell.state == "unparseable":
        verdict = "unparseable, counts as wrong"
    figures = [
        el("span", verdict, class_=f"vi-verdict vi-{kind}"),
        el("span", term("iou", "IoU"), f" {decimal(cell.iou)}") if cell.iou is not None else None,
        el("span", f"score {decimal(cell.score)}") if cell.score is not None and cell.iou is None else None,
        el("span", term("confidence"), f" {decimal(cell.confidence)}") if cell.confidence is not None else None,
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
    head = el("div", el("b", names.sides[side], class_="vl-name"), *figures, class_="vi-side-head")
    return el("section", head, body, class_=f"vl-side vl-{side} vi-side", data_side=side, aria_label=f"{side} answer")


def _times(run: Run) -> Safe:
    """The figures of the compare tab; answers of a batch shared the device, so theirs are marked."""
    batched = any(answer.timings.mode == "batch" for side in run.sides if (answer := run.answer(side)))
    note = "Answered in batches: times are of the whole batch's turn, shared with other samples."
    return el("div", el("p", note, class_="vl-note") if batched else None, figures_table(run))
