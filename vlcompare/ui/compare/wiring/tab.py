"""Which event of the compare tab's question calls which action, and what it updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from vlcompare.tasks.prompts import spec_of
from vlcompare.ui.compare.example_buttons import examples_view
from vlcompare.ui.compare.example_questions import example_form, find_example
from vlcompare.ui.compare.form_values import ASK_FIELDS, read_form
from vlcompare.ui.compare.forms import AskForm
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.layout.ask import THREE_QUESTION
from vlcompare.ui.compare.layout.tab import Parts, outputs_of, streamed
from vlcompare.ui.compare.panels.evidence import wire_evidence
from vlcompare.ui.compare.panels.published import wire_published
from vlcompare.ui.compare.panels.repeat import wire_repeat
from vlcompare.ui.compare.session import CompareSession
from vlcompare.ui.compare.votes import Votes
from vlcompare.ui.compare.wiring.results import wire_results
from vlcompare.ui.compare.wiring.settings import wire_settings
from vlcompare.ui.events import QUIET, RUNNING, chosen


def wire(parts: Parts, handlers: Handlers, votes: Votes, page: gr.Blocks) -> Callable[[str | None, int | None], None]:
    """Connect the tab's components. Returns what is to be called as an event enters the queue, see `QueueShare`."""
    _wire_task(parts)
    _wire_examples(parts, handlers)
    running = [
        _wire_compare(parts, handlers),
        _wire_follow_up(parts, handlers),
        _wire_three(parts, handlers),
        wire_repeat(parts, handlers),
        *([wire_evidence(parts, handlers)] if handlers.pool is not None and handlers.explains else []),
    ]
    _wire_stop(parts, handlers, running)
    wire_settings(parts, handlers)
    wire_published(parts, handlers)
    wire_results(parts, handlers, votes, page)
    return _ending_before(parts, page, {event["id"] for event in running})


def _triggers(parts: Parts) -> dict[str, list[Any]]:
    """What begins a comparison, by the action that it calls."""
    panels = parts.panels
    return {
        "ask": [parts.buttons["run"].click, parts.ask["text"].submit],  # type: ignore[attr-defined]
        "follow": [panels["follow"].click, panels["follow_text"].submit],
        "three": [panels["three"].click],
    }


def _ending_before(parts: Parts, page: gr.Blocks, running: set[int]) -> Callable[[str | None, int | None], None]:
    """What ends the comparison that runs in a session, as the event of a new one enters the queue.

    The new one may wait in the queue for the place that the old one has. With a listener of its own for that, it would
    enter the queue one reply later.
    """

    def entering(session: str | None, function: int | None) -> None:
        states = page.state_holder
        if function in running and session is not None and session in states and parts.session._id in states[session]:
            states[session][parts.session._id].next_asked()

    return entering


def _wire_compare(parts: Parts, handlers: Handlers) -> Any:
    def ask(
        session: CompareSession, image: str | None, example: str | None, blind: bool, *values: Any
    ) -> Iterator[list[Any]]:
        form, sides = read_form(values)
        yield from streamed(session, handlers.ask(session, image, form, sides, blind=bool(blind), example=example))

    inputs = [parts.picture, parts.example, parts.asking.blind, *parts.form]
    return _runs(parts, handlers, "ask", ask, inputs)


def _wire_follow_up(parts: Parts, handlers: Handlers) -> Any:
    panels = parts.panels

    def follow(session: CompareSession, text: str, how: str, task: str) -> Iterator[list[Any]]:
        yield from streamed(session, handlers.follow_up(session, text, how, task or ""), moves=True)

    inputs = [panels["follow_text"], panels["follow_how"], panels["follow_task"]]
    return _runs(parts, handlers, "follow", follow, inputs, moves=True)


def _wire_three(parts: Parts, handlers: Handlers) -> Any:
    panels = parts.panels

    def three(
        session: CompareSession,
        image: str | None,
        example: str | None,
        blind: bool,
        question: str,
        find: str,
        *values: Any,
    ) -> Iterator[list[Any]]:
        ask, sides = read_form(values)
        forms = three_forms(ask, question, find)
        updates = handlers.three(session, image, forms, sides, blind=bool(blind), example=example)
        yield from streamed(session, updates, moves=True)

    own = [parts.asking.blind, panels["three_question"], panels["three_find"]]
    inputs = [parts.picture, parts.example, *own, *parts.form]
    return _runs(parts, handlers, "three", three, inputs, moves=True)


