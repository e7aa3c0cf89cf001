"""The compare tab's left column: the picture, the examples, what is asked, the button, and further questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from vlcompare.render.markup import el
from vlcompare.tasks.prompts import SPECS
from vlcompare.ui.compare.example_buttons import examples_view
from vlcompare.ui.compare.handlers import FOLLOW_TASKS
from vlcompare.ui.events import PICK
from vlcompare.ui.examples import Example

THREE_QUESTION = "How many things are in the picture?"
NOTICE = (
    "The tiny demo models know drawn scenes alone: their answer to any other picture means nothing. A published pair "
    "knows photographs."
)
UNKNOWN_WORDS = "The tiny demo models have never read {words}: they may miss what is meant."


@dataclass
class AskParts:
    """The column's components. notice and words_notice: what is to be said of the picture, and of the question."""

    picture: gr.Image
    examples: gr.HTML
    notice: gr.HTML
    notice_place: gr.Column
    words_notice: gr.HTML
    fields: dict[str, gr.components.Component]
    run: gr.Button
    stop: gr.Button
    blind: gr.Checkbox


def build_ask(example: Example | None = None) -> AskParts:
    """The picture, the question and the button. example: a question of the task "grounding", to begin with."""
    picture = gr.Image(
        str(example.image) if example else None,
        label="Picture",
        show_label=False,
        type="filepath",
        image_mode=None,  # the raw file: `runtime.image` decodes it, after its limits
        sources=["upload", "clipboard", "webcam"],
        height=196,
        elem_id="vl-picture",
        buttons=[],
        placeholder="Drop a picture, paste one, or choose an example",
    )
    examples = gr.HTML(examples_view(example.id if example else None), js_on_load=PICK, elem_id="vl-examples")
    with gr.Column(elem_classes="vl-notice-place") as notice_place:
        notice = gr.HTML(el("div"), elem_id="vl-notice")
    fields: dict[str, gr.components.Component] = {}
    tasks = [(spec.title, name) for name, spec in SPECS.items()]
    fields["task"] = gr.Dropdown(
        tasks, value="grounding", label="Task", info=SPECS["grounding"].hint, elem_id="vl-task", filterable=False
    )
    fields["text"] = gr.Textbox(
        example.text if example else "",
        label="Description",
        placeholder=SPECS["grounding"].example,
        lines=1,
        max_lines=6,
        elem_id="vl-text",
    )
    words_notice = gr.HTML(el("div"), elem_id="vl-unknown-words")
    fields["choices"] = gr.Textbox(
        label="Choices, one a line", lines=3, max_lines=12, visible=False, elem_id="vl-choices"
    )
    fields["box"] = gr.Textbox(
        label="Region x0, y0, x1, y1",
        info="Drag on the picture, click two corners, or type shares from 0 to 1.",
        visible=False,
        elem_id="vl-box-text",
    )
    fields["ocr_text"] = gr.Textbox(label="Text found in the picture (optional)", visible=False, elem_id="vl-ocr")
    with gr.Row(elem_classes="vl-run"):
        run = gr.Button("Compare", variant="primary", elem_id="vl-run")
        stop = gr.Button("Stop", variant="stop", elem_id="vl-stop")
    with gr.Row(elem_classes="vl-how"):
        fields["mode"] = gr.Radio(
            [("Measure", "measure"), ("Race", "race")],
            value="measure",
            label="Measure: one after the other. Race: both at once, times contended",
            show_label=False,
            elem_id="vl-mode",
            min_width=120,
        )
        blind = gr.Checkbox(False, label="Blind", elem_id="vl-blind", min_width=80)
    return AskParts(picture, examples, notice, notice_place, words_notice, fields, run, stop, blind)


def build_further_questions() -> dict[str, Any]:
    """Below the question: follow-ups, and three questions in one go."""
    panels: dict[str, Any] = {}
    with gr.Accordion("Follow up on this picture", open=False, elem_classes="vl-fold"):
        panels["follow_text"] = gr.Textbox(label="Next question", lines=2, elem_id="vl-follow-text")
        tasks = [("The same task", ""), *((SPECS[name].title, name) for name in FOLLOW_TASKS)]
        panels["follow_task"] = gr.Dropdown(tasks, value="", label="As", filterable=False, elem_id="vl-follow-task")
        panels["follow_how"] = gr.Radio(
            [("Ask anew", "anew"), ("Continue the conversation", "continue")],
            value="anew",  # as the models were trained but for chat: one question a picture
            label="The picture is not encoded again either way",
            elem_id="vl-follow-how",
        )
        panels["follow"] = gr.Button("Follow up", size="sm", elem_id="vl-follow")
    with gr.Accordion("Caption, question and box in one go", open=False, elem_classes="vl-fold"):
        panels["three_question"] = gr.Textbox(
            THREE_QUESTION, label="Question", max_lines=3, elem_id="vl-three-question"
        )
        panels["three_find"] = gr.Textbox(
            label="What to find",
            placeholder="empty: the description above, or everything",
            max_lines=3,
            elem_id="vl-three-find",
        )
        panels["three"] = gr.Button("Ask all three", size="sm", elem_id="vl-three")
    return panels
