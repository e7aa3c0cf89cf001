"""Which event of the inspect tab calls which action, and how an action's update becomes the values of components."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from vlcompare.errors import RequestError
from vlcompare.evaluate.results.notes import ERROR_TYPES, Note
from vlcompare.types import SIDES
from vlcompare.ui.compare import views
from vlcompare.ui.compare.cards import message
from vlcompare.ui.compare.example_buttons import examples_view
from vlcompare.ui.compare.finding import finding_of
from vlcompare.ui.compare.forms import SIDE_FIELDS
from vlcompare.ui.compare.layout.tab import outputs_of
from vlcompare.ui.compare.page_update import CompareUpdate
from vlcompare.ui.compare.session import CompareSession
from vlcompare.ui.events import HIDDEN, QUIET, READING, TO_TOP, chosen, download, on_changes
from vlcompare.ui.inspect import files, handlers
from vlcompare.ui.inspect.handlers import InspectUpdate
from vlcompare.ui.inspect.layout import EXPORTS, FORM, InspectParts
from vlcompare.ui.inspect.session import Inspection
from vlcompare.ui.settings import AppSettings

REPLIED = "() => window.vlInspect && window.vlInspect.replied()"
SLICED = "() => window.vlInspect && window.vlInspect.sliced()"
BACK = "() => window.vlInspect && window.vlInspect.back()"
RETURN = "() => window.vlInspect && window.vlInspect.returned()"
APPLY = "(...values) => window.vlInspect ? window.vlInspect.apply(...values) : values.slice(1)"
EDIT = "(...values) => [...values.slice(0, -1), window.vlInspect.edit()]"
BESIDE = "(session) => [session, window.matchMedia('(min-width: 901px)').matches]"  # as in inspect.css
FILL = "(found) => window.vlInspect && window.vlInspect.fill(found)"

Listener = Callable[..., list[Any]]


def wire(parts: InspectParts, settings: AppSettings, page: gr.Blocks, compare: Any, tabs: gr.Tabs) -> None:
    """Connect the tab's components.

    page: opens the first run when it is loaded; compare and tabs: the compare tab's components and the tabs, to ask a
    sample's question again.
    """
    _wire_opening(parts, settings, page)
    _wire_selection(parts)
    _wire_thumbnails(parts)
    _wire_note(parts)
    _wire_exports(parts)
    _wire_compare(parts, settings, compare, tabs)
    _wire_finding(parts, compare, tabs)


def _outputs(parts: InspectParts, inspection: Inspection, update: InspectUpdate) -> list[Any]:
    """An update in the order of the outputs, the session last; what is not in it stays as it is."""
    values: dict[str, Any] = dict(update)
    if "form" in update:
        values |= {name: getattr(update["form"], name) for name in FORM}
    if "note" in update:
        values["note"] = json.dumps(_note_form(inspection, update["note"]))
    if "controls" in update:
        values |= _lists(inspection)
    elif "note_state" in update:  # the note may have added a tag, or removed its last use
        values |= _tags(inspection)
    return [*(values.get(name, gr.skip()) for name in parts.names), inspection]


def _lists(inspection: Inspection) -> dict[str, Any]:
    """The lists that depend on what is open."""
    sides = [(title, value) for value, title in inspection.side_choices()]
    opened = list(inspection.open)
    named = inspection.data.dimensions if inspection.data else {}
    dimensions = [(title, name) for name, title in named.items()]
    return {
        "runs": gr.update(choices=list(dict.fromkeys([*inspection.library.listed(), *opened])), value=opened),
        "left": gr.update(choices=sides, value=inspection.left or None),
        "right": gr.update(choices=[("– none –", ""), *sides], value=inspection.right),
        "dimension": gr.update(choices=dimensions, value=inspection.dimension if dimensions else None),
        **_tags(inspection),
    }


def _tags(inspection: Inspection) -> dict[str, Any]:
    tags = inspection.data.run.notes.tags() if inspection.data else ERROR_TYPES
    return {"tag": gr.update(choices=[("Any", ""), *((tag, tag) for tag in tags)])}


def _note_form(inspection: Inspection, note: Note | None) -> list[Any]:
    """What the note's form holds for the open sample; empty where none is open. In the order of `parts.note`."""
    note = note or Note("")
    own = ", ".join(tag for tag in note.tags if tag not in ERROR_TYPES)
    return [inspection.form_of(note.sample), [tag for tag in note.tags if tag in ERROR_TYPES], own, note.text]


