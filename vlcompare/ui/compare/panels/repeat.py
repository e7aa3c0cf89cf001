"""The shown comparison run five times: median and range of both sides' times, and which side is faster, if any."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from vlcompare.errors import RequestError
from vlcompare.render.markup import Safe, el
from vlcompare.render.terms import term
from vlcompare.repeats import FIGURES, Figure, Repeats, Spread, repeat_with
from vlcompare.types import Answer, Side
from vlcompare.ui.compare import cards
from vlcompare.ui.compare.event_stream import PACE
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.layout.tab import Parts
from vlcompare.ui.compare.panels.measuring import Changes, measuring, wire_measuring
from vlcompare.ui.compare.session import CompareSession, Run
from vlcompare.ui.server.concurrency import idle_of_call
from vlcompare.units import milliseconds

COUNT = 5
TITLES: dict[Figure, tuple[str, str]] = {
    "ttft_ms": ("first token", "First token"),
    "token_ms": ("token time", "A token"),
}


def wire_repeat(parts: Parts, handlers: Handlers) -> Any:
    """Build the panel below the charts and connect it; returns the event that runs models, for Stop."""
    with parts.places["times"]:
        view = gr.HTML(el("div"), elem_id="vl-repeats")
        button = gr.Button(f"Repeat × {COUNT}", size="sm", elem_id="vl-repeat", visible=False)
    return wire_measuring(parts, handlers, button, view, button, _panel, partial(repeat_shown, handlers))


def can_repeat(run: Run | None) -> bool:
    """Whether this run was made here, is over, and may show its times."""
    return run is not None and run.done and run.made_here and not run.hidden and not any(
        answer is None or answer.error for answer in map(run.answer, run.sides)
    )  # fmt: skip


def repeat_shown(handlers: Handlers, session: CompareSession) -> Changes:
    """Repeat the shown run; yields what changes. The rounds so far are kept in the run."""
    run = session.shown
    if run is None or not can_repeat(run):
        return iter([{"message": cards.message("There is nothing to repeat: press Compare first.", "error")}])
    return measuring(session, run, partial(_rounds, handlers, run), _panel, "A round failed")


def _rounds(handlers: Handlers, run: Run, cancel: threading.Event) -> Iterator[Safe]:
    """The panel's HTML while the rounds are measured; raises RequestError where an answer failed."""
    began, run.repeats = dict(run.sides), Repeats((), COUNT)
    yield repeats_view(run, "")

    def ask(ordered: Any) -> Iterator[Any]:
        limits = handlers.settings.limits
        how = {"pool": handlers.pool, "cancel": cancel, "deadline": limits.seconds, "sessions": {}, "tick": PACE}
        return handlers.compare(run.picture.data, run.request, ordered, mode="measure", idle=idle_of_call(), **how)

    sides: dict[str, Side] = run.settings
    answering = failure = ""
    for item in repeat_with(ask, sides, COUNT):
        before = answering
        if isinstance(item, Repeats):
            run.repeats = item.renamed({name: run.place(part) for name, part in began.items()})
        elif item is not None and isinstance(item.value, Answer):
            failure = failure or item.value.error or ""
        elif item is not None:
            answering = run.place(began[item.side])
        # not for every token: what the page does meanwhile would take time from the answers
        if isinstance(item, Repeats) or answering != before:
            yield repeats_view(run, answering)
    if failure:
        raise RequestError(failure)


def _panel(run: Run | None) -> tuple[Safe, bool]:
    return repeats_view(run), can_repeat(run)


def repeats_view(run: Run | None, answering: str | None = None) -> Safe:
    """The rounds of a run. answering: None where none is running, else the side that is answering, "" between two."""
    if run is None or not run.done or run.hidden or not (run.made_here or run.repeats):
        return el("div")
    repeats = run.repeats
    if repeats is None or (answering is None and not repeats.rounds):
        return el("p", "One run: another one may take longer or shorter.", class_="vl-note")
    if answering is not None:
        who = f": {cards.side_name(run, answering)[0]}" if answering else ""
        head = f"Round {min(len(repeats.rounds) + 1, repeats.asked)} of {repeats.asked}{who}"
    elif len(repeats.rounds) < repeats.asked:
        head = f"Stopped after {_count(len(repeats.rounds))} of {repeats.asked}"
    else:
        head = f"{_count(len(repeats.rounds))}, either side first in turn: median and range"
    figures = [_figure(run, repeats, figure) for figure in FIGURES] if repeats.rounds else []
    busy = None
    if repeats.busy:
        share = f"{100 * (repeats.cpu_share or 0):.0f} %"
        busy = f"This machine is busy: the answers had a processor for {share} of their time, so they took longer."
    return el(
        "div",
        el("p", head, class_="vl-repeats-head" + (" vl-busy" if answering is not None else ""), role="status"),
        el("p", busy, class_="vl-warn") if busy else None,
        el("div", *figures, class_="vl-ranges"),
        class_="vl-repeats",
    )


def _count(rounds: int) -> str:
    return f"{rounds} round{'s' * (rounds != 1)}"


def _figure(run: Run, repeats: Repeats, figure: Figure) -> Safe:
    name, title = TITLES[figure]
    spreads = {side: repeats.spread(side, figure) for side in run.sides}
    most = max((spread.high for spread in spreads.values() if spread), default=0.0)
    rows = [_row(run, side, spread, most) for side, spread in spreads.items()]
    return el("section", el("h3", term(name, title)), *rows, el("p", _verdict(run, repeats, figure), class_="vl-note"))


def _row(run: Run, side: str, spread: Spread | None, most: float) -> Safe:
    head = el("span", el("i", class_="vl-key", data_side=side), cards.side_name(run, side)[0], class_="vl-range-name")
    if spread is None:
        return el("div", head, el("span", "–"), el("span", "no second token", class_="vl-muted"), class_="vl-range-row")
    left, width = 100 * spread.low / most, 100 * (spread.high - spread.low) / most
    dots = [el("i", class_="vl-range-dot", style=f"left:{100 * value / most:.1f}%") for value in spread.values]
    track = el(
        "span",
        el("i", class_="vl-range-bar", style=f"left:{left:.1f}%;width:{width:.1f}%"),
        *dots,
        el("i", class_="vl-range-median", style=f"left:{100 * spread.median / most:.1f}%"),
        class_="vl-range",
        data_side=side,
        aria_hidden="true",
    )
    said = el(
        "span",
        el("b", milliseconds(spread.median)),
        f" {milliseconds(spread.low)} to {milliseconds(spread.high)}",
        class_="vl-range-said",
    )
    return el("div", head, track, said, class_="vl-range-row")


def _verdict(run: Run, repeats: Repeats, figure: Figure) -> str:
    if len(repeats.rounds) < 2:
        return "One run alone names no winner."
    side = repeats.faster(figure)
    if side is not None:
        return f"{cards.side_name(run, side)[0]} is faster: the ranges do not overlap."
    if any(repeats.spread(own, figure) is None for own in run.sides):
        return "Not comparable: an answer of one token has no time between tokens."
    return "No clear difference: the ranges overlap."
