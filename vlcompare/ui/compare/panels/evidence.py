"""What the shown answers rest on: a map over the picture for each side, on one scale, growing while it is measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import gradio as gr

from vlcompare.comparison import hold_device
from vlcompare.evidence import EvidenceMap
from vlcompare.render.evidence_picture import FALL, RISE, evidence_scale, figures_in_words
from vlcompare.render.markup import Safe, el
from vlcompare.ui.compare import cards
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.layout.tab import Parts
from vlcompare.ui.compare.panels.measuring import Changes, measuring, wire_measuring
from vlcompare.ui.compare.panels.repeat import can_repeat
from vlcompare.ui.compare.picture import box_mark, stage
from vlcompare.ui.compare.session import CompareSession, Run

_SOLID = 0.85  # opacity at the end of the scale
_BLANKS = {"its features": "mean", "its pixels, blurred": "blur"}


class _Ended(Exception):
    """The measurement was stopped while it waited."""


def wire_evidence(parts: Parts, handlers: Handlers) -> Any:
    """Build the panel below the pictures and connect it; returns the event that runs models, for Stop."""
    with parts.places["evidence"]:
        gr.HTML(el("h2", "What the answers rest on", class_="vl-section"))
        view = gr.HTML(el("div"), elem_id="vl-evidence")
        with gr.Row(visible=False, elem_classes="vl-evidence-ask") as asking:
            button = gr.Button("Measure it", size="sm", elem_id="vl-explain", min_width=120)
            blank = gr.Radio(list(_BLANKS), value=next(iter(_BLANKS)), label="A block loses", elem_id="vl-blank")

    def measure(session: CompareSession, blank: str) -> Changes:
        return explain_shown(handlers, session, _BLANKS.get(blank, "mean"))

    return wire_measuring(parts, handlers, button, view, asking, _panel, measure, [blank])


def can_explain(run: Run | None) -> bool:
    """Whether this run was made here, is over, and is a first question, whose prompt is known from the question."""
    return can_repeat(run) and run is not None and run.follow_up is None


def explain_shown(handlers: Handlers, session: CompareSession, blank: str = "mean") -> Changes:
    """Measure the shown run: yields what changes. The maps are kept in the run."""
    run = session.shown
    if run is None or not can_explain(run):
        return iter([{"message": cards.message("There is no answer to explain: press Compare first.", "error")}])

    def steps(cancel: threading.Event) -> Iterator[Safe]:
        run.evidence = {}
        began = dict(run.sides)
        yield evidence_view(run, True)
        with suppress(_Ended):
            for part in began.values():
                for found in _measured(handlers, session, run, part, blank, cancel):
                    run.evidence[run.place(part)] = found
                    yield evidence_view(run, True)

    return measuring(session, run, steps, _panel, "The answers were not explained")


def _panel(run: Run | None) -> tuple[Safe, bool]:
    return evidence_view(run), can_explain(run)


def _measured(
    handlers: Handlers, session: CompareSession, run: Run, part: Any, blank: Any, cancel: Any
) -> Iterator[EvidenceMap]:
    """One side's maps, with the device held; they end where it was stopped or the time of an answer is over."""
    from vlcompare.runtime.blanking import explain_batches

    def check(*ignored: Any) -> None:
        if cancel.is_set():
            raise _Ended

    check()
    with handlers.pool.acquire(part.settings.model, check, check) as model, hold_device(run, check):
        request, until = part.settings.request(run.request), time.monotonic() + handlers.settings.limits.seconds
        for found in explain_batches(
            model, run.picture.data, request, part.answer, blank=blank, cancel=cancel, pictures=session.pictures
        ):
            yield found
            if time.monotonic() > until:
                return


def evidence_view(run: Run | None, measuring: bool = False) -> Safe:
    """The maps of a run, beside each other."""
    if run is None or not can_explain(run):
        return el("div")
    if not run.evidence and not measuring:
        note = "One block of the picture is blanked at a time: how far does the answer's log-probability fall?"
        return el("p", note, class_="vl-note")
    scale = evidence_scale(run.evidence)  # type: ignore[arg-type]
    done = sum(fall is not None for found in run.evidence.values() for fall in found.falls)
    of = sum(len(found.falls) for found in run.evidence.values())
    head = f"{done} blocks measured" if measuring else f"{done} of {of} blocks, one scale for both"
    figures = [_figure(run, side, run.evidence[side], scale) for side in run.sides if side in run.evidence]
    legend = el(
        "p",
        el("i", class_="vl-evidence-scale", style=f"background:linear-gradient(90deg,{RISE},transparent,{FALL})"),
        f"−{scale:.2f} to {scale:.2f} nats: how far the log-probability of the answer falls without the block",
        class_="vl-note",
    )
    return el(
        "div",
        el("p", head, class_="vl-repeats-head" + (" vl-busy" if measuring else ""), role="status"),
        el("div", *figures, class_="vl-evidence-pair"),
        legend if run.evidence else None,
        class_="vl-evidence",
    )


def _figure(run: Run, side: str, found: EvidenceMap, scale: float) -> Safe:
    name = cards.side_name(run, side)[0]
    marks = [
        _block(found, index, scale, block == found.largest)
        for index, block in enumerate(found.layout)
        if found.falls[index] is not None
    ]
    marks += [box_mark(box, "", "vl-answer-box", title="the answer's box") for box in found.boxes]
    marks += [box_mark(box, "truth", "vl-truth", title="ground truth") for box in run.truth]
    said = " ".join(line if line.endswith(".") else f"{line}." for line in figures_in_words(found, run.truth))
    picture = stage(run.picture, *marks, label=f"What the answer of {name} rests on. {said}")
    return el(
        "figure",
        el("figcaption", el("i", class_="vl-key"), name),
        picture,
        *(el("p", line, class_="vl-note") for line in figures_in_words(found, run.truth)),
        class_="vl-figure",
        data_side=side,
    )


def _block(found: EvidenceMap, index: int, scale: float, largest: bool) -> Safe:
    fall = found.falls[index] or 0.0
    box = found.layout.box(list(found.layout)[index])
    place = f"left:{100 * box.x0:.2f}%;top:{100 * box.y0:.2f}%"
    size = f"width:{100 * (box.x1 - box.x0):.2f}%;height:{100 * (box.y1 - box.y0):.2f}%"
    shade = f"background:{FALL if fall > 0 else RISE};opacity:{_SOLID * min(1.0, abs(fall) / scale):.3f}"
    frame = el("i", class_="vl-evidence-largest", style=f"{place};{size}") if largest else None
    shown = el("i", class_="vl-evidence-block", style=f"{place};{size};{shade}", title=f"{fall:.2f} nats")
    return el("span", shown, frame)