def _apply_note(parts: InspectParts, event: Any) -> Any:
    """Once the event's reply is shown, write the open sample's note into the form, unless the form is of it already:
    it may have been written into since. Decided in the page, since replies may come in another order than requests."""
    form = list(parts.note.values())
    return event.success(None, [parts.fields["note"], *form], form, js=APPLY, **HIDDEN)


def _listener(parts: InspectParts, act: Callable[..., InspectUpdate]) -> Listener:
    """What an event calls to run an action: the inspection and the inputs' values in, the outputs' values out."""

    def listener(inspection: Inspection, *values: Any) -> list[Any]:
        return _outputs(parts, inspection, act(inspection, *values))

    listener.__name__ = act.__name__  # gradio names the endpoint after it
    return listener


def _wire_opening(parts: InspectParts, settings: AppSettings, page: gr.Blocks) -> None:
    fields, session, outputs = parts.fields, parts.session, parts.outputs
    # one timer, not one on each output
    reading = {**READING, "show_progress": "minimal", "show_progress_on": [parts.regions["head"]]}

    def start(inspection: Inspection, beside: bool) -> list[Any]:
        return _outputs(parts, inspection, handlers.start(inspection, beside=bool(beside)))

    loaded = page.load(start, [session, parts.beside], outputs, js=BESIDE, **READING)  # the head says what is read
    _apply_note(parts, loaded)
    listener = _listener(parts, handlers.choose)
    _apply_note(parts, fields["runs"].input(listener, [session, fields["runs"]], outputs, **reading))

    def upload(inspection: Inspection, path: Any) -> InspectUpdate:
        return files.upload(inspection, path, settings.limits)

    inputs = [session, parts.buttons["upload"]]
    _apply_note(parts, parts.buttons["upload"].upload(_listener(parts, upload), inputs, outputs, **reading))
    sides = [fields["left"], fields["right"]]
    changed = [side.input for side in sides]
    set_sides = _listener(parts, handlers.set_sides)
    _apply_note(parts, gr.on(changed, set_sides, [session, *sides], outputs, **reading))


def _wire_selection(parts: InspectParts) -> None:
    fields, session, outputs = parts.fields, parts.session, parts.outputs

    def click(inspection: Inspection, event: gr.EventData) -> list[Any]:
        return _outputs(parts, inspection, handlers.click(inspection, str(chosen(event))))

    for name in ("offer", "headline", "quadrants", "differences", "charts", "slices", "chips", "table", "figures"):
        clicked = parts.regions[name].click(click, [session], outputs, trigger_mode="multiple", **QUIET)
        _replied(parts, clicked)
        if name in ("differences", "slices"):
            clicked.then(None, js=SLICED)

    def previous(inspection: Inspection) -> InspectUpdate:
        return handlers.step(inspection, -1)

    def following(inspection: Inspection) -> InspectUpdate:
        return handlers.step(inspection, 1)

    for name, step in (("previous", previous), ("next", following)):
        listener = _listener(parts, step)
        clicked = parts.buttons[name].click(listener, [session], outputs, trigger_mode="multiple", **QUIET)
        _replied(parts, clicked)

    def fill(inspection: Inspection, *values: Any) -> list[Any]:
        found = dict(zip(parts.names, _outputs(parts, inspection, handlers.fill(inspection, *values)), strict=False))
        return [found[name] for name in (*parts.regions, *filled)]

    filled = ("measure", "note")  # not the form itself, which is being written into
    parts.buttons["back"].click(None, js=BACK)
    form = [fields[name] for name in FORM]
    # "change", not "input": after the server has written into a text field, its first input event is not sent. What
    # the server wrote comes back this way too, and changes nothing
    outputs_of_fill = [*parts.regions.values(), *(fields[name] for name in filled)]
    _apply_note(parts, on_changes("filters", form, fill, [session, *form], outputs_of_fill))
    for name, act in (("dimension", handlers.slice_by), ("measure", handlers.draw)):
        fields[name].input(_listener(parts, act), [session, fields[name]], outputs, **QUIET)


