"""A shipped example on the compare tab: its question as form fields and as a request, and its recorded answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from vlcompare.tasks.boxes import format_box
from vlcompare.types import SIDES, Box, Request, Side
from vlcompare.ui.compare.forms import AskForm, box_text
from vlcompare.ui.compare.session import Picture, Run, SideRun
from vlcompare.ui.examples import Example, load_examples


def find_example(example_id: str | None) -> Example | None:
    """The shipped example with this id."""
    return next((example for example in load_examples() if example.id == example_id), None) if example_id else None


def example_form(example: Example) -> AskForm:
    """The form fields that ask the example's question."""
    choices = "\n".join(str(c) if isinstance(c, str) else box_text(c) for c in example.choices)
    box = box_text(example.box) if example.box else ""
    return AskForm(example.task, example.text, choices, box, example.ocr_text)


def asks(example: Example, form: AskForm) -> bool:
    """Whether the form asks exactly what the example asks."""
    return replace(example_form(example), mode=form.mode) == form


def question(form: AskForm, example: Example | None) -> AskForm:
    """What a link asks: its own question, or the example's where the link holds no question."""
    plain = form == AskForm(mode=form.mode)
    return replace(example_form(example), mode=form.mode) if example and plain else form


def request_of(example: Example) -> Request:
    """The example's question as a request."""
    return Request(example.task, example.text, example.choices or None, example.box, example.ocr_text or None)


def recorded_for(example: Example, sides: Mapping[str, Side]) -> bool:
    """Whether the example's answers were recorded with these checkpoints and settings, as `read_side` gives them."""
    plain = all(
        (side.quantization, side.dtype, side.image_size) == ("none", "auto", None)
        and (side.decoding.prompt_order, side.max_new_tokens, side.decoding.temperature) == ("image_first", None, 0)
        for side in sides.values()
    )
    recorded = {side: answer.checkpoint for side, answer in example.answers.items()}
    return plain and recorded == {side: sides[side].checkpoint for side in SIDES}


def recorded_run(example: Example, picture: Picture, settings: Mapping[str, Side]) -> Run:
    """The example's recorded answers as a run."""
    parts = {side: SideRun(settings[side], "", answer=example.answers[side]) for side in SIDES}
    known: dict[str, Any] = {"truth": example.truth, "references": example.references, "objects": example.objects}
    return Run(request_of(example), picture, parts, example=example.id, **known)


def same_question(example: Example, request: Request) -> bool:
    """Whether the example's truth answers this request (boxes are compared at two decimals, as the form holds them)."""
    return _comparable(request_of(example)) == _comparable(request)


def same_picture(example: Example, picture: Picture) -> bool:
    """Whether the picture is still the example's."""
    return picture.data == example.image.read_bytes()


def _comparable(request: Request) -> tuple[Any, ...]:
    return request.task, request.text.strip(), _texts(request.choices or ()), _texts([request.box])


def _texts(values: Iterable[Any]) -> list[str]:
    return [format_box(value) if isinstance(value, Box) else str(value).strip() for value in values]
