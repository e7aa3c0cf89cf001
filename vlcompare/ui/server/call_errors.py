"""Errors of calls as one sentence for the client, without the server's paths and without a library's messages.

gradio sends the text of any exception to the client and prints its traceback. Here, errors raised on purpose keep their
sentence; any other becomes a constant sentence, and the operator's log says where it happened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NoReturn

import gradio as gr
from gradio.exceptions import ComponentProcessingError

from vlcompare.errors import VLCompareError
from vlcompare.runtime.faults import report
from vlcompare.ui.server.redact import UNEXPECTED, without_paths

UNREADABLE = "A value of this request is not of the kind that its field takes; the page at /?view=api lists them."
# gradio's message
_CHOICES = re.compile(r"Value: (.*?)(?: \(type: .*\))? is not in the list of choices: (\[.*\])\.?\Z", re.DOTALL)
REFUSED_CALL: ContextVar[list[bool] | None] = ContextVar("refused", default=None)  # for `http_errors`


def use_sentences(page: gr.Blocks) -> None:
    """Have every event of the page, however it is called, fail with a sentence."""
    original = page.process_api

    async def process_api(block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        function = page.fns[block_fn] if isinstance(block_fn, int) else block_fn
        try:
            return await original(block_fn, checked(function.inputs, inputs), *args, **kwargs)
        except Exception as error:
            failure, refused = in_a_sentence(error), REFUSED_CALL.get()
            if refused is not None and failure.message != UNEXPECTED:
                refused.append(True)
            raise failure from None

    page.process_api = process_api  # type: ignore[method-assign]
    page._format_processing_error = _unfit_value  # type: ignore[method-assign]


def call_error(sentence: str) -> gr.Error:
    """An error with this sentence, for which gradio prints no traceback."""
    return gr.Error(sentence, print_exception=False)


def in_a_sentence(error: Exception) -> gr.Error:
    """The error for the client; an unexpected one is reported to the operator."""
    if isinstance(error, gr.Error):
        sentence = _CHOICES.sub(_not_among, str(error.message))
    elif isinstance(error, (VLCompareError, ComponentProcessingError)):
        sentence = str(error)
    elif type(error).__module__.startswith("pydantic"):
        sentence = UNREADABLE
    else:
        report(error)
        sentence = UNEXPECTED
    return call_error(without_paths(sentence)[:2000])


def _not_among(found: re.Match[str]) -> str:
    return f"A field holds {found.group(1).strip(chr(39))[:40]!r}, which is not among its choices: {found.group(2)}."


def _unfit_value(block_fn: Any, index: int, block: Any, value: Any, is_input: bool, original_error: Exception) -> str:
    """The sentence for a value that its component does not take, or cannot show."""
    if not is_input:
        report(original_error)
        return UNEXPECTED
    return f"{field_name(block)} does not take this value."


def field_name(component: Any) -> str:
    """The field's name in a sentence."""
    label = str(getattr(component, "label", None) or "").strip()
    return f"The field {label!r}" if label else "This field"


def checked(components: Sequence[Any], values: Any) -> list[Any]:
    """The values, with numbers sent as text converted. Raises gr.Error for a value of a wrong type; files and
    choices are not checked here."""
    if not isinstance(values, (list, tuple)) or len(values) < len(components):
        sent = len(values) if isinstance(values, (list, tuple)) else 0
        refuse(f"This function takes {len(components)} values; {sent} were sent.")
    found = list(values)
    for index, (component, value) in enumerate(zip(components, values, strict=False)):
        if value is None or (isinstance(value, dict) and "path" in value):  # a file: see `file_values`
            continue
        if isinstance(component, gr.Number):
            found[index] = checked_number(component, value)
        elif isinstance(component, gr.Textbox) and isinstance(value, (dict, list)):
            refuse(f"{field_name(component)} takes a text.")
        elif isinstance(component, gr.Checkbox) and not isinstance(value, bool):
            refuse(f"{field_name(component)} takes true or false.")
    return found


def ranged(component: gr.Number, low: float, high: float) -> gr.Number:
    """The component, with a range for the sentence about a value that is no number. The handler checks the range, since
    an empty field or 0 may have a special meaning."""
    component.stated_range = low, high  # type: ignore[attr-defined]
    return component


def checked_number(component: gr.Number, value: Any) -> float | int | None:
    """The number; None if empty. Raises gr.Error, with the field and its range, for any other value."""
    low, high = component.minimum, component.maximum
    try:
        number = math.nan if isinstance(value, (bool, dict, list)) else float(value) if value != "" else None
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if number is None:
        return None
    if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
        stated = getattr(component, "stated_range", (low, high))
        if None not in stated:
            refuse(f"{field_name(component)} takes a number between {stated[0]:,} and {stated[1]:,}.")
        refuse(f"{field_name(component)} takes a number" + (f", at least {low:,}." if low is not None else "."))
    return value if isinstance(value, (int, float)) else number


def refuse(sentence: str) -> NoReturn:
    """Raise gr.Error with this sentence."""
    raise call_error(sentence)