def three_forms(ask: AskForm, question: str, find: str) -> list[tuple[AskForm, str]]:
    """A caption, a question, and a box: of what is described, here or in the form, else of everything in a caption."""
    described = (find or "").strip() or (ask.text.strip() if ask.task == "grounding" else "")
    box = AskForm("grounding", described, mode=ask.mode) if described else AskForm("grounded_captioning", mode=ask.mode)
    return [
        (AskForm("captioning", mode=ask.mode), "vl-three"),
        (AskForm("vqa", (question or "").strip() or THREE_QUESTION, mode=ask.mode), "vl-three-question"),
        (box, "vl-three-find"),
    ]


def _runs(parts: Parts, handlers: Handlers, name: str, action: Any, inputs: list[Any], *, moves: bool = False) -> Any:
    """Connect an action that runs models, with the session before its inputs; returns the event, for Stop.

    moves: the question's fields are among its outputs.
    """
    return gr.on(
        _triggers(parts)[name],
        action,
        [parts.session, *inputs],
        [*parts.outputs, *([parts.ask[field] for field in ASK_FIELDS] if moves else [])],
        concurrency_limit=handlers.settings.concurrency,
        show_progress_on=[parts.regions["message"]],
        **RUNNING,
    )


def _wire_stop(parts: Parts, handlers: Handlers, running: list[Any]) -> None:
    """Stop: cancel in the engine at once, take waiting events out of the queue, then show how far the run came."""

    def cancel(session: CompareSession) -> None:
        session.stop_pressed()

    stop = parts.buttons["stop"]
    stop.click(cancel, [parts.session], None, **QUIET)

    def stopped(session: CompareSession) -> list[Any]:
        return outputs_of(session, handlers.stopped(session))

    stop.click(None, cancels=running).then(stopped, [parts.session], parts.outputs, **QUIET)


def _wire_task(parts: Parts) -> None:
    def task_changed(task: str) -> list[Any]:
        spec = spec_of(task)
        label = "Boxes x0, y0, x1, y1, one a line" if spec.choices == "boxes" else "Choices, one a line"
        return [
            gr.update(info=spec.hint),
            gr.update(visible=bool(spec.text), label=spec.text.capitalize() or "Text", placeholder=spec.example),
            gr.update(
                visible=bool(spec.choices),
                label=label,
                elem_classes="vl-boxes" if spec.choices == "boxes" else "",  # boxes are marked on the picture
            ),
            gr.update(visible=spec.box),
            gr.update(visible=spec.ocr_text),
        ]

    outputs = [parts.ask[name] for name in ASK_FIELDS[:-1]]
    parts.ask["task"].change(task_changed, [parts.ask["task"]], outputs, **QUIET)  # type: ignore[attr-defined]


def _wire_examples(parts: Parts, handlers: Handlers) -> None:
    fields = [parts.ask[name] for name in ASK_FIELDS[:-1]]
    outputs = [parts.picture, parts.example, parts.examples, *fields, *parts.outputs]

    def pick(session: CompareSession, blind: bool, event: gr.EventData, *values: Any) -> list[Any]:
        example = find_example(str(chosen(event)))
        if example is None:
            return [gr.skip()] * len(outputs)
        form = example_form(example)
        own = [getattr(form, name) for name in ASK_FIELDS[:-1]]
        update = handlers.recorded(session, example, read_form(values)[1], blind=bool(blind))
        return [str(example.image), example.id, examples_view(example.id), *own, *outputs_of(session, update)]

    def clear(session: CompareSession) -> tuple[CompareSession, None, Any]:
        return session, None, examples_view(None)

    inputs = [parts.session, parts.asking.blind, *parts.form]
    parts.examples.click(pick, inputs, outputs, **QUIET)  # type: ignore[attr-defined]
    own_picture = [parts.picture.upload, parts.picture.clear]
    gr.on(own_picture, clear, [parts.session], [parts.session, parts.example, parts.examples], **QUIET)
