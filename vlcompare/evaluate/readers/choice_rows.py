"""Rows of multiple choice: AI2D, A-OKVQA, MMMU, ScienceQA, SEED-Bench, and VLMEvalKit's columns as the Hub has them."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from typing import Any

from vlcompare.evaluate.benchmarks import set_name
from vlcompare.evaluate.readers.base import answers_of, id_of, literal_texts, text_of, texts_of
from vlcompare.evaluate.readers.opening import RowError
from vlcompare.evaluate.readers.pictures import picture_of
from vlcompare.evaluate.readers.source import DatasetSource, LeftOut
from vlcompare.types import Sample

_IMAGE = ("image", "img", "image_path", "image_file", "file_name", "filename")
_ID = ("id", "question_id", "qa_id", "index", "image_id")
_TAGS = ("category", "topic_difficulty", "subfield", "subject", "topic")
_MENTION = re.compile(r"\s*<image[ _]?\d*>\s*")
MAX_PICTURES = 7  # of a question of MMMU


def _made(
    source: DatasetSource,
    location: str,
    row: dict[str, Any],
    image: tuple[Any, str],
    text: str,
    *,
    task: str = "multiple_choice",
    benchmark: str | None = None,
    **fields: Any,
) -> Sample:
    split = row.get("split") or row.get("data_split")
    return Sample(
        id=id_of(row, *_ID, default=location.replace(" ", "-")),
        image=image[0],
        task=task,
        text=text,
        source=source.source or benchmark or set_name(source),
        split=split if isinstance(split, str) else None,
        tags={name: row[name] for name in _TAGS if isinstance(row.get(name), str)},
        image_key=image[1],
        **fields,
    )


def _options(row: dict[str, Any]) -> tuple[str, ...]:
    """The texts to choose from, as a list or written as one in Python's notation."""
    value = next((row[name] for name in ("options", "choices", "answerTexts") if row.get(name) is not None), None)
    return literal_texts(value) if isinstance(value, str) else texts_of(value, "the choices")


