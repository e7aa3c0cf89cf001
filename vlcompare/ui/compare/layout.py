"""The compare tab's components, and how they are read and updated.

Every region of the result is one HTML component that is updated in place, so nothing jumps while both sides stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vlcompare.render.markup import Safe, el
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import SIDES
from vlcompare.ui import checkpoint_names
from vlcompare.ui.compare import cards
from vlcompare.ui.compare.form_values import ASK_FIELDS
from vlcompare.ui.compare.forms import NUMBER_NAMES, SIDE_FIELDS, number_range
from vlcompare.ui.compare.handlers import FOLLOW_TASKS
from vlcompare.ui.compare.page_update import REGIONS, CompareUpdate
from vlcompare.ui.compare.session import CompareSession
from vlcompare.ui.compare.votes import CHOICES
from vlcompare.ui.events import PICK
from vlcompare.ui.examples import example_thumbnail, load_examples
from vlcompare.ui.server.call_errors import ranged
from vlcompare.ui.settings import AppSettings

THREE_HINT = "Caption, question and box in one go: where does each architecture break?"
THREE_QUESTION = "How many things are in the picture?"


@dataclass
class Parts:
    """The tab's components by name."""

    session: gr.State
    picture: gr.Image
    example: gr.State
    examples: gr.HTML
    ask: dict[str, gr.components.Component]
    sides: dict[str, dict[str, gr.components.Component]]
    regions: dict[str, gr.HTML]
    buttons: dict[str, gr.Button]
    blind: gr.Checkbox
    panels: dict[str, Any]  # further questions, votes, files and the link

    @property
    def form(self) -> list[gr.components.Component]:
        """All fields of a question, in the order of `read_form`."""
        fields = [self.ask[name] for name in ASK_FIELDS]
        return [*fields, *(self.sides[side][name] for side in SIDES for name in SIDE_FIELDS)]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The session and the regions, as `outputs_of` fills them.

        gradio deletes a session an hour after it was last an output if its tab was ever disconnected, so every action
        has it among its outputs.
        """
        return [self.session, *(self.regions[name] for name in REGIONS)]


def build(settings: AppSettings) -> Parts:
    """Lay out the tab inside the current Blocks."""
    session = gr.State(
        CompareSession(settings.limits),
        delete_callback=lambda value: value.close() if isinstance(value, CompareSession) else None,
    )
    example = gr.State(None)
    regions: dict[str, gr.HTML] = {}
    buttons: dict[str, gr.Button] = {}
    panels: dict[str, Any] = {}
    with gr.Row(elem_classes="vl-main"):
        with gr.Column(elem_classes=["vl-ask", "vl-panel"]):
            picture, examples, ask, blind = _question(buttons)
            _further_questions(panels)
        with gr.Column(elem_classes="vl-results"):
            regions["message"] = gr.HTML(cards.message(""), elem_id="vl-message")
            regions["three"] = gr.HTML("", js_on_load=PICK, elem_id="vl-three-view")
            with gr.Row(elem_classes="vl-swap"):
                buttons["swap"] = gr.Button("⇄ Swap sides", size="sm")
                buttons["copy_right"] = gr.Button("Copy settings left → right", size="sm")
                buttons["copy_left"] = gr.Button("Copy settings right → left", size="sm")
            sides: dict[str, dict[str, gr.components.Component]] = {}
            with gr.Row(elem_classes="vl-pair", equal_height=False):
                for side in SIDES:
                    with gr.Column(elem_classes=["vl-side", f"vl-{side}"], min_width=0):
                        sides[side] = _side(settings, side)
                        for part, first in (
                            ("card", cards.card(None, side)),
                            ("picture", cards.blank("picture")),
                            ("tokens", cards.blank("tokens")),
                        ):
                            regions[f"{side}_{part}"] = gr.HTML(first, elem_id=f"vl-{side}-{part}")
            _results(settings, regions, panels)
    return Parts(session, picture, example, examples, ask, sides, regions, buttons, blind, panels)


def _question(
    buttons: dict[str, gr.Button],
) -> tuple[gr.Image, gr.HTML, dict[str, gr.components.Component], gr.Checkbox]:
    """The left column: the picture, what is asked, and the button."""
    picture = gr.Image(
        label="Picture",
        type="filepath",
        image_mode=None,  # the raw file: `runtime.image` decodes it, after its limits
        sources=["upload", "clipboard", "webcam"],
        height=250,
        elem_id="vl-picture",
        buttons=[],
        placeholder="Drop a picture, paste one, or choose an example",
    )
    examples = gr.HTML(examples_view(None), js_on_load=PICK, elem_id="vl-examples")
    ask: dict[str, gr.components.Component] = {}
    tasks = [(spec.title, name) for name, spec in SPECS.items()]
    ask["task"] = gr.Dropdown(
        tasks, value="grounding", label="Task", info=SPECS["grounding"].hint, elem_id="vl-task", filterable=False
    )
    ask["text"] = gr.Textbox(
        label="Description", placeholder=SPECS["grounding"].example, lines=2, max_lines=6, elem_id="vl-text"
    )
    ask["choices"] = gr.Textbox(label="Choices, one a line", lines=3, max_lines=12, visible=False, elem_id="vl-choices")
    ask["box"] = gr.Textbox(
        label="Region x0, y0, x1, y1",
        info="Click two corners on the picture, or type shares from 0 to 1.",
        visible=False,
        elem_id="vl-box-text",
    )
    ask["ocr_text"] = gr.Textbox(label="Text found in the picture (optional)", visible=False, elem_id="vl-ocr")
    ask["mode"] = gr.Radio(
        [("Measure: one after the other", "measure"), ("Race: both at once", "race")],
        value="measure",
        label="How",
        elem_id="vl-mode",
    )
    with gr.Row(elem_classes="vl-run"):
        buttons["run"] = gr.Button("Compare", variant="primary", scale=3, elem_id="vl-run")
        buttons["stop"] = gr.Button("Stop", variant="stop", scale=1, elem_id="vl-stop")
    blind = gr.Checkbox(False, label="Blind: shuffle the sides, names after the vote", elem_id="vl-blind")
    return picture, examples, ask, blind


def _side(settings: AppSettings, side: str) -> dict[str, gr.components.Component]:
    """One side's settings: the checkpoint and the quantization, the rest under "advanced"."""
    given = settings.left if side == "left" else settings.right
    parts: dict[str, gr.components.Component] = {}
    with gr.Row(elem_classes="vl-model"):
        parts["checkpoint"] = gr.Dropdown(
            checkpoint_names.choices(settings),
            value=given,
            label=f"{side.capitalize()} checkpoint",
            allow_custom_value=not settings.offered,
            elem_id=f"vl-{side}-checkpoint",
            scale=4,
            min_width=120,
        )
        parts["quantization"] = gr.Dropdown(
            [("none", "none"), ("int8", "int8"), ("NF4", "nf4")],
            value=settings.quantization,
            label="Quantization",
            filterable=False,
            scale=1,
            min_width=96,
        )
    with gr.Accordion("Advanced", open=False, elem_classes="vl-advanced"):
        parts["prompt_order"] = gr.Radio(
            [("image first", "image_first"), ("instruction first", "instruction_first")],
            value="image_first",
            label="Prompt order",
        )
        with gr.Row():
            parts["image_size"] = gr.Number(
                None, label="Resolution", info="empty: as trained", precision=0, min_width=90
            )
            parts["device"] = gr.Dropdown(["auto", "cpu", "cuda"], value="auto", label="Device", min_width=90)
            parts["max_new_tokens"] = gr.Number(
                None, label="Token limit", info="empty: the task's", precision=0, min_width=90
            )
        with gr.Row():
            parts["temperature"] = gr.Number(
                0, label="Temperature", info="0: greedy", minimum=0, maximum=5, step=0.1, min_width=90
            )
            parts["top_p"] = gr.Number(1, label="Top-p", minimum=0, maximum=1, step=0.05, min_width=90)
            parts["top_k"] = gr.Number(0, label="Top-k", info="0: all", precision=0, minimum=0, min_width=90)
            parts["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90)
    for name in NUMBER_NAMES:
        ranged(parts[name], *number_range(name, settings.limits))  # type: ignore[arg-type]
    return parts


def _results(settings: AppSettings, regions: dict[str, gr.HTML], panels: dict[str, Any]) -> None:
    """Below the two sides: what they share, and what can be done with a run."""
    with gr.Column(elem_classes="vl-panel"):
        gr.HTML(el("h2", "Together", class_="vl-section"))
        regions["together"] = gr.HTML(cards.blank("together"), elem_id="vl-together")
    with gr.Column(elem_classes="vl-panel"):
        gr.HTML(el("h2", "Figures", class_="vl-section"))
        regions["charts"] = gr.HTML(cards.blank("charts"), elem_id="vl-charts")
        regions["figures"] = gr.HTML(cards.blank("figures"), elem_id="vl-figures")
    _after_results(panels)
    with gr.Accordion("The exact prompts", open=False, elem_classes="vl-more"):
        regions["prompts"] = gr.HTML(cards.blank("prompts"), elem_id="vl-prompts")
    with gr.Accordion("Published scores", open=False, elem_classes="vl-more"):
        regions["scores"] = gr.HTML(checkpoint_names.scores_table(settings.left, settings.right), elem_id="vl-scores")
    with gr.Column(elem_classes="vl-panel"):
        gr.HTML(el("h2", "This session", class_="vl-section"))
        regions["history"] = gr.HTML(cards.history_view([], None), js_on_load=PICK, elem_id="vl-history")


def _further_questions(panels: dict[str, Any]) -> None:
    """Below the question: follow-ups, and three questions in one go."""
    with gr.Accordion("Follow up on this picture", open=False, elem_classes="vl-fold"):
        panels["follow_text"] = gr.Textbox(label="Next question", lines=2, elem_id="vl-follow-text")
        tasks = [("The same task", ""), *((SPECS[name].title, name) for name in FOLLOW_TASKS)]
        panels["follow_task"] = gr.Dropdown(tasks, value="", label="As", filterable=False, elem_id="vl-follow-task")
        panels["follow_how"] = gr.Radio(
            [("Continue the conversation", "continue"), ("Ask anew", "anew")],
            value="continue",
            label="The picture is not encoded again either way",
            elem_id="vl-follow-how",
        )
        panels["follow"] = gr.Button("Follow up", size="sm", elem_id="vl-follow")
    with gr.Accordion("One picture, three questions", open=False, elem_classes="vl-fold"):
        gr.HTML(el("p", THREE_HINT, class_="vl-note"))
        panels["three_question"] = gr.Textbox(
            THREE_QUESTION, label="Question", max_lines=3, elem_id="vl-three-question"
        )
        panels["three_find"] = gr.Textbox(
            label="What to find",
            placeholder="the red car; empty: the description above",
            max_lines=3,
            elem_id="vl-three-find",
        )
        panels["three"] = gr.Button("Ask all three", size="sm", elem_id="vl-three")


def _after_results(panels: dict[str, Any]) -> None:
    """Below the results: the vote, the files, the link."""
    with gr.Row(elem_classes="vl-after", equal_height=False):
        with gr.Column(elem_classes="vl-panel", min_width=280):
            gr.HTML(el("h2", "Which answer is better?", class_="vl-section"))
            panels["consent"] = gr.Checkbox(
                False,
                label="Store my vote here: question, settings, both texts. Not the picture.",
                elem_id="vl-consent",
            )
            with gr.Row(elem_classes="vl-votes"):
                panels["votes"] = {
                    name: gr.Button(title, size="sm", elem_id=f"vl-vote-{name}", min_width=80)
                    for name, title in CHOICES.items()
                }
            panels["note"] = gr.Textbox(label="Note (optional)", max_lines=3, elem_id="vl-note")
            panels["vote_message"] = gr.HTML(cards.message(""), elem_id="vl-vote-message")
        with gr.Column(elem_classes="vl-panel", min_width=280):
            gr.HTML(el("h2", "Keep it", class_="vl-section"))
            with gr.Row(elem_classes="vl-files"):
                panels["save"] = gr.Button("Export this run", size="sm", elem_id="vl-save")
                panels["load"] = gr.UploadButton("Import a run", size="sm", file_types=[".json"], elem_id="vl-load")
                panels["annotated"] = gr.Button("Annotated picture", size="sm", elem_id="vl-annotated")
                panels["comparator"] = gr.Button("All runs for LLM Comparator", size="sm", elem_id="vl-comparator")
                panels["my_votes"] = gr.Button("My votes as CSV", size="sm", elem_id="vl-my-votes")
            panels["link"] = gr.Textbox(
                label="Link to these settings and the example",
                interactive=False,
                buttons=["copy"],
                elem_id="vl-link",
                max_lines=1,
            )
    panels["file"] = gr.DownloadButton("file", visible="hidden")


def examples_view(chosen: str | None) -> Safe:
    """The shipped examples as buttons."""
    examples = load_examples()
    if not examples:
        return el("div")
    items = [
        el(
            "button",
            el("img", src=example_thumbnail(example.image), alt=""),
            el("span", example.title),
            type="button",
            class_="vl-example",
            data_pick=example.id,
            aria_pressed="true" if example.id == chosen else "false",
            aria_label=f"Example: {example.title}",
        )
        for example in examples
    ]
    return el("div", *items, class_="vl-examples")


def outputs_of(session: CompareSession, page: CompareUpdate) -> list[Any]:
    """The session and an action's update in the order of `Parts.outputs`; other regions stay as they are."""
    return [session, *(page.get(name, gr.skip()) for name in REGIONS)]


def streamed(session: CompareSession, pages: Iterator[CompareUpdate]) -> Iterator[list[Any]]:
    """Each update as outputs; the action's generator is closed with the stream."""
    with closing(pages):  # type: ignore[type-var]
        for page in pages:
            yield outputs_of(session, page)
