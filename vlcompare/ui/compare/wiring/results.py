"""Which event of the compare tab's results calls which action: history, votes, files; and what the page opens with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.types import SIDES
from vlcompare.ui.compare import cards, files, permalink, views
from vlcompare.ui.compare.example_buttons import examples_view
from vlcompare.ui.compare.example_questions import asks, find_example, question
from vlcompare.ui.compare.form_values import ASK_FIELDS, form_values, side_values
from vlcompare.ui.compare.forms import SIDE_FIELDS, AskForm
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.layout.tab import Parts, outputs_of
from vlcompare.ui.compare.page_update import CompareUpdate, error_update
from vlcompare.ui.compare.session import CompareSession, Run
from vlcompare.ui.compare.votes import Votes, cast, tally
from vlcompare.ui.events import QUIET, TO_TOP, chosen, download, on_request
from vlcompare.ui.examples import Example, load_examples
from vlcompare.ui.server.uploads import read_file
from vlcompare.ui.settings import AppSettings

NAMES_MODELS = "The file names the models: vote first."


def wire_results(parts: Parts, handlers: Handlers, votes: Votes, page: gr.Blocks) -> None:
    """Connect what can be done with a run that has ended, and what the page opens with."""
    _wire_order(parts)
    _wire_history(parts, handlers)
    _wire_votes(parts, votes)
    _wire_downloads(parts, votes)
    _wire_import(parts, handlers)
    _wire_opening(parts, handlers, page)


def _wire_order(parts: Parts) -> None:
    """What the page's script asks for once an older event's regions were shown over newer ones (see `compare.js`)."""

    def show_again(session: CompareSession) -> list[Any]:
        if session.shown is None:
            return outputs_of(session, {})
        session.changes += 1  # the comparison that is running sends all of its regions again
        page = views.whole(session, session.shown)
        del page["message"], page["vote"]  # these may be about what was pressed since
        return outputs_of(session, page)

    on_request("again", show_again, [parts.session], parts.outputs)


def _wire_history(parts: Parts, handlers: Handlers) -> None:
    def restore(session: CompareSession, event: gr.EventData) -> list[Any]:
        run_id = str(chosen(event))
        page = handlers.restore(session, run_id)
        return [*outputs_of(session, page), *form_values(session.find(run_id))]

    for name in ("history", "three"):
        restored = parts.regions[name].click(  # type: ignore[attr-defined]
            restore, [parts.session], [*parts.outputs, *parts.settings], **QUIET
        )
        restored.then(None, js=TO_TOP)


def _wire_votes(parts: Parts, votes: Votes) -> None:
    panels = parts.panels
    sides = parts.form[len(ASK_FIELDS) :]

    def vote(choice: str) -> Callable[..., list[Any]]:
        def vote_of(session: CompareSession, note: str, consent: bool) -> list[Any]:
            run, same = session.shown, [gr.skip()] * (len(sides) + 1)
            try:
                if run is None or not any(part.steps or part.answer for part in run.sides.values()):
                    raise RequestError("There is nothing to vote on yet.")
                was_hidden = run.hidden
                sentence = cast(votes, session, run, choice, note or "", consent=bool(consent))
            except VLCompareError as error:
                return [*outputs_of(session, {"vote": cards.message(str(error), "error")}), *same]
            written = "" if consent else gr.skip()  # it is stored: the next vote has a note of its own
            if not was_hidden:
                return [*outputs_of(session, {"vote": cards.message(sentence)}), *same[1:], written]
            names = " and ".join(" · ".join(filter(None, cards.side_name(run, side))) for side in SIDES)
            session.show(run)
            update = views.whole(session, run) if run.done else {}
            update["vote"] = cards.message(f"{sentence} Left and right were {names}. {tally(session)}".strip())
            # the settings go along with the names: which side is which is known from here on
            return [*outputs_of(session, update), *side_values(run), written]

        return vote_of

    inputs = [parts.session, panels["note"], panels["consent"]]
    for name, button in panels["votes"].items():
        button.click(vote(name), inputs, [*parts.outputs, *sides, panels["note"]], **QUIET)

    def consent(on: Any) -> Any:
        return gr.update(visible=bool(on))

    panels["consent"].change(consent, panels["consent"], panels["note"], **QUIET)


def _wire_downloads(parts: Parts, votes: Votes) -> None:
    panels = parts.panels

    def current(session: CompareSession) -> Run:
        if session.shown is None or not session.shown.done:
            raise RequestError("There is no finished run to save yet.")
        return session.shown

    def save(session: CompareSession) -> str:
        run = current(session)
        if run.hidden:
            raise RequestError(NAMES_MODELS)
        return files.write_file(f"vlcompare-{run.id}.json", json.dumps(files.run_to_json(run)).encode())

    def picture(session: CompareSession) -> str:
        run = current(session)
        return files.write_file(f"vlcompare-{run.id}.png", files.card_picture(run))

    def comparator(session: CompareSession) -> str:
        runs = [run for run in session.history if not run.hidden]
        if session.history and not runs:
            raise RequestError(NAMES_MODELS)
        table = files.to_llm_comparator(runs)
        return files.write_file("llm-comparator.json", json.dumps(table, indent=1).encode())

    def my_votes(session: CompareSession) -> str:
        runs = session.stored | {run.id for run in (*session.history, session.shown) if run}
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
        page = handlers.show(session, run, "Opened as it was saved: nothing was run again.")
        return [*outputs_of(session, page), *form_values(run)]

    outputs = [*parts.outputs, *parts.settings]
    loaded = parts.panels["load"].upload(load, [parts.session, parts.panels["load"]], outputs, **QUIET)
    loaded.then(None, js=TO_TOP)


def opening_example(settings: AppSettings, query: Mapping[str, str]) -> Example | None:
    """The example that the page opens with: the link's, or the first one where the link asks nothing."""
    example = find_example(permalink.read(query, settings).example)
    if example is None and not set(query) & {"task", "text"} and load_examples():
        return load_examples()[0]
    return example


