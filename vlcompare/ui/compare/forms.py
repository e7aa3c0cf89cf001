"""Form values, checked against the operator's limits and turned into a request and two sides.

Raises RequestError with one sentence for the user.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.tasks.boxes import format_box
from vlcompare.tasks.prompts import default_max_new_tokens, read_box, spec_of, validate
from vlcompare.types import DTYPES, MODES, PROMPT_ORDERS, QUANTIZATIONS, Box, Decoding, Request, Side
from vlcompare.ui.checkpoint_names import lookup
from vlcompare.ui.settings import AppSettings, Limits

DEVICES = ("auto", "cpu", "cuda")

RANGES: dict[str, tuple[float, float]] = {  # the token limit's is the operator's
    "image_size": (14, 1344),
    "temperature": (0.0, 5.0),
    "top_p": (0.01, 1.0),
    "top_k": (0, 100_000),
    "seed": (0, 2**31 - 1),
}
NUMBER_NAMES = {  # as the page calls them, and as programs do
    "image_size": "resolution (image_size)",
    "max_new_tokens": "token limit (max_new_tokens)",
    "temperature": "temperature",
    "top_p": "top-p (top_p)",
    "top_k": "top-k (top_k)",
    "seed": "seed",
}
SIDE_FIELDS = ("checkpoint", "quantization", "prompt_order", "image_size", "device", "dtype", *tuple(NUMBER_NAMES)[1:])
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[\w.-]{1,96})?\Z")


@contextmanager
def about(field: str) -> Iterator[None]:
    """Errors inside are about the component with this id, unless they already name another."""
    try:
        yield
    except VLCompareError as error:
        error.field = error.field or field
        raise


@dataclass(frozen=True, slots=True)
class AskForm:
    """The question's fields as the page holds them."""

    task: str = "grounding"
    text: str = ""
    choices: str = ""
    box: str = ""
    ocr_text: str = ""
    mode: str = "measure"


def read_request(form: AskForm, limits: Limits) -> Request:
    """The question, within the limits and with all that its task needs."""
    with about("vl-task"):
        spec = spec_of(form.task)
    with about("vl-text"):
        text = bounded(form.text, limits.text_characters, "text") if spec.text else ""
    with about("vl-ocr"):
        ocr_text = bounded(form.ocr_text, limits.text_characters, "OCR text") if spec.ocr_text else ""
    with about("vl-choices"):
        choices = _read_choices(form.choices, spec.choices, limits) if spec.choices else None
    with about("vl-box-text"):
        box = _read_region(form.box) if spec.box else None
    request = Request(task=form.task, text=text, choices=choices, box=box, ocr_text=ocr_text or None)
    # a side's own limit is checked with the side; this is for those that leave it to the task
    most = limits.new_tokens if default_max_new_tokens(request) > limits.new_tokens else None
    with about("vl-text" if spec.text else "vl-task"):
        return validate(replace(request, max_new_tokens=most))


def _read_choices(given: str, kind: str, limits: Limits) -> tuple[Any, ...]:
    lines = [line.strip() for line in bounded(given, limits.text_characters, "list of choices").splitlines()]
    choices = tuple(line for line in lines if line)
    if not 2 <= len(choices) <= limits.choices:
        raise RequestError(f"Give 2 to {limits.choices} choices, one a line; there are {len(choices)}.")
    if kind == "boxes":
        return tuple(read_box(line, f"choice {index + 1}") for index, line in enumerate(choices))
    return choices


def _read_region(given: str) -> Box:
    if not str(given or "").strip():
        raise RequestError("Mark the region on the picture, or type x0, y0, x1, y1 (0 to 1).")
    return read_box(bounded(given, 400, "box"))


def read_mode(mode: Any) -> str:
    """The mode, or RequestError."""
    with about("vl-mode"):
        _one_of(mode, MODES, "mode")
    return str(mode)


def read_side(form: Side, settings: AppSettings, side: str = "left") -> Side:
    """One side within the operator's limits; in `form`, as in the page's fields, a number may be text, "" or None.

    side: named in errors' `field`.
    """
    prompt_order = form.decoding.prompt_order
    for name, value, known in (
        ("quantization", form.quantization, QUANTIZATIONS),
        ("prompt_order", prompt_order, PROMPT_ORDERS),
        ("device", form.device, DEVICES),
        ("dtype", form.dtype, DTYPES),
    ):
        with about(f"vl-{side}-{name}"):
            _one_of(value, known, name.replace("_", " "))
    numbers = {}
    for name in NUMBER_NAMES:
        with about(f"vl-{side}-{name}"):
            numbers[name] = _number(getattr(form, name), name, settings.limits)
    with about(f"vl-{side}-checkpoint"):
        checkpoint = allowed_checkpoint(form.checkpoint, settings)
    device = settings.device if form.device == "auto" else form.device
    return replace(form, checkpoint=checkpoint, prompt_order=prompt_order, device=device, **numbers)


