"""Which event of the compare tab calls which action, and what it may change. No markup, no logic of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import gradio as gr

from vlcompare.errors import VLCompareError
from vlcompare.tasks.prompts import spec_of
from vlcompare.types import SIDES
from vlcompare.ui import checkpoint_names
from vlcompare.ui.compare import cards
from vlcompare.ui.compare.forms import SIDE_FIELDS, AskForm, box_text, form_of, side_form_of
from vlcompare.ui.compare.handlers import Handlers, find_example
from vlcompare.ui.compare.layout import ASK_FIELDS, Parts, examples_view, outputs_of, read_form, streamed
from vlcompare.ui.compare.session import Run, Session
from vlcompare.ui.events import QUIET, RUNNING, chosen
from vlcompare.ui.examples import Example


def wire(parts: Parts, handlers: Handlers) -> Any:
    """Connect the tab's components; returns the event that compares, for Stop."""
    _wire_question(parts, handlers)
    _wire_sides(parts)
    _wire_history(parts, handlers)
    return _wire_running(parts, handlers)


def wire_stop(parts: Parts, handlers: Handlers, running: list[Any]) -> None:
    """Stop: say so to the engine at once, take what still waits out of the queue, then show how far it came."""

    def signal(session: Session) -> None:
        session.stop()

    stop = parts.buttons["stop"]
    stop.click(signal, [parts.session], None, **QUIET)
    stop.click(None, cancels=running).then(
        lambda session: outputs_of(session, handlers.stopped(session)), [parts.session], parts.outputs, **QUIET
    )


def _wire_running(parts: Parts, handlers: Handlers) -> Any:
    def ask(session: Session, image: str | None, example: str | None, blind: bool, *values: Any) -> Iterator[list[Any]]:
        form, sides = read_form(values)
        yield from streamed(session, handlers.ask(session, image, form, sides, blind=bool(blind), example=example))

    return gr.on(
        [parts.buttons["run"].click, parts.ask["text"].submit],  # type: ignore[attr-defined]
        ask,
        [parts.session, parts.picture, parts.example, parts.blind, *parts.form],
        parts.outputs,
        show_progress_on=[parts.regions["message"]],
        concurrency_limit=handlers.settings.concurrency,
        **RUNNING,
    )


def _wire_question(parts: Parts, handlers: Handlers) -> None:
    fields = [parts.ask[name] for name in ASK_FIELDS]

    def task_changed(task: str) -> list[Any]:
        spec = spec_of(task)
        label = "Boxes x0, y0, x1, y1, one a line" if spec.choices == "boxes" else "Choices, one a line"
        return [
            gr.update(info=spec.hint),
            gr.update(visible=bool(spec.text), label=spec.text.capitalize() or "Text", placeholder=spec.example),
            gr.update(visible=bool(spec.choices), label=label),
            gr.update(visible=spec.box),
            gr.update(visible=spec.ocr_text),
        ]

    parts.ask["task"].change(task_changed, [parts.ask["task"]], fields[:5], **QUIET)  # type: ignore[attr-defined]

    def pick(session: Session, event: gr.EventData, *values: Any) -> list[Any]:
        example = find_example(str(chosen(event)))
        if example is None:
            return [gr.skip()] * (3 + len(fields) + len(parts.outputs))
        form = example_form(example)
        own = [getattr(form, name) for name in ASK_FIELDS[:5]]
        shown = handlers.recorded(session, example, read_form(values)[1])
        return [str(example.image), example.id, examples_view(example.id), *own, gr.skip(), *outputs_of(session, shown)]

    parts.examples.click(  # type: ignore[attr-defined]
        pick,
        [parts.session, *parts.form],
        [parts.picture, parts.example, parts.examples, *fields, *parts.outputs],
        **QUIET,
    )

    def mark(session: Session, task: str, image: str | None, event: gr.EventData) -> tuple[Any, Any, Session]:
        corner = _corner(chosen(event, "index"))
        if not spec_of(task).box or not image or corner is None:
            return gr.skip(), gr.skip(), session
        try:
            picture = handlers.read_picture(image)
        except VLCompareError as error:
            return gr.skip(), cards.message(str(error), "error"), session
        box = session.mark(image, corner[0] / picture.width, corner[1] / picture.height)
        if box is None:
            return gr.skip(), cards.message("First corner set: click the opposite one."), session
        return box_text(box), cards.message(""), session

    parts.picture.select(
        mark,
        [parts.session, parts.ask["task"], parts.picture],
        [parts.ask["box"], parts.regions["message"], parts.session],
        trigger_mode="multiple",  # else a second corner that is clicked before the first is answered would be lost
        **QUIET,
    )

    def forget(session: Session) -> tuple[None, Any]:
        session.corner = None
        return None, examples_view(None)

    gr.on(
        [parts.picture.upload, parts.picture.clear], forget, [parts.session], [parts.example, parts.examples], **QUIET
    )