def _choices(name: str | None) -> Callable[..., Sample]:
    """{question, options, answer}: the answer an index, which counts from 0, or a letter; a hint goes in front."""

    def make(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        options = _options(row)
        answer = next((row[key] for key in ("answer", "correctAnswer", "answer_idx") if row.get(key) is not None), None)
        image = picture_of(source, row, _IMAGE)
        ocr = row.get("ocr_text")
        return _made(
            source,
            location.replace("line ", "ai2d-") if name == "ai2d" else location,
            row,
            image,
            hinted(row, text_of(row, "question", "text")),
            choices=options,
            references=() if answer in (None, "") else (letter_of(answer, len(options)),),
            benchmark=name,
            ocr_text=ocr if isinstance(ocr, str) else None,
        )

    return make


def _aokvqa(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
    """{image_id, question_id, question, choices, correct_choice_idx, direct_answers}, pictures of COCO 2017.

    `--task vqa` asks without the choices, and scores against the direct answers.
    """
    if row.get("image") is None:
        split = str(row.get("split") or "val")
        row = {**row, "image": f"{split}2017/{int(row['image_id']):012d}.jpg"}
    image, row = picture_of(source, row, _IMAGE), {**row, "id": row.get("question_id")}
    text = text_of(row, "question")
    if source.task == "vqa":
        direct = row.get("direct_answers")
        listed = literal_texts(direct) if isinstance(direct, str) else direct
        answers = answers_of({"answers": listed}, "answers", required=False)
        return _made(source, location, row, image, text, task="vqa", references=answers, benchmark="aokvqa")
    options, right = _options(row), row.get("correct_choice_idx")
    letters = () if right is None else (letter_of(right, len(options)),)
    return _made(source, location, row, image, text, choices=options, references=letters, benchmark="aokvqa")


def _mmmu(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
    """{question, options, answer, image_1 .. image_7, question_type}; a question of several pictures is refused."""
    given = [f"image_{n}" for n in range(1, MAX_PICTURES + 1) if row.get(f"image_{n}") is not None]
    options = _options(row)
    text = text_of(row, "question")
    mentioned = set(re.findall(r"<image (\d+)>", " ".join((text, *options))))
    if len(given) > 1 or len(mentioned) > 1:
        raise several_pictures(max(len(given), len(mentioned)))
    image = picture_of(source, row, tuple(given) or ("image_1",))
    text = _MENTION.sub(" ", text).strip()
    if row.get("question_type") == "open" or len(options) < 2:
        answers = literal_texts(row["answer"]) if isinstance(row.get("answer"), str) else ()
        return _made(source, location, row, image, text, task="vqa", references=answers, benchmark="mmmu")
    answer = row.get("answer")
    letters = () if answer in (None, "", "?") else (letter_of(answer, len(options)),)
    return _made(source, location, row, image, text, choices=options, references=letters, benchmark="mmmu")


def _seed(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample | LeftOut:
    """{question, choice_a .. choice_d, answer, data_id, data_type}; questions about videos are left out."""
    if row.get("data_type") not in (None, "image"):
        return LeftOut(f"question about a {row['data_type'] if row['data_type'] == 'video' else 'recording'}")
    pictures = row.get("image")
    if isinstance(pictures, (list, tuple)):
        if len(pictures) != 1:
            raise several_pictures(len(pictures))
        row = {**row, "image": pictures[0]}
    elif pictures is None:
        row = {**row, "image": row.get("data_id")}
    letters = [letter for letter in "abcd" if row.get(f"choice_{letter}") not in (None, "")]
    options = texts_of([row[f"choice_{letter}"] for letter in letters], "the choices")
    answer = row.get("answer")
    right = () if answer in (None, "") else (letter_of(answer, len(options)),)
    row = {**row, "id": row.get("question_id")}
    image = picture_of(source, row, _IMAGE)
    return _made(
        source, location, row, image, text_of(row, "question"), choices=options, references=right, benchmark="seed"
    )


def several_pictures(count: int) -> RowError:
    """The error for a question about more than one picture."""
    return RowError(f"it asks about {count} pictures, and one is all that can be asked about here")


def _lettered(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
    """VLMEvalKit's {index, question, A, B, ..} as rows."""
    columns = lettered(row)
    answer = row.get("answer")
    return _made(
        source,
        location,
        {**row, "id": id_of(row, "index", "id", "question_id", default=location.replace(" ", "-"))},
        picture_of(source, row, _IMAGE),
        hinted(row, str(row.get("question") or "")),
        choices=tuple(columns.values()),
        references=(letter_among(columns, answer),) if filled(answer) else (),
    )


# ---- letters ---------------------------------------------------------------------------------------------------------


def letter_of(answer: Any, count: int) -> str:
    """The letter of an answer given as an index (0 is the first) or as a letter."""
    text = str(answer).strip().strip("()")
    index = int(text) if text.isdecimal() else string.ascii_uppercase.find(text.upper()) if len(text) == 1 else -1
    if not 0 <= index < count:
        raise RowError(f"the answer {answer!r} is not one of the {count} choices")
    return string.ascii_uppercase[index]


def hinted(row: Mapping[str, Any], question: str) -> str:
    """A row's question, behind its hint where it has one."""
    hint = row.get("hint")
    return f"{hint.strip()}\n{question}" if filled(hint) and isinstance(hint, str) else question


def lettered(row: Mapping[str, Any]) -> dict[str, str]:
    """A row's choices by the letters of their columns; a column may be empty between others."""
    return {letter: str(row[letter]) for letter in string.ascii_uppercase if filled(row.get(letter))}


def letter_among(choices: Mapping[str, str], answer: Any) -> str:
    """The letter that the answer's column has once the choices are lettered anew, without gaps.

    An answer that is not a letter, but one choice's own text, is that choice.
    """
    letter = str(answer).strip().upper()
    if letter not in choices:
        same = [column for column, text in choices.items() if text.strip() == str(answer).strip()]
        if len(same) != 1:
            raise RowError(f"the answer {answer!r} is not one of the choices {', '.join(choices)}")
        letter = same[0]
    return string.ascii_uppercase[list(choices).index(letter)]


def filled(cell: Any) -> bool:
    """Whether there is something in a cell; "nan" is what an empty one becomes on its way through pandas."""
    if isinstance(cell, (int, float)) and not isinstance(cell, bool):
        return cell == cell
    return isinstance(cell, str) and cell.strip() not in ("", "nan")


MAKERS: dict[str, Callable[..., Any]] = {
    "ai2d": _choices("ai2d"),
    "scienceqa": _choices("scienceqa"),
    "choices": _choices(None),
    "aokvqa": _aokvqa,
    "mmmu": _mmmu,
    "seedbench": _seed,
    "vlmevalkit": _lettered,
}
