"""The compare tab's further panels: follow-ups, three questions, the vote, files and the link. Components and wiring.

What they do is in `handlers`, `votes`, `exports` and `permalink`; here they are only laid out and connected.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.render.markup import el
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import SIDES
from vlcompare.ui.compare import cards, files, permalink
from vlcompare.ui.compare.forms import SIDE_FIELDS, AskForm
from vlcompare.ui.compare.handlers import FOLLOW_TASKS, Handlers, find_example
from vlcompare.ui.compare.layout import ASK_FIELDS, Parts, examples_view, outputs_of, read_form, streamed
from vlcompare.ui.compare.session import Run, Session
from vlcompare.ui.compare.votes import CHOICES, Votes
from vlcompare.ui.compare.wiring import asks, form_values, question
from vlcompare.ui.events import QUIET, RUNNING, download
from vlcompare.ui.examples import load_examples
from vlcompare.ui.server.uploads import read_file

THREE_HINT = "Caption, question and box in one go: where does each architecture break?"
THREE_QUESTION = "How many things are in the picture?"


@dataclass
class Panels:
    """Their components by name."""

    follow_text: gr.Textbox
    follow_task: gr.Dropdown
    follow_how: gr.Radio
    follow: gr.Button
    three_question: gr.Textbox
    three_find: gr.Textbox
    three: gr.Button
    votes: dict[str, gr.Button]
    note: gr.Textbox
    consent: gr.Checkbox
    vote_message: gr.HTML
    my_votes: gr.Button
    save: gr.Button
    picture: gr.Button
    comparator: gr.Button
    file: gr.DownloadButton
    load: gr.UploadButton
    link: gr.Textbox


def build_asking() -> dict[str, Any]:
    """Below the question: further ways to ask. To be called in the left column."""
    with gr.Accordion("Follow up on this picture", open=False, elem_classes="vl-fold"):
        follow_text = gr.Textbox(label="Next question", lines=2, elem_id="vl-follow-text")
        tasks = [("The same task", ""), *((SPECS[name].title, name) for name in FOLLOW_TASKS)]
        follow_task = gr.Dropdown(tasks, value="", label="As", filterable=False, elem_id="vl-follow-task")
        follow_how = gr.Radio(
            [("Continue the conversation", "continue"), ("Ask anew", "anew")],
            value="continue",
            label="The picture is not encoded again either way",
            elem_id="vl-follow-how",
        )
        follow = gr.Button("Follow up", size="sm", elem_id="vl-follow")
    with gr.Accordion("One picture, three questions", open=False, elem_classes="vl-fold"):
        gr.HTML(el("p", THREE_HINT, class_="vl-note"))
        three_question = gr.Textbox(THREE_QUESTION, label="Question", max_lines=3, elem_id="vl-three-question")
        three_find = gr.Textbox(
            label="What to find",
            placeholder="the red car; empty: the description above",
            max_lines=3,
            elem_id="vl-three-find",
        )
        three = gr.Button("Ask all three", size="sm", elem_id="vl-three")
    return {
        "follow_text": follow_text,
        "follow_task": follow_task,
        "follow_how": follow_how,
        "follow": follow,
        "three_question": three_question,
        "three_find": three_find,
        "three": three,
    }


def build_after() -> dict[str, Any]:
    """Below the results: the vote, the files, the link."""
    parts: dict[str, Any] = {}
    with gr.Row(elem_classes="vl-after", equal_height=False):
        with gr.Column(elem_classes="vl-panel", min_width=280):
            gr.HTML(el("h2", "Which answer is better?", class_="vl-section"))
            parts["consent"] = gr.Checkbox(
                False,
                label="Store my vote here: question, settings, both texts. Not the picture.",
                elem_id="vl-consent",
            )
            with gr.Row(elem_classes="vl-votes"):
                parts["votes"] = {
                    name: gr.Button(title, size="sm", elem_id=f"vl-vote-{name}", min_width=80)
                    for name, title in CHOICES.items()
                }
            parts["note"] = gr.Textbox(label="Note (optional)", max_lines=3, elem_id="vl-note")
            parts["vote_message"] = gr.HTML(cards.message(""), elem_id="vl-vote-message")
        with gr.Column(elem_classes="vl-panel", min_width=280):
            gr.HTML(el("h2", "Keep it", class_="vl-section"))
            with gr.Row(elem_classes="vl-files"):
                parts["save"] = gr.Button("Export this run", size="sm", elem_id="vl-save")
                parts["load"] = gr.UploadButton("Import a run", size="sm", file_types=[".json"], elem_id="vl-load")
                parts["picture"] = gr.Button("Annotated picture", size="sm", elem_id="vl-annotated")
                parts["comparator"] = gr.Button("All runs for LLM Comparator", size="sm", elem_id="vl-comparator")
                parts["my_votes"] = gr.Button("My votes as CSV", size="sm", elem_id="vl-my-votes")
            parts["link"] = gr.Textbox(
                label="Link to these settings and the example",
                interactive=False,
                buttons=["copy"],
                elem_id="vl-link",
                max_lines=1,
            )
    parts["file"] = gr.DownloadButton("file", visible="hidden")
    return parts


def wire(parts: Parts, panels: Panels, handlers: Handlers, votes: Votes, page: gr.Blocks) -> list[Any]:
    """Connect them; returns the events that run models, for Stop."""
    running = [_wire_follow_up(parts, panels, handlers), _wire_three(parts, panels, handlers)]
    _wire_votes(parts, panels, handlers, votes)
    _wire_files(parts, panels, handlers, votes)
    _wire_link(parts, panels, handlers, page)
    return running


def _wire_follow_up(parts: Parts, panels: Panels, handlers: Handlers) -> Any:
    def follow(session: Session, text: str, how: str, task: str) -> Iterator[list[Any]]:
        yield from streamed(session, handlers.follow_up(session, text, how, task or ""))

    return gr.on(
        [panels.follow.click, panels.follow_text.submit],
        follow,
        [parts.session, panels.follow_text, panels.follow_how, panels.follow_task],
        parts.outputs,
        concurrency_limit=handlers.settings.concurrency,
        show_progress_on=[parts.regions["message"]],
        **RUNNING,
    )


def _wire_three(parts: Parts, panels: Panels, handlers: Handlers) -> Any:
    def three(
        session: Session, image: str | None, example: str | None, question: str, find: str, *values: Any
    ) -> Iterator[list[Any]]:
        ask, sides = read_form(values)
        forms = [
            AskForm("captioning", mode=ask.mode),
            AskForm("vqa", question, mode=ask.mode),
            AskForm("grounding", find or (ask.text if ask.task == "grounding" else ""), mode=ask.mode),
        ]
        yield from streamed(session, handlers.three(session, image, forms, sides, example=example))

    return panels.three.click(
        three,
        [parts.session, parts.picture, parts.example, panels.three_question, panels.three_find, *parts.form],
        parts.outputs,
        concurrency_limit=handlers.settings.concurrency,
        show_progress_on=[parts.regions["message"]],
        **RUNNING,
    )


def _wire_votes(parts: Parts, panels: Panels, handlers: Handlers, votes: Votes) -> None:
    def vote(choice: str) -> Any:
        def cast(session: Session, note: str, consent: bool) -> list[Any]:
            run = session.current
            try:
                if run is None or not any(part.steps or part.answer for part in run.sides.values()):
                    raise RequestError("There is nothing to vote on yet.")
                votes.add(run, choice, note, consent=bool(consent))
            except VLCompareError as error:
                return [cards.message(str(error), "error"), *outputs_of(session, {})]
            was_hidden = run.hidden
            run.voted = choice
            said = f"Stored: {CHOICES[choice].lower()}."
            if was_hidden:
                names = " and ".join(" · ".join(filter(None, cards.side_name(run, side))) for side in SIDES)
                said += f" Left and right were {names}."
            shown = handlers.whole(session, run) if was_hidden and run.done else {}
            return [cards.message(said), *outputs_of(session, shown)]

        return cast

    for name, button in panels.votes.items():
        button.click(
            vote(name),
            [parts.session, panels.note, panels.consent],
            [panels.vote_message, *parts.outputs],
            **QUIET,
        )


def _wire_files(parts: Parts, panels: Panels, handlers: Handlers, votes: Votes) -> None:
    def current(session: Session) -> Run:
        if session.current is None or not session.current.done:
            raise gr.Error("There is no finished run to export yet.", print_exception=False)
        return session.current

    def save(session: Session) -> str:
        run = current(session)
        return files.write_file(f"vlcompare-{run.id}.json", json.dumps(files.run_to_json(run)).encode())

    def picture(session: Session) -> str:
        run = current(session)
        return files.write_file(f"vlcompare-{run.id}.png", files.annotated_picture(run))

    def comparator(session: Session) -> str:
        try:
            found = files.to_llm_comparator(session.history)
        except VLCompareError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return files.write_file("llm-comparator.json", json.dumps(found, indent=1).encode())

    def my_votes(session: Session) -> str:
        try:
            table = votes.export({run.id for run in (*session.history, session.current) if run})
        except VLCompareError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return files.write_file("votes.csv", table.encode())

    for button, make in (
        (panels.save, save),
        (panels.picture, picture),
        (panels.comparator, comparator),
        (panels.my_votes, my_votes),
    ):
        download(button, make, [parts.session], panels.file)

    def load(session: Session, path: str | None) -> list[Any]:
        nothing = [gr.skip()] * (2 + len(parts.form))
        if not path:
            return [*outputs_of(session, {}), *nothing]
        try:
            limits = handlers.settings.limits
            data = read_file(path, limits.import_bytes, "file of the run")
            run = files.run_from_json(data, limits, handlers.open_image)
        except VLCompareError as error:
            return [*outputs_of(session, {"message": cards.message(str(error), "error")}), *nothing]
        session.remember(run)
        page = handlers.restore(session, run.id)
        page["message"] = cards.message("Imported: shown as it was exported, nothing was run again.")
        return [*outputs_of(session, page), *form_values(run)]

    panels.load.upload(
        load, [parts.session, panels.load], [*parts.outputs, parts.picture, parts.example, *parts.form], **QUIET
    )


def _wire_link(parts: Parts, panels: Panels, handlers: Handlers, page: gr.Blocks) -> None:
    settings = handlers.settings

    def link(request: gr.Request, example: str | None, *values: Any) -> str:
        ask, sides = read_form(values)
        base = str(request.request.base_url) if request and request.request else "/"
        return base.rstrip("/") + "/" + permalink.write(permalink.Link(ask, sides, example), settings)

    gr.on(
        [component.change for component in (*parts.form, parts.example)],  # type: ignore[attr-defined]
        link,
        [parts.example, *parts.form],
        panels.link,
        trigger_mode="always_last",
        **QUIET,
    )

    def opened(session: Session, request: gr.Request) -> list[Any]:
        found = permalink.read(dict(request.query_params), settings)
        example = find_example(found.example)
        if example is None and not set(request.query_params) & {"task", "text"} and load_examples():
            example = load_examples()[0]  # the page opens with something to compare
        ask = question(found.ask, example)
        fields = [getattr(ask, name) for name in ASK_FIELDS]
        sides = [getattr(found.sides[side], name) for side in SIDES for name in SIDE_FIELDS]
        chosen = example.id if example else None
        shown = handlers.recorded(session, example, found.sides) if example and asks(example, ask) else {}
        image = str(example.image) if example else None
        return [image, chosen, examples_view(chosen), *fields, *sides, *outputs_of(session, shown)]

    page.load(
        opened,
        [parts.session],
        [parts.picture, parts.example, parts.examples, *parts.form, *parts.outputs],
        **QUIET,
    )
