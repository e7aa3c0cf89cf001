"""The study tab's components. What happens is in `handlers` and `lab`, and which event calls which in `wiring`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from vlcompare.render.markup import el
from vlcompare.ui.events import PICK
from vlcompare.ui.study import views
from vlcompare.ui.study.lab import LabRequests
from vlcompare.ui.study.session import Shelf, StudySession

LAB = "window.vlStudy.lab(element, (request) => trigger('submit', request));"


@dataclass
class StudyParts:
    """The tab's components by name."""

    session: gr.State
    lab: LabRequests
    regions: dict[str, gr.HTML] = field(default_factory=dict)  # named as in `handlers.StudyUpdate`, and the lab's
    upload: Any = None
    endpoint: Any = None  # request, answer and button of the lab's endpoint, which are never shown
    file: Any = None


def build(shelf: Shelf) -> StudyParts:
    """Lay the tab out inside the current Blocks; its regions are filled when it is opened."""
    parts = StudyParts(gr.State(StudySession(shelf)), LabRequests(shelf.given))
    regions = parts.regions
    with gr.Column(elem_classes="vs-page"):
        regions["intro"] = gr.HTML(el("p", "Reading the rows …", class_="vs-lead vs-reading"), elem_id="vs-intro")
        with gr.Column(elem_classes="vl-panel"):
            _heading("The retrieval lab")
            regions["lab"] = gr.HTML(views.lab(parts.lab.length()), js_on_load=LAB, elem_id="vs-lab")
            regions["round"] = gr.HTML("", elem_id="vs-round")
        with gr.Column(elem_classes="vl-panel"):
            with gr.Row(elem_classes="vs-bar"):
                _heading("What the trainings show")
                parts.upload = gr.UploadButton(
                    "Open your own rows.jsonl", size="sm", file_types=[".jsonl"], elem_id="vs-upload", min_width=160
                )
            regions["message"] = gr.HTML("", js_on_load=PICK, elem_id="vs-message")
            regions["figures"] = gr.HTML("", js_on_load=PICK, elem_id="vs-figures")
        with gr.Column(elem_classes="vl-panel"):
            _heading("The published gap, by what a task needs")
            regions["published"] = gr.HTML("", elem_id="vs-published")
        with gr.Column(elem_classes="vl-panel"):
            _heading("On pictures")
            regions["pictures"] = gr.HTML("", js_on_load=PICK, elem_id="vs-pictures")
        with gr.Column(elem_classes="vl-panel"):
            _heading("What is not known")
            gr.HTML(views.unknown())
        with gr.Row(visible=False):
            parts.endpoint = gr.JSON(), gr.JSON(), gr.Button("study_ask")
        parts.file = gr.DownloadButton("file", visible="hidden")
    return parts


def _heading(text: str) -> None:
    gr.HTML(el("h2", text, class_="vl-section"))
