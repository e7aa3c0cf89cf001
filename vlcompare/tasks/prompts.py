"""What can be asked: the table of tasks with every fact about each, the check of a request, and its turns.

`forms` holds the wording, `reading` how an answer is read. A request is checked once, by `validate`, where it enters;
building, encoding and running it need no further check.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vlcompare.errors import RequestError
from vlcompare.tasks.forms import MAX_CHOICES, SOURCES, form_of, known_source
from vlcompare.types import PROMPT_ORDERS, TASKS, Box, Decoding, Request

MAX_TEXT = 4000  # characters of a question, of the OCR text, and of each turn of a chat's history
MAX_CHOICE = 500
MAX_EXCHANGES = 32
MAX_NEW_TOKENS = 16384
MAX_SEED = 2**63 - 1

Reads = Literal["text", "answer", "letter", "truth", "boxes", "phrases"]
Group = Literal["summary", "reading", "retrieval"]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task: what the parser, the page, the readers of data sets and the figures have to know about it.

    `group` follows the paper's abstract (arXiv 2409.05395): "retrieval" where the answer names one item of the context,
    a region of the picture or one of the choices; "reading" where it is text in the picture; "summary" where a summary
    of the picture is enough.
    """

    name: str
    title: str
    hint: str  # one line for the page: what to type, and what comes back
    reads: Reads  # how the answer is read, see `reading`
    group: Group  # what an answer needs
    text: str = ""  # what its text is called ("question"); "" where it takes none
    choices: Literal["", "texts", "boxes"] = ""
    box: bool = False
    ocr_text: bool = False
    history: bool = False
    truth: Literal["", "references", "box"] = "references"  # where a sample says what is right; "": nowhere
    stops_at_newline: bool = False
    example: str = ""  # a text to try

    @property
    def structured(self) -> bool:
        """Whether an answer can be unreadable: it is more than plain text."""
        return self.reads not in ("text", "answer")

    @property
    def located(self) -> bool:
        """Whether a sample's first box is what it is about: asked for, or asked about."""
        return self.box or self.truth == "box"

    @property
    def max_new_tokens(self) -> int:
        """The limit where neither the request nor its source has one."""
        return form_of(Request(self.name)).max_new_tokens


SPECS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            "captioning",
            "Caption",
            "One sentence about the whole picture; nothing to type.",
            "text",
            "summary",
        ),
        TaskSpec(
            "grounded_captioning",
            "Caption with boxes",
            "One sentence, each thing it names with its box; nothing to type.",
            "phrases",
            "retrieval",
        ),
        TaskSpec(
            "region_description",
            "Describe a region",
            "Give a box; the answer is a short description of what is in it.",
            "text",
            "summary",
            box=True,
            stops_at_newline=True,
        ),
        TaskSpec(
            "vqa",
            "Question",
            "Ask about the picture; the answer is a word or a short phrase.",
            "answer",
            "summary",
            text="question",
            ocr_text=True,
            example="What color is the car?",
        ),
        TaskSpec(
            "document_vqa",
            "Document question",
            "Ask about a document; upper and lower case are kept as typed.",
            "answer",
            "reading",
            text="question",
            example="What is the total for Q3?",
        ),
        TaskSpec(
            "multiple_choice",
            "Multiple choice",
            "A question and its possible answers; the answer is a letter.",
            "letter",
            "retrieval",
            text="question",
            choices="texts",
            ocr_text=True,
            example="Where is the cat?",
        ),
        TaskSpec(
            "pointing",
            "Choose a box",
            "A question and some boxes; the answer is the letter of one of them.",
            "letter",
            "retrieval",
            text="question",
            choices="boxes",
            example="Which object is blue?",
        ),
        TaskSpec(
            "grounding",
            "Locate",
            "Describe one thing; the answer is its box.",
            "boxes",
            "retrieval",
            text="description",
            truth="box",
            example="the red car on the left",
        ),
        TaskSpec(
            "image_text_match",
            "True or false",
            "State something about the picture; the answer is True or False.",
            "truth",
            "summary",
            text="statement",
            example="The cat is left of the dog.",
        ),
        TaskSpec(
            "chat",
            "Chat",
            "Say anything; earlier questions and answers stay in the prompt.",
            "text",
            "summary",
            text="message",
            history=True,
            truth="",
            stops_at_newline=True,
            example="What is unusual about this picture?",
        ),
    )
}
assert tuple(SPECS) == TASKS


def spec_of(task: str) -> TaskSpec:
    """The task's row of the table.

    Raises RequestError for a name that is not in it.
    """
    if not isinstance(task, str) or task not in SPECS:
        raise RequestError(f"Unknown task {task!r}; the tasks are {', '.join(SPECS)}.")
    return SPECS[task]


def task_title(task: str) -> str:
    """What a task is called wherever a person reads it; a name that is not in the table in plain words."""
    return SPECS[task].title if task in SPECS else task.replace("_", " ")


def build_turns(request: Request) -> tuple[str, ...]:
    """The turns of a validated request's prompt, each tokenised on its own, with "<image>" where the image goes."""
    return form_of(request).build(request)


def default_max_new_tokens(request: Request) -> int:
    """The limit on new tokens where the request names none: its source's own, else the task's."""
    spec_of(request.task)
    return form_of(request).max_new_tokens


def require_known_source(source: str | None) -> None:
    """Refuse a source that no form belongs to; for what a person typed, as against the name of a data set."""
    if source and not known_source(source):
        raise RequestError(f"Unknown prompt form {source!r}; the forms are {', '.join(SOURCES)}.")