def _corner(index: Any) -> tuple[float, float] | None:
    """The point that was clicked, in pixels of the picture."""
    if not isinstance(index, (list, tuple)) or len(index) != 2:
        return None
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) or not abs(one) < 1e6 for one in index):
        return None
    return float(index[0]), float(index[1])


def _wire_sides(parts: Parts) -> None:
    left, right = ([parts.sides[side][name] for name in SIDE_FIELDS] for side in SIDES)
    parts.buttons["swap"].click(
        lambda *v: [*v[len(v) // 2 :], *v[: len(v) // 2]], [*left, *right], [*left, *right], **QUIET
    )
    named = [parts.sides[side]["checkpoint"] for side in SIDES]
    gr.on([box.change for box in named], checkpoint_names.scores_table, named, parts.regions["scores"], **QUIET)  # type: ignore[attr-defined]
    parts.buttons["copy_right"].click(lambda *values: list(values), left[1:], right[1:], **QUIET)
    parts.buttons["copy_left"].click(lambda *values: list(values), right[1:], left[1:], **QUIET)


def _wire_history(parts: Parts, handlers: Handlers) -> None:
    def restore(session: Session, event: gr.EventData) -> list[Any]:
        page = handlers.restore(session, str(chosen(event)))
        run = session.find(str(chosen(event)))
        fields = form_values(run) if run else [gr.skip()] * (2 + len(parts.form))
        return [*outputs_of(session, page), *fields]

    gr.on(
        [parts.regions[name].click for name in ("history", "three")],  # type: ignore[attr-defined]
        restore,
        [parts.session],
        [*parts.outputs, parts.picture, parts.example, *parts.form],
        **QUIET,
    )


def form_values(run: Run) -> list[Any]:
    """Picture, example and all fields that would ask `run` again; the sides' stay where its models are hidden."""
    from vlcompare.ui.compare.files import picture_file

    form = form_of(run.request, run.mode)
    fields = [getattr(form, name) for name in ASK_FIELDS]
    sides = [
        gr.skip() if run.hidden else asdict(side_form_of(part.settings))[name]
        for part in run.sides.values()
        for name in SIDE_FIELDS
    ]
    return [picture_file(run.picture), run.example, *fields, *sides]


def asks(example: Example, form: AskForm) -> bool:
    """Whether the form asks exactly what the example asks."""
    own = example_form(example)
    return all(getattr(own, name) == getattr(form, name) for name in ASK_FIELDS[:5])


def question(form: AskForm, example: Example | None) -> AskForm:
    """What a link asks: its own question, or its example's where it says nothing of one."""
    plain = form == AskForm(mode=form.mode)
    return replace(example_form(example), mode=form.mode) if example and plain else form


def example_form(example: Example) -> AskForm:
    """The fields of a shipped example."""
    choices = "\n".join(str(c) if isinstance(c, str) else box_text(c) for c in example.choices)
    box = box_text(example.box) if example.box else ""
    return AskForm(example.task, example.text, choices, box, example.ocr_text)
