"""One side's settings on the compare tab: a line that opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from vlcompare.types import DTYPES, Side
from vlcompare.ui import checkpoint_names
from vlcompare.ui.checkpoint_names import QUANTIZATION_NAMES
from vlcompare.ui.compare.belonging import settings_line
from vlcompare.ui.compare.forms import NUMBER_NAMES, number_range, shown_side
from vlcompare.ui.server.call_errors import ranged
from vlcompare.ui.settings import AppSettings


@dataclass
class SideParts:
    """line: its label names the settings; copy: takes them over to the other side; model_place: below the chooser."""

    line: gr.Accordion
    fields: dict[str, gr.components.Component]
    copy: gr.Button
    model_place: gr.Column


def build_side(settings: AppSettings, side: str) -> SideParts:
    """The line, and in it the checkpoint, its quantization, and how it decodes."""
    given = Side(settings.left if side == "left" else settings.right, settings.quantization)
    fields: dict[str, gr.components.Component] = {}
    with gr.Accordion(
        settings_line(shown_side(given)), open=False, elem_id=f"vl-{side}-settings", elem_classes="vl-settings"
    ) as line:
        fields["checkpoint"] = gr.Dropdown(
            checkpoint_names.choices(settings),
            value=given.checkpoint,
            label=f"{side.capitalize()} checkpoint",
            allow_custom_value=not settings.offered,
            elem_id=f"vl-{side}-checkpoint",
        )
        with gr.Column(elem_classes="vl-model-place") as model_place:
            pass
        with gr.Row():
            fields["quantization"] = gr.Dropdown(
                [(title, name) for name, title in QUANTIZATION_NAMES.items()],
                value=given.quantization,
                label="Quantization",
                filterable=False,
                min_width=90,
                elem_id=f"vl-{side}-quantization",
            )
            fields["device"] = gr.Dropdown(
                ["auto", "cpu", "cuda"], value="auto", label="Device", min_width=90, elem_id=f"vl-{side}-device"
            )
            fields["dtype"] = gr.Dropdown(
                [("float16 (GPU)" if name == "float16" else name, name) for name in DTYPES],
                value="auto",
                label="Precision",
                filterable=False,
                min_width=90,
                elem_id=f"vl-{side}-dtype",
            )
        fields["prompt_order"] = gr.Radio(
            [("image first", "image_first"), ("instruction first", "instruction_first")],
            value="image_first",
            label="Prompt order",
            elem_id=f"vl-{side}-prompt_order",
        )
        with gr.Row():
            _number(fields, side, "image_size", None, "Resolution", placeholder="as trained", precision=0)
            _number(fields, side, "max_new_tokens", None, "Token limit", placeholder="the task's", precision=0)
            _number(fields, side, "seed", 0, "Seed", precision=0, minimum=0)
        with gr.Row():
            _number(fields, side, "temperature", 0, "Temperature", info="0: greedy", minimum=0, maximum=5, step=0.1)
            _number(fields, side, "top_p", 1, "Top-p", info="1: all", minimum=0, maximum=1, step=0.05)
            _number(fields, side, "top_k", 0, "Top-k", info="0: all", precision=0, minimum=0)
        copy = gr.Button(f"Copy all but the checkpoint to the {_other(side)}", size="sm", elem_id=f"vl-{side}-copy")
    for name in NUMBER_NAMES:
        ranged(fields[name], *number_range(name, settings.limits))  # type: ignore[arg-type]
    return SideParts(line, fields, copy, model_place)


def _number(
    fields: dict[str, gr.components.Component], side: str, name: str, value: float | None, label: str, **options: Any
) -> None:
    fields[name] = gr.Number(value, label=label, min_width=90, elem_id=f"vl-{side}-{name}", **options)


def _other(side: str) -> str:
    return "right" if side == "left" else "left"
