"""Which event of the compare tab's lower panels calls which action: history, votes, exports, import and the link."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.types import SIDES
from vlcompare.ui.compare import cards, files, permalink
from vlcompare.ui.compare.example_questions import asks, find_example, question
from vlcompare.ui.compare.form_values import ASK_FIELDS, form_values, read_form
from vlcompare.ui.compare.forms import SIDE_FIELDS
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.layout import Parts, examples_view, outputs_of
from vlcompare.ui.compare.page_update import error_update
from vlcompare.ui.compare.session import CompareSession, Run
from vlcompare.ui.compare.votes import CHOICES, Votes
from vlcompare.ui.events import QUIET, chosen, download
from vlcompare.ui.examples import load_examples
from vlcompare.ui.server.uploads import read_file


def wire_results(parts: Parts, handlers: Handlers, votes: Votes, page: gr.Blocks) -> None:
    """Connect what can be done with a run that has ended, and the page's link."""
    _wire_history(parts, handlers)
    _wire_votes(parts, handlers, votes)
    _wire_downloads(parts, votes)
    _wire_import(parts, handlers)
    _wire_link(parts, handlers)
    _wire_opening(parts, handlers, page)


def _wire_history(parts: Parts, handlers: Handlers) -> None:
    def restore(session: CompareSession, event: gr.EventData) -> list[Any]:
        run_id = str(chosen(event))
        page = handlers.restore(session, run_id)
        return [*outputs_of(session, page), *form_values(session.find(run_id))]

    gr.on(
        [parts.regions[name].click for name in ("history", "three")],  # type: ignore[attr-defined]
        restore,
        [parts.session],
        [*parts.outputs, parts.picture, parts.example, *parts.form],
        **QUIET,
    )


def _wire_votes(parts: Parts, handlers: Handlers, votes: Votes) -> None:
    panels = parts.panels

    def vote(choice: str) -> Callable[..., list[Any]]:
        def cast(session: CompareSession, note: str, consent: bool) -> list[Any]:
            run = session.current
            try:
                if run is None or not any(part.steps or part.answer for part in run.sides.values()):
                    raise RequestError("There is nothing to vote on yet.")
                votes.add(run, choice, note, consent=bool(consent))
            except VLCompareError as error:
                return [cards.message(str(error), "error"), *outputs_of(session, {})]
            was_hidden = run.hidden
            run.voted = choice
            sentence = f"Stored: {CHOICES[choice].lower()}."
            if was_hidden:
                names = " and ".join(" · ".join(filter(None, cards.side_name(run, side))) for side in SIDES)
                sentence += f" Left and right were {names}."
            update = handlers.whole(session, run) if was_hidden and run.done else {}
            return [cards.message(sentence), *outputs_of(session, update)]

        return cast

    inputs = [parts.session, panels["note"], panels["consent"]]
    for name, button in panels["votes"].items():
        button.click(vote(name), inputs, [panels["vote_message"], *parts.outputs], **QUIET)


def _wire_downloads(parts: Parts, votes: Votes) -> None:
    panels = parts.panels

    def current(session: CompareSession) -> Run:
        if session.current is None or not session.current.done:
            raise RequestError("There is no finished run to export yet.")
        return session.current

    def save(session: CompareSession) -> str:
        run = current(session)
        return files.write_file(f"vlcompare-{run.id}.json", json.dumps(files.run_to_json(run)).encode())

    def picture(session: CompareSession) -> str:
        run = current(session)
        return files.write_file(f"vlcompare-{run.id}.png", files.annotated_picture(run))

    def comparator(session: CompareSession) -> str:
        table = files.to_llm_comparator(session.history)
        return files.write_file("llm-comparator.json", json.dumps(table, indent=1).encode())

    def my_votes(session: CompareSession) -> str:
        runs = {run.id for run in (*session.history, session.current) if run}
        return files.write_file("votes.csv", votes.export(runs).encode())

    for name, make in {"save": save, "annotated": picture, "comparator": comparator, "my_votes": my_votes}.items():
        download(panels[name], make, [parts.session], panels["file"])


def _wire_import(parts: Parts, handlers: Handlers) -> None:
    def load(session: CompareSession, path: str | None) -> list[Any]:
        if not path:
            return [*outputs_of(session, {}), *form_values(None)]
        limits = handlers.settings.limits
        try:
            data = read_file(path, limits.import_bytes, "file of the run")
            run = files.run_from_json(data, limits, handlers.open_image)
        except VLCompareError as error:
            return [*outputs_of(session, error_update(error)), *form_values(None)]
        session.remember(run)
        page = handlers.restore(session, run.id)
        page["message"] = cards.message("Imported: shown as it was exported, nothing was run again.")
        return [*outputs_of(session, page), *form_values(run)]

    outputs = [*parts.outputs, parts.picture, parts.example, *parts.form]
    parts.panels["load"].upload(load, [parts.session, parts.panels["load"]], outputs, **QUIET)


def _wire_link(parts: Parts, handlers: Handlers) -> None:
    def link(request: gr.Request, example: str | None, *values: Any) -> str:
        ask, sides = read_form(values)
        base = str(request.request.base_url) if request and request.request else "/"
        return base.rstrip("/") + "/" + permalink.write(permalink.Link(ask, sides, example), handlers.settings)

    gr.on(
        [component.change for component in (*parts.form, parts.example)],  # type: ignore[attr-defined]
        link,
        [parts.example, *parts.form],
        parts.panels["link"],
        trigger_mode="always_last",
        **QUIET,
    )


def _wire_opening(parts: Parts, handlers: Handlers, page: gr.Blocks) -> None:
    def opened(session: CompareSession, request: gr.Request) -> list[Any]:
        query = dict(request.query_params)
        link = permalink.read(query, handlers.settings)
        example = find_example(link.example)
        if example is None and not set(query) & {"task", "text"} and load_examples():
            example = load_examples()[0]  # the page opens with something to compare
        ask = question(link.ask, example)
        fields = [getattr(ask, name) for name in ASK_FIELDS]
        sides = [getattr(link.sides[side], name) for side in SIDES for name in SIDE_FIELDS]
        update = handlers.recorded(session, example, link.sides) if example and asks(example, ask) else {}
        image, chosen_id = (str(example.image), example.id) if example else (None, None)
        return [image, chosen_id, examples_view(chosen_id), *fields, *sides, *outputs_of(session, update)]

    outputs = [parts.picture, parts.example, parts.examples, *parts.form, *parts.outputs]
    page.load(opened, [parts.session], outputs, **QUIET)
