"""Multiple choice as AI2D and Visual7W publish it.

Visual7W lists the right answer apart from the wrong ones: the four are put into an order that follows from the
question's id alone, so it is the same on every machine and says nothing about the answer.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterator
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.base import (
    DatasetSource,
    Issue,
    Located,
    RowError,
    checked_box,
    each,
    id_of,
    is_id,
    json_lines,
    json_object,
    picture,
    picture_size,
    text_of,
    texts_of,
)
from vlcompare.types import Box, Sample


def read(source: DatasetSource) -> Iterator[Located | Issue]:
    """Samples of AI2D or Visual7W, as declared."""
    return _ai2d(source) if source.format == "ai2d" else _visual7w(source)


# ---- AI2D: questions/*.json beside images/, each {imageName, questions: {text: {answerTexts, correctAnswer}}} --------


def _ai2d(source: DatasetSource) -> Iterator[Located | Issue]:
    if source.path.is_file():
        yield from each(source, json_lines(source.path), _ai2d_line)
        return
    folder = source.path / "questions" if (source.path / "questions").is_dir() else source.path
    for path in sorted(folder.glob("*.json")):
        try:
            data = json_object(path)
            questions = list(data["questions"].items())
        except (SampleError, KeyError, TypeError, AttributeError) as error:
            yield Issue(path.name, f"no AI2D question file ({error})")
            continue
        rows = ((f"{path.name} question {n}", (data, text, row)) for n, (text, row) in enumerate(questions, 1))
        yield from each(source, rows, _ai2d_question)


def _ai2d_question(source: DatasetSource, location: str, value: tuple[dict[str, Any], str, dict[str, Any]]) -> Sample:
    data, text, row = value
    name = str(data["imageName"])
    if source.images is None and (source.path / "images").is_dir():
        name = f"images/{name}"
    return _letters(
        source, id_of(row, "questionId", default=location), name, text, row["answerTexts"], row["correctAnswer"], "ai2d"
    )


def _ai2d_line(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
    """A line {image, question, options, answer: index}, as conversions of AI2D have it."""
    options = row.get("options") or row["answerTexts"]
    answer = row["answer"] if "answer" in row else row["correctAnswer"]
    key = id_of(row, "id", "question_id", default=location.replace("line ", "ai2d-"))
    return _letters(source, key, row["image"], text_of(row, "question"), options, answer, "ai2d", row.get("ocr_text"))


def _letters(
    source: DatasetSource,
    key: Any,
    image: Any,
    text: str,
    options: Any,
    answer: Any,
    name: str,
    ocr_text: str | None = None,
) -> Sample:
    path, image_key = picture(source, image)
    return Sample(
        id=str(key),
        image=path,
        task="multiple_choice",
        text=text,
        choices=texts_of(options, "the choices"),
        references=(letter_of(answer, len(options)),),
        source=source.source or name,
        ocr_text=ocr_text,
        image_key=image_key,
    )


def letter_of(answer: Any, count: int) -> str:
    """The letter of an answer given as an index (0 is the first) or as a letter."""
    text = str(answer).strip()
    index = int(text) if text.isdecimal() else string.ascii_uppercase.find(text.upper()) if len(text) == 1 else -1
    if not 0 <= index < count:
        raise RowError(f"the answer {answer!r} is none of the {count} choices")
    return string.ascii_uppercase[index]


# ---- Visual7W: `images` [{filename, split, qa_pairs: [{qa_id, question, answer, multiple_choices}]}] -----------------


def _visual7w(source: DatasetSource) -> Iterator[Located | Issue]:
    data = json_object(source.path)
    if not isinstance(data.get("images"), list):
        raise SampleError(f"{source.path} is no Visual7W file: it has no list `images`.")
    listed = data.get("boxes")
    boxes = {
        row["box_id"]: row
        for row in (listed if isinstance(listed, list) else ())
        if isinstance(row, dict) and is_id(row.get("box_id"))
    }
    for number, image in enumerate(data["images"], 1):
        try:
            pairs = list(image["qa_pairs"])
        except (KeyError, TypeError):
            yield Issue(f"image {number}", "no `qa_pairs`")
            continue
        if source.split and image.get("split") not in (None, source.split):
            continue
        rows = ((f"image {number} pair {n}", (image, pair, boxes)) for n, pair in enumerate(pairs, 1))
        yield from each(source, rows, _visual7w_pair)


def _visual7w_pair(source: DatasetSource, location: str, value: tuple[Any, Any, dict[Any, Any]]) -> Sample:
    image, pair, boxes = value
    path, image_key = picture(source, image["filename"])
    options = [pair["answer"], *pair["multiple_choices"]]
    order = sorted(range(len(options)), key=lambda i: hashlib.sha256(f"{pair['qa_id']}:{i}".encode()).digest())
    pointing = bool(boxes)
    choices: tuple[Any, ...] = tuple(options[i] for i in order)
    if pointing:
        choices = _region_boxes(source, [boxes[key] for key in choices], image)
    return Sample(
        id=id_of(pair, "qa_id"),
        image=path,
        task="pointing" if pointing else "multiple_choice",
        text=text_of(pair, "question"),
        choices=choices,
        references=(string.ascii_uppercase[order.index(0)],),
        source=source.source or "visual7w",
        split=image.get("split"),
        tags={"question_type": pair["type"]} if pair.get("type") else {},
        image_key=image_key,
    )


def _region_boxes(source: DatasetSource, rows: list[dict[str, Any]], image: dict[str, Any]) -> tuple[Box, ...]:
    """The format itself says how its boxes are: x, y, width, height in pixels."""
    if image.get("width") and image.get("height"):
        width, height = image["width"], image["height"]
    else:
        width, height = picture_size(source, None, image["filename"])
    return tuple(
        checked_box(
            [
                max(0.0, row["x"] / width),
                max(0.0, row["y"] / height),
                min(1.0, (row["x"] + row["width"]) / width),
                min(1.0, (row["y"] + row["height"]) / height),
            ]
        )
        for row in rows
    )
