"""What the shown answers rest on: a map over the picture for each side, on one scale, growing while it is measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import gradio as gr

from vlcompare.evidence import EvidenceMap
from vlcompare.machine.device_lock import hold_device
from vlcompare.render.evidence_picture import place_in
from vlcompare.render.markup import Safe, el
from vlcompare.ui.compare import cards
from vlcompare.ui.compare.evidence_maps import evidence_maps
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.layout.tab import Parts
from vlcompare.ui.compare.panels.measuring import Changes, measuring, wire_measuring
from vlcompare.ui.compare.panels.repeat import can_repeat
from vlcompare.ui.compare.session import CompareSession, Run
from vlcompare.ui.server.concurrency import idle_of_call

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
    acquired = handlers.pool.acquire(part.settings.model, check, check, idle_of_call())
    with acquired as model, hold_device(run, check):
        request, until = part.settings.request(run.request), time.monotonic() + handlers.settings.limits.seconds
        for found in explain_batches(
            model, run.picture.data, request, part.answer, blank=blank, cancel=cancel, pictures=session.pictures
        ):
            yield found
            if time.monotonic() > until:
                return


def evidence_view(run: Run | None, measuring: bool = False) -> Safe:
    """The maps of a run, beside each other; an evaluation's stored ones, too."""
    if run is None or run.hidden or not (run.evidence or can_explain(run)):
        return el("div")
    if not run.evidence and not measuring:
        note = "One block of the picture is blanked at a time: how far does the answer's log-probability fall?"
        return el("p", note, class_="vl-note")
    names = {side: cards.side_name(run, side)[0] for side in run.sides}
    return evidence_maps(run.picture, run.evidence, names, place_in(run.request, run.truth), measuring=measuring)
