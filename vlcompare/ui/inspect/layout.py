"""The inspect tab's components. What happens is in `handlers`, and which event calls which action in `wiring`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from vlcompare.evaluate.results.notes import ERROR_TYPES
from vlcompare.render.markup import el
from vlcompare.ui.compare.cards import message
from vlcompare.ui.events import PICK
from vlcompare.ui.inspect.handlers import CLOSED, KEYS, NO_SAMPLE
from vlcompare.ui.inspect.library import Library
from vlcompare.ui.inspect.query import NOTED
from vlcompare.ui.inspect.selection import MEASURES
from vlcompare.ui.inspect.session import Inspection
from vlcompare.ui.inspect.views import nothing

FORM = ("text", "regex", "disagree", "gap", "noted", "tag")
EXPORTS = {
    "csv": "CSV",
    "json": "JSON",
    "comparator": "LLM Comparator",
    "report": "HTML report",
    "archive": "Run archive",
}
THUMBNAILS = "window.vlInspect.watch(element, (names) => trigger('input', {names}));"


@dataclass
class InspectParts:
    """The tab's components by name."""

    session: gr.State
    regions: dict[str, Any] = field(default_factory=dict)  # markup, named as in InspectUpdate
    fields: dict[str, Any] = field(default_factory=dict)
    buttons: dict[str, Any] = field(default_factory=dict)
    note: dict[str, Any] = field(default_factory=dict)  # the form of the open sample's note, written by the page alone
    thumbnails: Any = None  # those that were asked for last, on their way into the list
    edit: Any = None  # the number of a note's edit
    beside: Any = None  # whether the window has room for a sample beside the list

    @property
    def outputs(self) -> list[Any]:
        """Everything that an action may change, in the order of `names`, and the session.

        gradio closes a session, an hour after its tab, only if it was once put out.
        """
        return [*self.regions.values(), *self.fields.values(), self.session]

    @property
    def names(self) -> list[str]:
        return [*self.regions, *self.fields]


def build(library: Library) -> InspectParts:
    """Lay the tab out inside the current Blocks."""
    session = gr.State(
        Inspection(library),
        delete_callback=lambda value: value.close() if isinstance(value, Inspection) else None,
    )
    parts = InspectParts(session)
    regions, fields = parts.regions, parts.fields
    with gr.Column(elem_classes="vi-page"):
        _bar(library, parts)
        regions["message"] = gr.HTML(message(""), elem_id="vi-message")
        regions["offer"] = _picking("vi-offer")
        with gr.Column(elem_classes=["vl-panel", "vi-top"]):
            first = library.first()
            regions["head"] = gr.HTML(nothing(f"Reading {first} …" if first else CLOSED), elem_id="vi-head")
            regions["headline"] = _picking("vi-headline")
            regions["quadrants"] = _picking("vi-quadrants")
        with gr.Row(elem_classes="vi-overview", equal_height=False):
            with gr.Column(elem_classes="vl-panel", min_width=0):
                regions["differences"] = _picking("vi-differences")
            with gr.Column(elem_classes="vl-panel", min_width=0):
                _heading("Accuracy by slice")
                fields["dimension"] = gr.Dropdown(
                    [], label="Slice by", show_label=False, elem_id="vi-dimension", filterable=False
                )
                regions["slices"] = _picking("vi-slices")
        _folded(parts)
        with gr.Row(elem_classes="vi-work", equal_height=False):
            with gr.Column(elem_classes=["vl-panel", "vi-list"], min_width=0):
                _filters(fields)
                regions["chips"] = _picking("vi-chips")
                regions["table"] = gr.HTML("", js_on_load=PICK + THUMBNAILS, elem_id="vi-table")
            with gr.Column(elem_classes=["vl-panel", "vi-detail"], min_width=0):
                _sample(parts)
        _exports(parts)
        parts.thumbnails = gr.Textbox("", visible=False)
        parts.edit = gr.Number(0, visible=False)
        parts.beside = gr.Checkbox(False, visible=False)
    return parts


def _heading(text: str) -> None:
    gr.HTML(el("h2", text, class_="vl-section"))


def _picking(elem_id: str) -> gr.HTML:
    """A region whose marked elements can be clicked."""
    return gr.HTML("", js_on_load=PICK, elem_id=elem_id)


def _bar(library: Library, parts: InspectParts) -> None:
    """Which two sides are beside each other, and which runs are open."""
    fields = parts.fields
    with gr.Row(elem_classes=["vi-bar", "vl-panel"], equal_height=False):
        fields["runs"] = gr.Dropdown(
            list(library.listed()),
            value=[],
            multiselect=True,
            label="Open runs: choose another to add it",
            elem_id="vi-runs",
            min_width=220,
            scale=3,
        )
        fields["left"] = gr.Dropdown([], label="Left", elem_id="vi-left", min_width=160, scale=2, filterable=False)
        fields["right"] = gr.Dropdown([], label="Right", elem_id="vi-right", min_width=160, scale=2, filterable=False)
        parts.buttons["upload"] = gr.UploadButton(
            "Add from a file", size="sm", file_types=[".zip"], elem_id="vi-upload", min_width=120
        )
    if halves := library.not_listed():
        gr.HTML(el("p", " ".join(halves), class_="vl-muted"), elem_id="vi-not-listed")


