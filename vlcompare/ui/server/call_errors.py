"""What a client is told where a call fails: one sentence, without the server's paths and without a library's words.

gradio shows the text of any error to whoever caused it, and prints a traceback for it. `speak` stands between: an error
raised on purpose keeps its sentence, every other becomes a constant one, and the operator is told where it happened.
"""

from __future__ import annotations

import math
import re
from contextvars import ContextVar
from typing import Any

import gradio as gr
from gradio.exceptions import ComponentProcessingError

from vlcompare.errors import VLCompareError
from vlcompare.runtime.faults import report
from vlcompare.ui.server.redact import UNEXPECTED, without_paths

UNREADABLE = "A value of this request is not of the kind that its field takes; the page at /?view=api lists them."
# gradio's words
_CHOICES = re.compile(r"Value: (.*?)(?: \(type: .*\))? is not in the list of choices: (\[.*\])\.?\Z", re.DOTALL)
REFUSED: ContextVar[list[bool] | None] = ContextVar("refused", default=None)  # told to the HTTP answer of this call


def speak(page: gr.Blocks) -> None:
    """Have every event of the page, however it is called, fail with a sentence."""
    original = page.process_api

    async def process_api(block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        function = page.fns[block_fn] if isinstance(block_fn, int) else block_fn
        try:
            return await original(block_fn, checked(function.inputs, inputs), *args, **kwargs)
        except Exception as error:
            said, told = spoken(error), REFUSED.get()
            if told is not None and said.message != UNEXPECTED:
                told.append(True)
            raise said from None

    page.process_api = process_api  # type: ignore[method-assign]
    page._format_processing_error = _unfit  # type: ignore[method-assign]


def spoken(error: Exception) -> gr.Error:
    """What is told of an error; where nobody foresaw it, the operator is told as well."""
    if isinstance(error, gr.Error):
        said = _CHOICES.sub(_not_among, str(error.message))
    elif isinstance(error, (VLCompareError, ComponentProcessingError)):
        said = str(error)
    elif type(error).__module__.startswith("pydantic"):
        said = UNREADABLE
    else:
        report(error)
        said = UNEXPECTED
    return gr.Error(without_paths(said)[:2000], print_exception=False)


def _not_among(found: re.Match[str]) -> str:
    return f"A field holds {found.group(1).strip(chr(39))[:40]!r}, which is not among its choices: {found.group(2)}."


def _unfit(block_fn: Any, index: int, block: Any, value: Any, is_input: bool, original_error: Exception) -> str:
    """In place of gradio's words about a value that its component does not take, or cannot show."""
    if not is_input:
        report(original_error)
        return UNEXPECTED
    return f"{field_name(block)} does not take this value."


def field_name(component: Any) -> str:
    """What the field is called in a sentence."""
    label = str(getattr(component, "label", None) or "").strip()
    return f"The field {label!r}" if label else "This field"


def checked(components: list[Any], values: Any) -> list[Any]:
    """The values with numbers that came as text made numbers. Raises gr.Error where a value is of a kind that its
    component cannot take; files and choices are not looked at."""
    if not isinstance(values, (list, tuple)) or len(values) < len(components):
        sent = len(values) if isinstance(values, (list, tuple)) else 0
        refuse(f"This function takes {len(components)} values; {sent} were sent.")
    found = list(values)
    for index, (component, value) in enumerate(zip(components, values, strict=False)):
        if value is None:
            continue
        if isinstance(component, gr.Number):
            found[index] = checked_number(component, value)
        elif isinstance(component, gr.Textbox) and isinstance(value, (dict, list)):
            refuse(f"{field_name(component)} takes a text.")
        elif isinstance(component, gr.Checkbox) and not isinstance(value, bool):
            refuse(f"{field_name(component)} takes true or false.")
    return found


def ranged(component: gr.Number, low: float, high: float) -> gr.Number:
    """The component, whose range is told where a value is no number at all; the handler checks the range itself, in
    which an empty field or 0 may have a meaning of its own."""
    component.told_range = low, high  # type: ignore[attr-defined]
    return component


def checked_number(component: gr.Number, value: Any) -> float | int | None:
    """The number; gr.Error, with the field and its range, for what is none or lies outside of the component's."""
    low, high = component.minimum, component.maximum
    try:
        number = math.nan if isinstance(value, (bool, dict, list)) else float(value) if value != "" else None
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if number is None:
        return None
    if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
        told = getattr(component, "told_range", (low, high))
        if None not in told:
            refuse(f"{field_name(component)} takes a number between {told[0]:,} and {told[1]:,}.")
        refuse(f"{field_name(component)} takes a number" + (f", at least {low:,}." if low is not None else "."))
    return value if isinstance(value, (int, float)) else number


def refuse(sentence: str) -> None:
    """Raise gr.Error with this sentence, which leaves no trace in the log."""
    raise gr.Error(sentence, print_exception=False)