def first_page(settings: AppSettings, handlers: Handlers) -> tuple[Example | None, CompareUpdate]:
    """What the page without a link's query opens with, for `layout.build`; nothing where that takes other fields."""
    example = opening_example(settings, {})
    if example is None or example.task != "grounding":
        return None, {}
    session = CompareSession()
    page = handlers.recorded(session, example, permalink.default_sides(settings))
    return (example, {**page, "state": views.state(session, built=True)}) if page else (None, {})


def _wire_opening(parts: Parts, handlers: Handlers, page: gr.Blocks) -> None:
    built = parts.example.value

    def opened(session: CompareSession, request: gr.Request) -> list[Any]:
        query = dict(request.query_params)
        link, example = permalink.read(query, handlers.settings), opening_example(handlers.settings, query)
        ask = question(link.ask, example)
        update = handlers.recorded(session, example, link.sides) if example and asks(example, ask) else {}
        plain = (link.ask, link.sides) == (AskForm(), permalink.default_sides(handlers.settings))
        if update and plain and example and example.id == built:  # all of it is there, but who shows it
            return [*[gr.skip()] * len(parts.settings), *outputs_of(session, {"state": update["state"]})]
        fields = [getattr(ask, name) for name in ASK_FIELDS]
        sides = [getattr(link.sides[side], name) for side in SIDES for name in SIDE_FIELDS]
        image, chosen_id = (str(example.image), example.id) if example else (None, None)
        update = update or views.empty(session)  # the page may have been built with an example's answers
        return [image, chosen_id, examples_view(chosen_id), *fields, *sides, *outputs_of(session, update)]

    page.load(opened, [parts.session], [*parts.settings, *parts.outputs], **QUIET)
