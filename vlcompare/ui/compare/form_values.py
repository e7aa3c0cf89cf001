"""The values of the compare form's components, in their order: read into forms, and filled in from a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from vlcompare.types import SIDES, Side
from vlcompare.ui.compare.files import picture_file
from vlcompare.ui.compare.forms import SIDE_FIELDS, AskForm, ask_form_of, shown_side
from vlcompare.ui.compare.session import Run

ASK_FIELDS = ("task", "text", "choices", "box", "ocr_text", "mode")


def read_form(values: Sequence[Any]) -> tuple[AskForm, dict[str, Side]]:
    """The form's values, in the order of `Parts.form`, as what they are."""
    count, width = len(ASK_FIELDS), len(SIDE_FIELDS)
    ask = AskForm(*("" if value is None else value for value in values[:count]))
    parts = (values[count + index * width : count + (index + 1) * width] for index in range(len(SIDES)))
    return ask, {side: Side(**dict(zip(SIDE_FIELDS, own, strict=True))) for side, own in zip(SIDES, parts, strict=True)}


def form_values(run: Run | None) -> list[Any]:
    """Picture, example and form fields that ask `run` again; unchanged without a run, the sides' if it is blind."""
    if run is None:
        return [gr.skip()] * (2 + len(ASK_FIELDS) + len(SIDES) * len(SIDE_FIELDS))
    form = ask_form_of(run.request, run.mode)
    fields = [getattr(form, name) for name in ASK_FIELDS]
    sides = [
        gr.skip() if run.hidden else getattr(shown_side(part.settings), name)
        for part in run.sides.values()
        for name in SIDE_FIELDS
    ]
    return [picture_file(run.picture), run.example, *fields, *sides]