def allowed_checkpoint(name: Any, settings: AppSettings) -> str:
    """A checkpoint that this server may load: offered by name, a Hub id, or a folder below the allowed path."""
    name = str(name or "").strip()
    if not name:
        raise RequestError("This side has no checkpoint: choose one.")
    if settings.offered:
        if name not in settings.offered:
            raise RequestError(f"{name} is not offered here; choose one of {', '.join(settings.offered)}.")
        return name
    if name in (settings.left, settings.right):  # what the operator opens the page with
        return name
    looks_like_path = name.startswith((".", "/", "~")) or "\\" in name or ":" in name or name.count("/") > 1
    if settings.allow_path is not None and (folder := _folder_below(settings.allow_path, name)) is not None:
        return folder
    if looks_like_path or ".." in name:
        raise RequestError("Folders on the server are only opened below the path that its operator allows.")
    if not _HUB_ID.match(name) or ("/" not in name and lookup(name) is None):
        raise RequestError(f"{name[:80]!r} is neither a known checkpoint nor a Hub id (owner/name).")
    return name


def may_be_folder(checkpoint: str, settings: AppSettings) -> bool:
    """Whether a checkpoint may be a folder of this server: where its operator names it, or below the allowed path.

    Whatever else `allowed_checkpoint` returns is a name, and a folder of that name is not looked for.
    """
    if checkpoint in (settings.left, settings.right, *settings.offered, *settings.preload):
        return True
    return settings.allow_path is not None and _folder_below(settings.allow_path, checkpoint) == checkpoint


def _folder_below(allowed: Path, name: str) -> str | None:
    """The folder of this name below the allowed path, given relative to it or whole; None for whatever else.

    By os.path, which has an answer for names that are too long, lead in a circle, or name a user who does not exist. A
    name that leads elsewhere is not looked up on the disk.
    """
    root = os.path.realpath(allowed)
    path = os.path.normpath(os.path.join(root, os.path.expanduser(name) if name.startswith("~/") else name))
    roots = (os.path.abspath(allowed), root)
    if not any(path.startswith(os.path.join(one, "")) for one in roots):
        return None
    folder = os.path.realpath(path)
    return folder if folder.startswith(os.path.join(root, "")) and os.path.isdir(folder) else None


def bounded(value: Any, characters: int, what: str) -> str:
    """Text within the limit, without NUL, which no tokenizer takes."""
    text = str(value or "").replace("\x00", "")
    if len(text) > characters:
        raise RequestError(f"The {what} has {len(text):,} characters; at most {characters:,} are taken here.")
    return text


def ask_form_of(request: Request, mode: str = "measure") -> AskForm:
    """The fields that would ask `request` again."""
    choices = ""
    if request.choices:
        choices = "\n".join(box_text(c) if isinstance(c, Box) else str(c) for c in request.choices)
    return AskForm(
        request.task, request.text, choices, box_text(request.box) if request.box else "", request.ocr_text or "", mode
    )


def shown_side(side: Side) -> Side:
    """The side as the page's fields show it: defaults for what is None, and a device that the page offers."""
    return replace(side, **asdict(side.decoding), device=side.device if side.device in DEVICES else "auto")


def box_text(box: Box) -> str:
    """`0.10, 0.60, 0.35, 0.87`"""
    return ", ".join(f"{value:.2f}" for value in box)


def _one_of(value: Any, known: tuple[str, ...], what: str) -> None:
    if value not in known:
        raise RequestError(f"The {what} is one of {', '.join(known)}, not {str(value)[:40]!r}.")


def number_range(name: str, limits: Limits) -> tuple[float, float]:
    """The range of this field's number."""
    return (1, limits.new_tokens) if name == "max_new_tokens" else RANGES[name]


def says_nothing(name: str, value: Any) -> bool:
    """Whether this field of a side is empty: without a value, or with 0 where the default is the model's own."""
    return value in (None, "") or (name in NUMBER_NAMES and _default(name) is None and value in (0, "0"))


def _default(name: str) -> Any:
    return getattr(Decoding(), name, None)


def _number(value: Any, name: str, limits: Limits) -> Any:
    """A number within its range; the default for a field that says nothing."""
    if says_nothing(name, value):
        return _default(name)
    low, high = number_range(name, limits)
    kind = float if name in ("temperature", "top_p") else int
    whole = "whole " if kind is int else ""
    refused = f"The {NUMBER_NAMES[name]} must be a {whole}number between {low:,} and {high:,}, not {str(value)[:40]!r}."
    try:
        if isinstance(value, bool):
            raise RequestError(refused)
        number = kind(float(value))
    except (TypeError, ValueError, OverflowError):
        raise RequestError(refused) from None
    if not low <= number <= high:
        raise RequestError(refused)
    return number


def question_of(request: Request) -> tuple[Any, ...]:
    """What is asked, comparable: boxes at two decimals, as the form holds them."""
    return (
        request.task,
        request.text.strip(),
        tuple(_text(choice) for choice in request.choices or ()),
        _text(request.box),
        (request.ocr_text or "").strip(),
    )


def _text(value: Any) -> str:
    return format_box(value) if isinstance(value, Box) else str(value or "").strip()
