"""Every prompt form, word for word, as a table: the turns of each task, and of each benchmark that has its own.

Whether a request makes sense is checked in `prompts`. The wording is that of the published checkpoints' training and
evaluation (arXiv 2409.05395): where an evaluator exists its form is the default, and "training" is the training layout
where that differs. The first turn is the instruction; the image stands before it, or behind it ("instruction first",
the task-aware encoding).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass

from vlcompare.tasks.boxes import format_box
from vlcompare.tasks.sequence import IMAGE_MARK
from vlcompare.types import Box, Request

CAPTION = "Provide a one-sentence caption for the provided image."
GROUNDED_CAPTION = "Provide a one-sentence caption for the image and mention each entity."
REGION = "Provide a short description of the region:"
ANSWER = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LOCATE = "Locate the region that is described by:"
MATCH = "Determine if the image matches the description:"
OCR_HEADER = "OCR text:"

MAX_CHOICES = len(string.ascii_uppercase)


def format_text(text: str, *, capitalize: bool = True, punctuate: bool = True) -> str:
    """The clean-up that all text went through in training.

    `str.capitalize` lower-cases everything behind the first letter ("NASA" gives "Nasa"): so the models know it.
    """
    text = text.strip()
    if capitalize:
        text = text.capitalize()
    return text if not punctuate or text.endswith((".", "?", "!")) else text + "."


@dataclass(frozen=True, slots=True)
class Wording:
    """One wording. `joined`: with the image first, the turns are one string (and so one tokenisation)."""

    turns: Callable[[Request], tuple[str, ...]]
    max_new_tokens: int
    joined: bool = False
    image_always_first: bool = False  # an evaluator that ignores the order asked for

    def build(self, request: Request) -> tuple[str, ...]:
        """The turns in the order asked for, with IMAGE_MARK where the image is."""
        instruction, *rest = self.turns(request)
        if request.prompt_order == "instruction_first" and not self.image_always_first:
            return (instruction, IMAGE_MARK, *rest)
        if self.joined:
            return (IMAGE_MARK, instruction + "".join(rest))
        return (IMAGE_MARK, instruction, *rest)


def _question(text: str) -> str:
    return f"\nQuestion: {text}\nAnswer: "


def _ocr(request: Request) -> str:
    """The OCR text under its header, which the AI2D data bring along and TextVQA's do not."""
    text = (request.ocr_text or "").strip()
    return text if text.startswith(OCR_HEADER) else f"{OCR_HEADER}\n{text}"


def _region_description(request: Request) -> tuple[str, ...]:
    assert request.box is not None
    return f"{REGION}\n", f"{format_box(request.box)}.\n"


def _vqa(request: Request) -> tuple[str, ...]:
    return ANSWER, _question(format_text(request.text))


def _document_vqa(request: Request) -> tuple[str, ...]:
    return ANSWER, _question(format_text(request.text, capitalize=False))


def _textvqa(request: Request) -> tuple[str, ...]:
    return ANSWER, f"\n{_ocr(request)}{_question(format_text(request.text))}"


def _pope(request: Request) -> tuple[str, ...]:
    return ANSWER, f"\n{format_text(request.text)}\n"


def _options(lines: list[str]) -> list[str]:
    turns = [f"{letter}: {line}\n" for letter, line in zip(string.ascii_uppercase, lines, strict=False)]
    turns[-1] += "Answer: "
    return turns


def _choose(request: Request, *, capitalize: bool) -> tuple[str, ...]:
    instruction = f"{LETTER}\n{_ocr(request)}" if (request.ocr_text or "").strip() else LETTER
    question = format_text(request.text, capitalize=capitalize)
    options = _options([format_text(str(choice), punctuate=False) for choice in request.choices or ()])
    return instruction, f"\nQuestion: {question}\n", *options


def _multiple_choice(request: Request) -> tuple[str, ...]:
    return _choose(request, capitalize=True)


def _ai2d(request: Request) -> tuple[str, ...]:
    return _choose(request, capitalize=False)


def _boxes(request: Request) -> list[str]:
    return _options([f"{format_box(Box(*choice))}." for choice in request.choices or ()])


