"""The compare tab: its components, and which action each of them calls.

Only wiring: what is shown is made in `views`, what happens in `handlers`. Every region of the result is one HTML
component that is updated in place, so nothing jumps while both sides stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vlcompare.render.markup import Safe, el
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import SIDES
from vlcompare.ui import checkpoint_names
from vlcompare.ui.compare import cards
from vlcompare.ui.compare.forms import NUMBER_NAMES, SIDE_FIELDS, AskForm, SideForm, number_range
from vlcompare.ui.compare.handlers import REGIONS, Handlers, Page
from vlcompare.ui.compare.session import Session
from vlcompare.ui.events import PICK
from vlcompare.ui.examples import load_examples, thumbnail
from vlcompare.ui.server.call_errors import ranged

ASK_FIELDS = ("task", "text", "choices", "box", "ocr_text", "mode")


@dataclass
class Parts:
    """The tab's components by name, for the wiring and for the other parts of the page."""

    session: gr.State
    picture: gr.Image
    example: gr.State
    examples: gr.HTML
    ask: dict[str, gr.components.Component]
    sides: dict[str, dict[str, gr.components.Component]]
    regions: dict[str, gr.HTML]
    buttons: dict[str, gr.Button]
    blind: gr.Checkbox

    @property
    def form(self) -> list[gr.components.Component]:
        """All fields of a question, in the order of `read_form`."""
        fields = [self.ask[name] for name in ASK_FIELDS]
        return [*fields, *(self.sides[side][name] for side in SIDES for name in SIDE_FIELDS)]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The session and the regions, as `outputs_of` fills them.

        gradio closes a session an hour after it was last put out, once its tab was out of reach, be it for a moment:
        so whatever a visitor does puts it out.
        """
        return [self.session, *(self.regions[name] for name in REGIONS)]


def read_form(values: Sequence[Any]) -> tuple[AskForm, dict[str, SideForm]]:
    """The form's values, in the order of `Parts.form`, as what they are."""
    count, width = len(ASK_FIELDS), len(SIDE_FIELDS)
    ask = AskForm(*("" if value is None else value for value in values[:count]))
    left, right = (values[count + index * width : count + (index + 1) * width] for index in range(2))
    return ask, {"left": SideForm(*left), "right": SideForm(*right)}


def build(handlers: Handlers, asking: Callable[[], None], after: Callable[[], None]) -> Parts:
    """Lay out the tab inside the current Blocks. asking and after put the further panels in their places."""
    session = gr.State(
        Session(handlers.settings.limits),
        delete_callback=lambda value: value.close() if isinstance(value, Session) else None,
    )
    example = gr.State(None)
    regions: dict[str, gr.HTML] = {}
    buttons: dict[str, gr.Button] = {}
    with gr.Row(elem_classes="vl-main"):
        with gr.Column(elem_classes=["vl-ask", "vl-panel"]):
            picture, examples, ask, blind = _question(buttons)
            asking()
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
                        sides[side] = _side(handlers, side)
                        for part, first in (
                            ("card", cards.card(None, side)),
                            ("picture", cards.blank("picture")),
                            ("tokens", cards.blank("tokens")),
                        ):
                            regions[f"{side}_{part}"] = gr.HTML(first, elem_id=f"vl-{side}-{part}")
            _results(handlers, regions, after)
    return Parts(session, picture, example, examples, ask, sides, regions, buttons, blind)


def _question(
    buttons: dict[str, gr.Button],
) -> tuple[gr.Image, gr.HTML, dict[str, gr.components.Component], gr.Checkbox]:
    """The left column: the picture, what is asked, and the button."""
    picture = gr.Image(
        label="Picture",
        type="filepath",
        image_mode=None,  # the raw file: the project's own door decodes it, after its limits
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


def _side(handlers: Handlers, side: str) -> dict[str, gr.components.Component]:
    """One side's settings: the checkpoint and the quantization, the rest under "advanced"."""
    settings = handlers.settings
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


def _results(handlers: Handlers, regions: dict[str, gr.HTML], after: Callable[[], None]) -> None:
    """What both sides have in common, below them."""
    with gr.Column(elem_classes="vl-panel"):
        gr.HTML(el("h2", "Together", class_="vl-section"))
        regions["together"] = gr.HTML(cards.blank("together"), elem_id="vl-together")
    with gr.Column(elem_classes="vl-panel"):
        gr.HTML(el("h2", "Figures", class_="vl-section"))
        regions["charts"] = gr.HTML(cards.blank("charts"), elem_id="vl-charts")
        regions["figures"] = gr.HTML(cards.blank("figures"), elem_id="vl-figures")
    after()
    with gr.Accordion("The exact prompts", open=False, elem_classes="vl-more"):
        regions["prompts"] = gr.HTML(cards.blank("prompts"), elem_id="vl-prompts")
    with gr.Accordion("Published scores", open=False, elem_classes="vl-more"):
        settings = handlers.settings
        regions["scores"] = gr.HTML(checkpoint_names.scores_table(settings.left, settings.right), elem_id="vl-scores")
    with gr.Column(elem_classes="vl-panel"):
        gr.HTML(el("h2", "This session", class_="vl-section"))
        regions["history"] = gr.HTML(cards.history_view([], None), js_on_load=PICK, elem_id="vl-history")


def examples_view(chosen: str | None) -> Safe:
    """The shipped examples as buttons."""
    examples = load_examples()
    if not examples:
        return el("div")
    items = [
        el(
            "button",
            el("img", src=thumbnail(example.image), alt=""),
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


def outputs_of(session: Session, page: Page) -> list[Any]:
    """The session and a handler's page in the order of `Parts.outputs`; what is not in the page stays as it is."""
    return [session, *(page.get(name, gr.skip()) for name in REGIONS)]


def streamed(session: Session, pages: Iterator[Page]) -> Iterator[list[Any]]:
    """Pages as outputs, closing the handler with the stream."""
    try:
        for page in pages:
            yield outputs_of(session, page)
    finally:
        close: Callable[[], None] | None = getattr(pages, "close", None)
        if close:
            close()