def validate(request: Request) -> Request:
    """The request with its values in their proper types, and without what its task does not take.

    Raises RequestError with one sentence on the first thing that cannot be asked.
    """
    spec = spec_of(request.task)
    check_decoding(request)
    if request.source is not None and not isinstance(request.source, str):
        raise RequestError(f"The source must be the name of a data set, not {_short(request.source)}.")
    history = tuple(map(_exchange, _items(request.history, "chat's history"))) if spec.history else ()
    if len(history) > MAX_EXCHANGES:
        raise RequestError(f"The chat has {len(history)} earlier exchanges; at most {MAX_EXCHANGES} are sent along.")
    ocr_text = _text(request.ocr_text, "OCR text") or None if spec.ocr_text and request.ocr_text is not None else None
    return dataclasses.replace(
        request,
        text=_needed_text(request.text, spec) if spec.text else "",
        choices=_choices(request.choices, spec) if spec.choices else None,
        box=_needed_box(request.box) if spec.box else None,
        ocr_text=ocr_text,
        history=history,
    )


def check_decoding(decoding: Request | Decoding) -> None:
    """Raise RequestError where one of the fields of Decoding has no value that can be used."""
    if decoding.prompt_order not in PROMPT_ORDERS:
        raise RequestError(
            f"The prompt order {_short(decoding.prompt_order)} is unknown; take {' or '.join(PROMPT_ORDERS)}."
        )
    if decoding.max_new_tokens is not None:
        _whole("max_new_tokens", decoding.max_new_tokens, 1, MAX_NEW_TOKENS)
    _real("temperature", decoding.temperature, 0.0, 5.0)
    _real("top_p", decoding.top_p, 0.0, 1.0)
    if decoding.top_p == 0:
        raise RequestError("top_p must be above 0 and at most 1; 0 would leave no token to choose.")
    _whole("top_k", decoding.top_k, 0, 1_000_000)
    _whole("seed", decoding.seed, 0, MAX_SEED)


def read_box(value: Any, name: str = "box") -> Box:
    """A Box out of four numbers, or out of text ("0.1,0.2,0.5,0.6", with or without brackets).

    Raises RequestError if it is no box, is inverted or empty, or exceeds 0..1.
    """
    shape = "four numbers x0,y0,x1,y1, each a share of the picture's width or height from 0 to 1"
    numbers = _numbers(value)
    if numbers is None:
        raise RequestError(f"The {name} {_short(value)} cannot be read; give {shape}.")
    if any(not 0.0 <= number <= 1.0 for number in numbers):
        raise RequestError(f"The {name} {_short(value)} leaves the picture; give {shape}.")
    box = Box(*numbers)
    if not box.area:
        raise RequestError(
            f"The {name} {_short(value)} is inverted or empty; x0 must be less than x1, and y0 less than y1."
        )
    return box


def _numbers(value: Any) -> tuple[float, ...] | None:
    """Four finite numbers, not clipped; None for anything else."""
    if isinstance(value, str):
        value = value.strip().removeprefix("[").removesuffix("]").replace(",", " ").replace(";", " ").split()
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if len(numbers) == 4 and all(map(math.isfinite, numbers)) else None


def _needed_text(text: Any, spec: TaskSpec) -> str:
    text = _text("" if text is None else text, spec.text)
    if not text.strip():
        article = "an" if spec.text[0] in "aeiou" else "a"
        raise RequestError(f'The task "{spec.title}" ({spec.name}) needs {article} {spec.text}; type one.')
    return text


def _needed_box(box: Any) -> Box:
    if box is None:
        raise RequestError('The task "Describe a region" (region_description) needs a box; give x0,y0,x1,y1.')
    return read_box(box)


def _choices(choices: Any, spec: TaskSpec) -> tuple[Any, ...]:
    items = [] if isinstance(choices, str) else _items(choices, "choices")
    if not items:
        kind = "boxes" if spec.choices == "boxes" else "possible answers"
        raise RequestError(f'The task "{spec.title}" ({spec.name}) needs choices: a list of {kind}.')
    if not 2 <= len(items) <= MAX_CHOICES:
        counted = "is 1 choice" if len(items) == 1 else f"are {len(items)} choices"
        raise RequestError(f"There {counted}; give 2 to {MAX_CHOICES}, one for each letter.")
    if spec.choices == "boxes":
        return tuple(read_box(item, f"choice {index + 1}") for index, item in enumerate(items))
    texts = tuple(_text(item, f"choice {index + 1}", MAX_CHOICE) for index, item in enumerate(items))
    for index, text in enumerate(texts):
        if not text.strip():
            raise RequestError(f"The choice {index + 1} is empty; type an answer, or leave it out.")
    return texts


def _items(value: Any, name: str) -> list[Any]:
    try:
        if isinstance(value, (Mapping, str, bytes)):
            raise TypeError
        return [] if value is None else list(value)
    except TypeError:
        raise RequestError(f"The {name} must be a list, not {_short(value)}.") from None


def _exchange(item: Any) -> tuple[str, str]:
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        raise RequestError(f"A chat's history is a list of (question, answer) pairs, not {_short(item)}.")
    return _text(item[0], "earlier question"), _text(item[1], "earlier answer")


def _text(text: Any, name: str, limit: int = MAX_TEXT) -> str:
    if not isinstance(text, str):
        raise RequestError(f"The {name} must be text, not {_short(text)}.")
    if len(text) > limit:
        raise RequestError(f"The {name} has {len(text):,} characters; at most {limit:,} are taken, so shorten it.")
    if "\0" in text:
        raise RequestError(f"The {name} contains a NUL character; remove it.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RequestError(f"The {name} contains half of a character (a lone surrogate); remove it.")
    return text


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number from {low:,} to {high:,}, not {_short(value)}.")


def _real(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}, not {_short(value)}.")


def _short(value: Any) -> str:
    text = repr(tuple(value) if isinstance(value, Box) else value)
    return text if len(text) <= 60 else text[:57] + "..."