def _pointing(request: Request) -> tuple[str, ...]:
    return LETTER, f"\nQuestion: {format_text(request.text, capitalize=False)}\n", *_boxes(request)


def _pointing_training(request: Request) -> tuple[str, ...]:
    return f"{LETTER}\n", f"\nQuestion: {format_text(request.text)}\n", *_boxes(request)


def _grounding(request: Request) -> tuple[str, ...]:
    return LOCATE, f"\n{format_text(request.text)}\n"


def _match(request: Request) -> tuple[str, ...]:
    return f"{MATCH}\n", f"{format_text(request.text)}\n"


def _chat(request: Request) -> tuple[str, ...]:
    """Alternating turns; the very first was capitalised behind its image mark, so it is lower-case throughout."""
    turns = [part for exchange in request.history for part in exchange] + [request.text]
    mark = f"{IMAGE_MARK}\n"
    first = format_text(mark + turns[0].strip())[len(mark) :]
    return f"{first}\n", *(f"{format_text(part)}\n" for part in turns[1:])


def _fixed(instruction: str) -> Callable[[Request], tuple[str, ...]]:
    return lambda request: (f"{instruction}\n",)


# task -> source -> form; the source "" is the default, "training" the training layout where it differs
FORMS: dict[str, dict[str, Wording]] = {
    "captioning": {
        "": Wording(_fixed(CAPTION), 40),
        "coco": Wording(_fixed(CAPTION), 40),
        "nocaps": Wording(_fixed(CAPTION), 40),
        "textcaps": Wording(_fixed(CAPTION), 15),
    },
    "grounded_captioning": {"": Wording(_fixed(GROUNDED_CAPTION), 120)},
    "region_description": {"": Wording(_region_description, 40)},
    "vqa": {
        "": Wording(_vqa, 15),
        "vqav2": Wording(_vqa, 15),
        "gqa": Wording(_vqa, 20, joined=True),
        "textvqa": Wording(_textvqa, 20, joined=True),
        "pope": Wording(_pope, 120, joined=True),
        "docvqa": Wording(_document_vqa, 20),
        "infographicvqa": Wording(_document_vqa, 20),
        "training": Wording(_vqa, 15),
    },
    "document_vqa": {
        "": Wording(_document_vqa, 20),
        "docvqa": Wording(_document_vqa, 20),
        "infographicvqa": Wording(_document_vqa, 20),
    },
    "multiple_choice": {
        "": Wording(_multiple_choice, 10),
        "visual7w": Wording(_multiple_choice, 20, image_always_first=True),
        "ai2d": Wording(_ai2d, 10),
    },
    "pointing": {
        "": Wording(_pointing, 20),
        "visual7w": Wording(_pointing, 20),
        "training": Wording(_pointing_training, 20),
    },
    "grounding": {
        "": Wording(_grounding, 120),
        "refcoco": Wording(_grounding, 120),
    },
    "image_text_match": {
        "": Wording(_match, 120, joined=True),
        "vsr": Wording(_match, 120, joined=True),
        "training": Wording(_match, 120),
    },
    "chat": {"": Wording(_chat, 256)},
}

SOURCES = tuple(sorted({source for forms in FORMS.values() for source in forms if source}))
_NAMES = {source: source for source in SOURCES}  # how a data set's name begins -> its form
_NAMES |= {"infographic": "infographicvqa", "v7w": "visual7w", "visualspatialreasoning": "vsr"}


def known_source(source: str | None) -> str:
    """The benchmark a data set's name means ("RefCOCO+ testA" is "refcoco"), or "" where no form is special to it."""
    name = re.sub(r"[^a-z0-9]", "", (source or "").lower())
    return next((known for start, known in _NAMES.items() if name.startswith(start)), "")


def form_of(request: Request) -> Wording:
    """The request's form: its source's own where there is one for the task, else the task's default.

    A question with OCR text and no source takes TextVQA's form, the only one for questions that has a place for it.
    """
    forms = FORMS[request.task]
    source = known_source(request.source)
    if request.task == "vqa" and not request.source and (request.ocr_text or "").strip():
        source = "textvqa"
    return forms.get(source, forms[""])
