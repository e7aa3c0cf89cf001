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
from vlcompare.evaluate.readers.ai2d_letters import lettered_picture
from vlcompare.evaluate.readers.base import Item, checked_box, each, id_of, is_id, row_size, text_of, texts_of
from vlcompare.evaluate.readers.choice_rows import letter_of
from vlcompare.evaluate.readers.opening import json_object
from vlcompare.evaluate.readers.pictures import picture, picture_size
from vlcompare.evaluate.readers.source import DatasetSource, Issue
from vlcompare.types import Box, Sample


def read(source: DatasetSource) -> Iterator[Item]:
    """Samples of AI2D or Visual7W, as declared."""
    return _visual7w(source) if source.format == "visual7w" else _ai2d(source)


# ---- AI2D: questions/*.json beside images/, each {imageName, questions: {text: {answerTexts, correctAnswer}}} --------


def _ai2d(source: DatasetSource) -> Iterator[Item]:
    """Where the folder has the list of test pictures, a row's split is "test" or "train" by it."""
    folder = source.path / "questions" if (source.path / "questions").is_dir() else source.path
    tests = _test_ids(source)
    for path in sorted(folder.glob("*.json")):
        try:
            data = json_object(path)
            questions = list(data["questions"].items())
        except (SampleError, KeyError, TypeError, AttributeError):
            yield Issue(path.name, "no AI2D question file: it has no object `questions`")
            continue
        split = None if tests is None else "test" if path.name.partition(".")[0] in tests else "train"
        values = ((f"{path.name} question {n}", (data, text, row, split)) for n, (text, row) in enumerate(questions, 1))
        yield from each(source, values, _ai2d_question)


def _test_ids(source: DatasetSource) -> frozenset[str] | None:
    """The pictures of AI2D's test split, a number a line in `ai2d_test_ids.csv`; None where there is no such list."""
    for folder in (source.path, source.path.parent):
        path = folder / "ai2d_test_ids.csv"
        if path.is_file() and path.stat().st_size < 1 << 20:
            lines = path.read_text(encoding="utf-8-sig", errors="replace").split()
            return frozenset(line.strip(",") for line in lines)
    return None


def _ai2d_question(source: DatasetSource, location: str, value: tuple[Any, str, dict[str, Any], str | None]) -> Sample:
    data, text, row, split = value
    name = str(data["imageName"])
    if source.images is None and (source.path / "images").is_dir():
        name = f"images/{name}"
    lettered = bool(row.get("abcLabel"))
    image, key = lettered_picture(source, name) if lettered else picture(source, name)
    options, answer = texts_of(row["answerTexts"], "the choices"), row.get("correctAnswer")
    return Sample(
        id=id_of(row, "questionId", default=location),
        image=image,
        task="multiple_choice",
        text=text,
        choices=options,
        references=() if answer is None else (letter_of(answer, len(options)),),
        source=source.source or "ai2d",
        split=split,
        tags={"lettered": True} if lettered else {},
        image_key=key,
    )


# ---- Visual7W: `images` [{filename, split, qa_pairs: [{qa_id, question, answer, multiple_choices}]}] -----------------


def _visual7w(source: DatasetSource) -> Iterator[Item]:
    data = json_object(source.path)
    if not isinstance(data.get("images"), list):
        raise SampleError(f"{source.path} is not a Visual7W file: it has no list `images`.")
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
        values = ((f"image {number} pair {n}", (image, pair, boxes)) for n, pair in enumerate(pairs, 1))
        yield from each(source, values, _visual7w_pair)


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
        size=row_size(image),
    )


def _region_boxes(source: DatasetSource, rows: list[dict[str, Any]], image: dict[str, Any]) -> tuple[Box, ...]:
    """The format itself says how its boxes are: x, y, width, height in pixels."""
    width, height = row_size(image) or picture_size(source, None, image["filename"])
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