def _replied(parts: InspectParts, clicked: Any) -> None:
    """Tell the page's script when the reply to a click is shown, or has failed."""
    for ended in (_apply_note(parts, clicked).success, clicked.failure):
        ended(None, js=REPLIED, show_progress="hidden")


def _wire_thumbnails(parts: InspectParts) -> None:
    """The page requests the thumbnails that are in view and inserts them."""

    def make(inspection: Inspection, event: gr.EventData) -> str:
        names = chosen(event, "names")
        return json.dumps(handlers.thumbnails(inspection, names if isinstance(names, list) else []))

    found = parts.thumbnails
    asked = parts.regions["table"].input(make, [parts.session], [found], trigger_mode="multiple", **QUIET)
    asked.then(None, [found], None, js=FILL)


def _wire_note(parts: InspectParts) -> None:
    def save(
        inspection: Inspection, form_of: str, types: list[str], own: str, text: str, edit: float | None
    ) -> InspectUpdate:
        tags = [*(types or []), *(own or "").split(",")]
        return handlers.note(inspection, form_of or "", tags, text or "", edit or 0)

    _, types, own_tags, text = parts.note.values()
    changed = [types.input, own_tags.blur, own_tags.submit, text.blur, text.submit]
    inputs = [parts.session, *parts.note.values(), parts.edit]
    gr.on(changed, _listener(parts, save), inputs, parts.outputs, js=EDIT, trigger_mode="multiple", **QUIET)


def _wire_exports(parts: InspectParts) -> None:
    def maker(kind: str) -> Callable[[Inspection, bool], str]:
        def make(inspection: Inspection, only: bool) -> str:
            return files.export_file(inspection, kind, only=bool(only))

        return make

    for kind in EXPORTS:
        inputs = [parts.session, parts.fields["only"]]
        download(parts.buttons[kind], maker(kind), inputs, parts.buttons["download"])


def _wire_compare(parts: InspectParts, settings: AppSettings, compare: Any, tabs: gr.Tabs) -> None:
    """Show the open sample on the compare tab with its stored answers, ready to be asked again; and the way back."""

    def ask(inspection: Inspection, session: CompareSession) -> list[Any]:
        values = files.compare_values(inspection, settings)
        if values is None:
            raise RequestError("Choose a sample from the list first.")
        picture, ask_values, sides = values
        flat = [sides.get(side, {}).get(name, gr.skip()) for side in SIDES for name in SIDE_FIELDS]
        form = [picture, None, examples_view(None), *ask_values, *flat]
        stored, update = files.stored_run(inspection), CompareUpdate()
        if stored is not None:
            session.show(stored)
            update = {**views.whole(session, stored), "message": message("")}
        return [gr.update(selected="compare"), *form, *outputs_of(session, update)]

    asked = parts.buttons["ask"].click(
        ask, [parts.session, compare.session], [tabs, *compare.settings, *compare.outputs], **QUIET
    )
    asked.then(None, js=TO_TOP)

    def back(inspection: Inspection, session: CompareSession) -> list[Any]:
        stored = session.shown.stored if session.shown else None
        update = handlers.return_to(inspection, stored.evaluation, stored.sample) if stored else InspectUpdate()
        return [gr.update(selected="inspect"), *_outputs(parts, inspection, update), session]

    returned = compare.regions["asked"].click(
        back, [parts.session, compare.session], [tabs, *parts.outputs, compare.session], **QUIET
    )
    _apply_note(parts, returned).then(None, js=RETURN)


def _wire_finding(parts: InspectParts, compare: Any, tabs: gr.Tabs) -> None:
    """From one picture's answers to the run that asked many such questions."""

    def show(inspection: Inspection, session: CompareSession) -> list[Any]:
        found = finding_of(session.shown) if session.shown else None
        if found is None:
            return [gr.skip(), *_outputs(parts, inspection, InspectUpdate()), session]
        update = handlers.show_task(inspection, found.folder, found.task, swapped=found.swapped)
        return [gr.update(selected="inspect"), *_outputs(parts, inspection, update), session]

    shown = compare.regions["finding"].click(
        show, [parts.session, compare.session], [tabs, *parts.outputs, compare.session], **QUIET
    )
    _apply_note(parts, shown).then(None, js=TO_TOP)
