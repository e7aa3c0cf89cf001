"""Which event of the inspect tab calls which action, and what it may change. No markup, no logic of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from vlcompare.errors import VLCompareError
from vlcompare.evaluate.results.notes import ERROR_TYPES
from vlcompare.render.markup import el
from vlcompare.types import SIDES
from vlcompare.ui.compare.forms import SIDE_FIELDS
from vlcompare.ui.events import QUIET, chosen, download
from vlcompare.ui.inspect import files as files
from vlcompare.ui.inspect import handlers as actions
from vlcompare.ui.inspect.handlers import Page
from vlcompare.ui.inspect.layout import EXPORTS, FORM, InspectParts
from vlcompare.ui.inspect.session import Inspection
from vlcompare.ui.inspect.views import nothing
from vlcompare.ui.settings import AppSettings

READING: dict[str, Any] = {"show_progress": "minimal", "api_visibility": "private", "concurrency_limit": 4}
SHOW = "() => window.vlInspect && window.vlInspect.shown()"


def wire(
    parts: InspectParts, settings: AppSettings, *, page: gr.Blocks | None, compare: Any, tabs: gr.Tabs | None
) -> None:
    """Connect the tab's components."""
    _wire_opening(parts, settings, page)
    _wire_selection(parts)
    _wire_steps(parts)
    _wire_notes(parts)
    _wire_exports(parts)
    if compare is not None and tabs is not None:
        _wire_compare(parts, settings, compare, tabs)


def _outputs(parts: InspectParts, inspection: Inspection, page: Page) -> list[Any]:
    """An action's page in the order of the outputs, the session last; what is not in it stays as it is."""
    found = dict(page)
    query, note = found.pop("form", None), found.pop("note", ...)
    if query is not None:
        found.update(zip(FORM, actions.reset(query), strict=True))
    if note is not ...:
        found.update(_note_fields(note))
    if found.pop("controls", False):
        found.update(_controls(inspection))
    return [*(found.get(name, gr.skip()) for name in parts.names), inspection]


def _controls(inspection: Inspection) -> dict[str, Any]:
    """The lists that depend on what is open."""
    sides = [(title, value) for value, title in inspection.side_choices()]
    places = [place.key for place in inspection.catalogue.places()]
    opened = list(inspection.open)
    dimensions = actions.dimension_choices(inspection)
    return {
        "runs": gr.update(choices=list(dict.fromkeys([*places, *opened])), value=opened),
        "left": gr.update(choices=sides, value=inspection.left or None),
        "right": gr.update(choices=[("– none –", ""), *sides], value=inspection.right),
        "dimension": gr.update(choices=dimensions, value=inspection.dimension if dimensions else None),
        "measure": inspection.measure,
        **_tag_lists(inspection),
    }


def _tag_lists(inspection: Inspection) -> dict[str, Any]:
    tags = inspection.data.run.notes.tags() if inspection.data else ERROR_TYPES
    return {"tag": gr.update(choices=[("Any", ""), *((tag, tag) for tag in tags)])}


def _note_fields(note: Any) -> dict[str, Any]:
    """The note's form for the open sample."""
    if note is None:
        return {"note_for": "", "types": [], "own_tags": "", "note_text": ""}
    own = [tag for tag in note.tags if tag not in ERROR_TYPES]
    return {
        "note_for": note.sample,
        "types": [tag for tag in note.tags if tag in ERROR_TYPES],
        "own_tags": ", ".join(own),
        "note_text": note.text,
    }


def _wire_opening(parts: InspectParts, settings: AppSettings, page: gr.Blocks | None) -> None:
    fields, session = parts.fields, parts.session

    def start(inspection: Inspection) -> Iterator[list[Any]]:
        first = inspection.catalogue.first()
        if first is not None and not inspection.open:
            yield _outputs(parts, inspection, {"head": nothing(f"Reading {first.title} …")})
        yield _outputs(parts, inspection, actions.start(inspection))

    if page is not None:
        page.load(start, [session], parts.outputs, **READING)

    def choose(inspection: Inspection, keys: list[str] | None) -> list[Any]:
        return _outputs(parts, inspection, actions.choose(inspection, keys))

    fields["runs"].input(choose, [session, fields["runs"]], parts.outputs, **READING)  # type: ignore[attr-defined]

    def upload(inspection: Inspection, path: str | None) -> list[Any]:
        return _outputs(parts, inspection, files.upload(inspection, path, settings.limits))

    parts.buttons["upload"].upload(upload, [session, parts.buttons["upload"]], parts.outputs, **READING)

    def sides(inspection: Inspection, left: str, right: str) -> list[Any]:
        return _outputs(parts, inspection, actions.set_sides(inspection, left, right))

    gr.on(
        [fields["left"].input, fields["right"].input],  # type: ignore[attr-defined]
        sides,
        [session, fields["left"], fields["right"]],
        parts.outputs,
        **READING,
    )


