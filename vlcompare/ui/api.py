"""The endpoint /compare, also an MCP tool: a comparison for other programs, with the page's checks and limits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import gradio as gr

from vlcompare.errors import RequestError
from vlcompare.types import MODES, PROMPT_ORDERS, QUANTIZATIONS, SIDES, TASKS, PromptOrder, Quantization, Side
from vlcompare.ui.compare.event_stream import follow
from vlcompare.ui.compare.forms import AskForm, box_text, number_range, read_mode, read_request, read_side
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.session import Run, SideRun
from vlcompare.ui.server.call_errors import ranged


def make_compare(handlers: Handlers) -> Callable[..., dict[str, Any]]:
    """The function of the endpoint; its docstring is the MCP tool's description."""
    settings = handlers.settings

    def compare(
        image: str,
        task: str = "grounding",
        text: str = "",
        left: str = settings.left,
        right: str = settings.right,
        choices: Any = None,
        box: Any = None,
        ocr_text: str = "",
        mode: str = "measure",
        left_quantization: str = settings.quantization,
        right_quantization: str = settings.quantization,
        left_prompt_order: str = "image_first",
        right_prompt_order: str = "image_first",
        image_size: float | None = None,
        max_new_tokens: float | None = None,
        temperature: float = 0.0,
        seed: float = 0,
    ) -> dict[str, Any]:
        """Ask two vision-language models the same question about one picture; both answers, with times and memory.

        Args:
            image: The picture (JPEG, PNG, WebP): a data URI, or the path that POST /gradio_api/upload returned.
            task: captioning, grounded_captioning, region_description, vqa, document_vqa, multiple_choice, pointing,
                grounding, image_text_match or chat.
            text: The question, the description to find, or the statement, where the task takes one.
            left: Checkpoint of the left side: a name of this server's list, or a Hub id.
            right: Checkpoint of the right side.
            choices: For multiple_choice a list of texts, for pointing a list of boxes [x0, y0, x1, y1] from 0 to 1.
            box: For region_description: [x0, y0, x1, y1] from 0 to 1.
            ocr_text: Text in the picture, as read by OCR, for multiple_choice and vqa.
            mode: "measure" (one after the other: the times are valid) or "race" (both at once).
            left_quantization: none, int8 or nf4.
            right_quantization: none, int8 or nf4.
            left_prompt_order: image_first or instruction_first.
            right_prompt_order: image_first or instruction_first.
            image_size: Side of the model's input in pixels, between 14 and 1344; default: as trained.
            max_new_tokens: Most tokens in an answer, between 1 and this server's limit; default: the task's limit.
            temperature: Between 0 (greedy) and 5.
            seed: Seed of the sampling: a whole number between 0 and 2147483647.

        Returns:
            {"sides": {"left": answer, "right": answer}}; a side that failed has the reason in "error".
        """
        form = AskForm(task, text, _choices_text(choices), _box_text(box), ocr_text or "", mode)
        shared: dict[str, Any] = {
            "image_size": image_size, "max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed,
        }  # fmt: skip
        settings = ((left_quantization, left_prompt_order), (right_quantization, right_prompt_order))
        sides = {
            side: Side(checkpoint, cast(Quantization, quantization), cast(PromptOrder, order), **shared)
            for side, checkpoint, (quantization, order) in zip(SIDES, (left, right), settings, strict=True)
        }
        return answers(handlers, image, form, sides)

    return compare


def answers(handlers: Handlers, image: str, form: AskForm, sides: Mapping[str, Side]) -> dict[str, Any]:
    """Run the comparison to its end and return the answers as JSON. Raises RequestError or ImageError."""
    request = read_request(form, handlers.settings.limits)
    checked = {name: SideRun(read_side(side, handlers.settings)) for name, side in sides.items()}
    run = Run(request, handlers.read_picture(image), checked, read_mode(form.mode))
    cancel = threading.Event()
    for _ in follow(run, lambda: handlers.events(run, cancel, {}), cancel):
        pass
    return {"sides": {name: part.answer.to_json() for name, part in run.sides.items() if part.answer}}


def _choices_text(choices: Any) -> str:
    if choices is None or choices == "":
        return ""
    if isinstance(choices, str):
        return choices
    if not isinstance(choices, (list, tuple)) or len(choices) > 200:
        raise RequestError("The choices are a list of texts, or of boxes.")
    return "\n".join(
        _box_text(choice) if isinstance(choice, (list, tuple)) else " ".join(str(choice).split()) for choice in choices
    )


def _box_text(box: Any) -> str:
    if box is None or isinstance(box, str):
        return box or ""
    if not isinstance(box, (list, tuple)) or len(box) != 4:
        raise RequestError("A box is four numbers [x0, y0, x1, y1], each between 0 and 1.")
    try:
        return box_text(tuple(float(value) for value in box))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise RequestError("A box is four numbers [x0, y0, x1, y1], each between 0 and 1.") from None


def serve(handlers: Handlers) -> None:
    """Add the endpoint to the page. Its components are never shown; they give the endpoint its types and checks."""
    settings = handlers.settings
    numbers = {"type": "array", "items": {"type": "number"}}
    with gr.Row(visible=False):
        fields = [
            gr.Image(type="filepath", image_mode=None, label="image"),
            gr.Dropdown(list(TASKS), value="grounding", label="task"),
            gr.Textbox("", label="text"),
            gr.Textbox(settings.left, label="left"),
            gr.Textbox(settings.right, label="right"),
            _typed(gr.JSON(label="choices"), {"type": "array", "items": {"anyOf": [{"type": "string"}, numbers]}}),
            _typed(gr.JSON(label="box"), numbers),
            gr.Textbox("", label="ocr_text"),
            gr.Radio(list(MODES), value="measure", label="mode"),
            gr.Radio(list(QUANTIZATIONS), value=settings.quantization, label="left_quantization"),
            gr.Radio(list(QUANTIZATIONS), value=settings.quantization, label="right_quantization"),
            gr.Radio(list(PROMPT_ORDERS), value="image_first", label="left_prompt_order"),
            gr.Radio(list(PROMPT_ORDERS), value="image_first", label="right_prompt_order"),
            *(
                ranged(gr.Number(value, label=name), *number_range(name, settings.limits))
                for name, value in (("image_size", None), ("max_new_tokens", None), ("temperature", 0), ("seed", 0))
            ),
        ]
        result = _typed(gr.JSON(label="answers"), {"type": "object"})
        gr.Button("compare").click(
            make_compare(handlers),
            fields,
            result,
            api_name="compare",
            concurrency_limit=settings.concurrency,
            concurrency_id="models",
            show_progress="hidden",
        )


def _typed(component: Any, schema: dict[str, Any]) -> Any:
    """The component with its own schema: MCP clients do not accept gradio's for JSON, `{"type": {}}`."""
    component.api_info = lambda: schema
    return component
