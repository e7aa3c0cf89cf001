"""What a sample of each task must have before it can be asked and scored. Knows no format."""

from __future__ import annotations

import string

from vlcompare.evaluate.readers.base import RowError
from vlcompare.types import Sample

_NEEDS_TEXT = frozenset(("vqa", "document_vqa", "multiple_choice", "pointing", "grounding", "image_text_match", "chat"))
_NEEDS_REFERENCES = frozenset(
    (
        "captioning",
        "grounded_captioning",
        "region_description",
        "vqa",
        "document_vqa",
        "multiple_choice",
        "pointing",
        "image_text_match",
    )
)


def check_sample(sample: Sample, *, need_references: bool) -> None:
    """Raise RowError where a sample cannot be asked, or (with `need_references`) not be scored."""
    _check_characters(sample)
    if sample.task in _NEEDS_TEXT and not sample.text.strip():
        raise RowError(f"{sample.task} needs `text`")
    if sample.task == "region_description" and len(sample.boxes) != 1:
        raise RowError(f"region_description needs one box in `boxes`, not {len(sample.boxes)}")
    if sample.task in ("multiple_choice", "pointing"):
        _check_choices(sample)
    if not need_references:
        return
    if sample.task == "grounding" and len(sample.boxes) != 1:
        raise RowError(f"grounding needs one true box in `boxes`, not {len(sample.boxes)}")
    if sample.task in _NEEDS_REFERENCES and not any(reference.strip() for reference in sample.references):
        raise RowError(f"{sample.task} needs `references`")
    if sample.task == "image_text_match" and sample.references[0].strip().capitalize() not in ("True", "False"):
        raise RowError(f"the reference of image_text_match is 'True' or 'False', not {sample.references[0]!r}")


def is_scorable(sample: Sample) -> bool:
    """Whether a sample says what a right answer is."""
    if sample.task == "grounding":
        return len(sample.boxes) == 1
    return sample.task in _NEEDS_REFERENCES and any(reference.strip() for reference in sample.references)


def _check_characters(sample: Sample) -> None:
    """Half of a character (a lone surrogate, which JSON can spell) can be written to no file."""
    listed = (*sample.references, *(sample.choices or ()), *sample.tags.values())
    texts = (sample.id, sample.text, sample.ocr_text or "", sample.image_key, *listed)
    try:
        "".join(text for text in texts if isinstance(text, str)).encode()
    except UnicodeEncodeError as error:
        raise RowError(f"a text holds half of a character ({error.reason})") from error


def _check_choices(sample: Sample) -> None:
    count = len(sample.choices or ())
    if not 1 < count <= len(string.ascii_uppercase):
        raise RowError(f"{sample.task} needs 2 to 26 `choices`, not {count}")
    letters = string.ascii_uppercase[:count]
    for reference in sample.references:
        if reference.strip().upper() not in set(letters):
            raise RowError(
                f"the reference {reference!r} is not a letter of the {count} choices ({letters[0]}..{letters[-1]})"
            )
