"""The values of the compare form's components, in their order: read into forms, and filled in from a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from vlcompare.types import SIDES, Side
from vlcompare.ui.compare.example_buttons import examples_view
from vlcompare.ui.compare.files import picture_file
from vlcompare.ui.compare.forms import SIDE_FIELDS, AskForm, ask_form_of, shown_side
from vlcompare.ui.compare.session import Run

TEXT_FIELDS = ("checkpoint", "quantization", "prompt_order", "device")  # of a side
ASK_FIELDS = ("task", "text", "choices", "box", "ocr_text", "mode")


def read_form(values: Sequence[Any]) -> tuple[AskForm, dict[str, Side]]:
    """The form's values, in the order of `Parts.form`, as what they are."""
    count, width = len(ASK_FIELDS), len(SIDE_FIELDS)
    ask = AskForm(*("" if value is None else value for value in values[:count]))
    parts = (values[count + index * width : count + (index + 1) * width] for index in range(len(SIDES)))
    return ask, {side: _side(dict(zip(SIDE_FIELDS, own, strict=True))) for side, own in zip(SIDES, parts, strict=True)}


def _side(values: dict[str, Any]) -> Side:
    """A side as its fields hold it; what is no text in a field of texts, which only a program sends, is none."""
    texts = {name: value if isinstance(value := values[name], str) else "" for name in TEXT_FIELDS}
    return Side(**{**values, **texts})  # type: ignore[arg-type]


def form_values(run: Run | None) -> list[Any]:
    """The values of `Parts.settings` that ask `run` again; unchanged without a run.

    A blind run's two models come in the order of their names, which does not tell which is which.
    """
    if run is None:
        return [gr.skip()] * (3 + len(ASK_FIELDS) + len(SIDES) * len(SIDE_FIELDS))
    form = ask_form_of(run.request, run.mode)
    fields = [getattr(form, name) for name in ASK_FIELDS]
    return [picture_file(run.picture), run.example, examples_view(run.example), *fields, *side_values(run)]


def side_values(run: Run) -> list[Any]:
    """The values of both sides' fields, in the order of `Parts.form`."""
    sides = list(run.settings.values())
    if run.hidden:
        sides.sort(key=lambda side: (side.checkpoint, repr(side)))
    return [getattr(shown_side(side), name) for side in sides for name in SIDE_FIELDS]