def _folded(parts: InspectParts) -> None:
    """What not everybody looks at."""
    with gr.Accordion("Charts: left against right", open=False, elem_classes="vl-more", elem_id="vi-more-charts"):
        parts.fields["measure"] = gr.Radio(
            [(measure.title, name) for name, measure in MEASURES.items()],
            value="iou",
            show_label=False,
            container=False,
            elem_id="vi-measure",
        )
        parts.regions["charts"] = _picking("vi-charts")
    with gr.Accordion("Every task's own figures", open=False, elem_classes="vl-more", elem_id="vi-more-figures"):
        parts.regions["figures"] = _picking("vi-figures")


def _filters(fields: dict[str, Any]) -> None:
    _heading("Samples")
    with gr.Row(elem_classes="vi-filters"):
        fields["text"] = gr.Textbox(
            label="Search questions, answers and ids", placeholder="red heart", elem_id="vi-text", min_width=160
        )
        fields["disagree"] = gr.Checkbox(False, label="Answers differ", elem_id="vi-disagree", min_width=90)
    with gr.Accordion("More filters", open=False, elem_id="vi-more-filters"), gr.Row(elem_classes="vi-filters"):
        fields["regex"] = gr.Checkbox(
            False, label="The search is a regular expression", elem_id="vi-regex", min_width=90
        )
        fields["gap"] = gr.Number(
            0, minimum=0, maximum=50, step=0.1, label="Confidence gap at least", elem_id="vi-gap", min_width=90
        )
        noted = [(title, name) for name, title in NOTED.items()]
        fields["noted"] = gr.Dropdown(
            noted, value="", label="Notes", elem_id="vi-noted", min_width=110, filterable=False
        )
        types = [("Any", ""), *((name, name) for name in ERROR_TYPES)]
        fields["tag"] = gr.Dropdown(
            types, value="", label="Noted as", elem_id="vi-tag", min_width=130, filterable=False
        )


def _sample(parts: InspectParts) -> None:
    """The open sample: its steps and its picture stay where they are, and the rest scrolls below them."""
    fields, buttons, note = parts.fields, parts.buttons, parts.note
    with gr.Row(elem_classes="vi-steps"):
        buttons["back"] = gr.Button("← List", size="sm", elem_id="vi-back", min_width=80)
        buttons["previous"] = gr.Button("← Previous", size="sm", elem_id="vi-previous", min_width=80)
        buttons["next"] = gr.Button("Next →", size="sm", elem_id="vi-next", min_width=80)
        buttons["ask"] = gr.Button("Open in Compare", size="sm", elem_id="vi-ask", min_width=120)
    parts.regions["picture"] = gr.HTML("", elem_id="vi-picture")
    with gr.Column(elem_classes="vi-rest"):
        parts.regions["sample"] = gr.HTML(nothing(NO_SAMPLE, KEYS), elem_id="vi-sample")
        with gr.Column(elem_classes="vi-note", elem_id="vi-note"):
            fields["note"] = gr.Textbox("", visible="hidden")  # of the open sample, on its way into the form
            note["of"] = gr.Textbox("", visible="hidden")  # what the form is of
            note["types"] = gr.CheckboxGroup(list(ERROR_TYPES), label="What went wrong", elem_id="vi-types")
            note["own_tags"] = gr.Textbox(
                label="Own tags, separated by commas", max_lines=1, elem_id="vi-own-tags", placeholder="night, blurred"
            )
            note["text"] = gr.Textbox(
                label="Note", lines=2, max_lines=8, elem_id="vi-note-text", placeholder="Kept beside the run"
            )
            parts.regions["note_state"] = gr.HTML(el("p", KEYS, class_="vl-note"), elem_id="vi-note-state")


def _exports(parts: InspectParts) -> None:
    with gr.Column(elem_classes="vl-panel"):
        _heading("Export")
        with gr.Row(elem_classes="vi-exports"):
            parts.fields["only"] = gr.Checkbox(
                True, label="Only the selected samples", elem_id="vi-only", min_width=160
            )
            for kind, title in EXPORTS.items():
                parts.buttons[kind] = gr.Button(title, size="sm", elem_id=f"vi-export-{kind}", min_width=90)
            parts.buttons["download"] = gr.DownloadButton("Download", elem_id="vi-download", visible="hidden")