def _wire_selection(parts: InspectParts) -> None:
    fields, session = parts.fields, parts.session

    def click(inspection: Inspection, event: gr.EventData) -> list[Any]:
        return _outputs(parts, inspection, actions.click(inspection, str(chosen(event))))

    for name in ("quadrants", "charts", "slices", "chips", "table", "figures"):
        happened = parts.regions[name].click(click, [session], parts.outputs, trigger_mode="multiple", **QUIET)  # type: ignore
        if name in ("charts", "table"):
            happened.then(None, js=SHOW)

    def fill(inspection: Inspection, *values: Any) -> list[Any]:
        return _outputs(parts, inspection, actions.fill(inspection, *values))[: len(parts.regions)]

    form = [fields[name] for name in FORM]
    # "change", not "input": the first input after the server has written into a text field is not told of. What the
    # server wrote comes back this way too, and changes nothing
    changed = [fields[name].change for name in FORM]  # type: ignore[attr-defined]
    gr.on(changed, fill, [session, *form], list(parts.regions.values()), trigger_mode="always_last", **QUIET)

    def slice_by(inspection: Inspection, name: str) -> list[Any]:
        return _outputs(parts, inspection, actions.look(inspection, dimension=name))

    def draw(inspection: Inspection, name: str) -> list[Any]:
        return _outputs(parts, inspection, actions.look(inspection, measure=name))

    fields["dimension"].input(slice_by, [session, fields["dimension"]], parts.outputs, **QUIET)  # type: ignore
    fields["measure"].input(draw, [session, fields["measure"]], parts.outputs, **QUIET)  # type: ignore


def _wire_steps(parts: InspectParts) -> None:
    def stepper(by: int) -> Callable[[Inspection], list[Any]]:
        return lambda inspection: _outputs(parts, inspection, actions.step(inspection, by))

    for name, by in (("previous", -1), ("next", 1)):
        happened = parts.buttons[name].click(
            stepper(by), [parts.session], parts.outputs, trigger_mode="multiple", **QUIET
        )
        happened.then(None, js=SHOW)


def _wire_notes(parts: InspectParts) -> None:
    fields = parts.fields
    names = ("note_for", "types", "own_tags", "note_text")

    def save(inspection: Inspection, sample: str, types: list[str], own: str, text: str) -> list[Any]:
        page = actions.note(inspection, sample, [*(types or []), *(own or "").split(",")], text or "")
        state = page.pop("note_state", None)
        found = _outputs(parts, inspection, page)
        lists = _tag_lists(inspection) if state else {}
        at = {name: index for index, name in enumerate(parts.names)}
        for name, value in lists.items():
            found[at[name]] = value
        if state:
            found[at["note_state"]] = el("p", state, class_="vl-note", role="status")
        return found

    written = [getattr(fields[name], event) for name in ("own_tags", "note_text") for event in ("blur", "submit")]
    gr.on(
        [fields["types"].input, *written],  # type: ignore[attr-defined]
        save,
        [parts.session, *(fields[name] for name in names)],
        parts.outputs,
        trigger_mode="multiple",
        **QUIET,
    )


def _wire_exports(parts: InspectParts) -> None:
    def maker(kind: str) -> Callable[[Inspection, bool], str]:
        def make(inspection: Inspection, only: bool) -> str:
            try:
                return files.export_file(inspection, kind, only=bool(only))
            except VLCompareError as error:
                raise gr.Error(str(error), print_exception=False) from None

        return make

    for kind in EXPORTS:
        inputs = [parts.session, parts.fields["only"]]
        download(parts.buttons[kind], maker(kind), inputs, parts.buttons["download"], **READING)


def _wire_compare(parts: InspectParts, settings: AppSettings, compare: Any, tabs: gr.Tabs) -> None:
    def ask(inspection: Inspection) -> list[Any]:
        values = files.compare_values(inspection, settings)
        if values is None:
            raise gr.Error("Choose a sample from the table first.", print_exception=False)
        picture, ask_values, sides = values
        flat = [sides.get(side, {}).get(name, gr.skip()) for side in SIDES for name in SIDE_FIELDS]
        return [gr.update(selected="compare"), picture, None, *ask_values, *flat]

    outputs = [tabs, compare.picture, compare.example, *compare.form]
    parts.buttons["ask"].click(ask, [parts.session], outputs, **QUIET)
