"""Files of answers as other harnesses write them, told apart by their keys:

    this project's lines     id, text or boxes, side
    lmms-eval                samples_*.jsonl: doc or doc_id, filtered_resps / resps, target; or one JSON with `logs`
    LLaVA                    lines: question_id, text (prompt, model_id, answer_id)
    VQA, DocVQA, GQA, COCO   arrays: question_id, answer; questionId, answer; questionId, prediction; image_id, caption
    POPE                     lines: question, answer
    VLMEvalKit               TSV or XLSX: index, prediction beside the question's columns
    others                   lines, arrays, parquet, or one object {id: answer}, with any usual name for id and answer

A row becomes an `AnswerRow`: the answer, and all that can say which sample it belongs to. Nothing is chosen by whether
it would be right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vlcompare.errors import SampleError
from vlcompare.evaluate.exchange.box_texts import holds_boxes
from vlcompare.evaluate.exchange.spreadsheet import sheet_count, sheet_rows
from vlcompare.evaluate.fields import FieldError
from vlcompare.evaluate.predictions import read_predictions
from vlcompare.evaluate.readers.opening import RowError, json_file, kind_of, rows_of
from vlcompare.evaluate.readers.tables import table_rows
from vlcompare.evaluate.schema import NO_SIDE, prediction

IDS = (
    "id", "question_id", "questionId", "questionID", "qid", "sample_id", "image_id", "imageId", "img_id", "index",
    "idx", "uid", "data_id",
)  # fmt: skip
# `answer` comes late: beside a prediction it is the right answer
ANSWERS = (
    "prediction", "pred", "predicted_answer", "pred_answer", "predict", "model_answer", "response", "model_response",
    "output", "model_output", "outputs", "generated_text", "generation", "completion", "text", "reply", "answer",
    "caption", "result",
)  # fmt: skip
BOXES = ("boxes", "pred_boxes", "pred_bbox", "pred_box", "predicted_bbox", "bbox", "box")
_IMAGES = ("image", "image_id", "imageId", "image_path", "img_path", "image_file", "file_name", "filename")
_QUESTIONS = ("question", "prompt", "query", "expression", "sent")
_LISTS = ("logs", "predictions", "results", "answers", "annotations", "outputs", "data", "samples")
QUESTIONS = (
    "holds questions, not answers: it is what `score SAMPLES PREDICTIONS` takes as SAMPLES; PREDICTIONS is the file "
    "that a model's answers were written to"
)
_LOOKED_AT = 20  # rows, to see which kind of file it is
MAX_PROBLEMS = 1000


class AnswerRow(NamedTuple):
    """One answer. `names` are (field, value) of all that may name its sample, the likeliest first; `position` is its
    document's place in the data set, from 0, where that is all that the row says."""

    location: str
    side: str
    names: tuple[tuple[str, str], ...]
    image: str
    question: str
    row: dict[str, Any]  # text, boxes, ..: as `prediction` takes it, less the id
    position: int | None = None


@dataclass(slots=True)
class AnswerFile:
    """What a file of answers holds. `keys` are those of its rows, in their order."""

    path: Path
    format: str
    rows: list[AnswerRow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    keys: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    duplicates: int = 0  # second answers to one sample, which were left out
    contradicting: int = 0  # those of them that differ from the first

    def nothing(self) -> SampleError:
        """The error for a file none of whose rows can be used."""
        first = f" The first problem: {self.problems[0]}." if self.problems else ""
        if not self.keys and not first:
            return SampleError(f"{self.path} holds no answers: it is an empty list, object or table.")
        found = (
            ", ".join(ascii(key[:40])[1:-1] for key in itertools.islice(self.keys, 15)) or "no fields that can be read"
        )
        return SampleError(
            f"{self.path} holds no answer that can be used. Its rows have: {found}. Expected are an id "
            f"({', '.join(IDS[:7])}, index, ..) or the image and the question, and an answer (text, answer, "
            f"prediction, response, caption, ..; boxes for grounding).{first}"
        )


def read_answers(path: Path | str) -> AnswerFile:
    """Read a file of answers. Raises SampleError where it cannot be read, or no row of it can be used."""
    path = Path(path)
    if path.is_dir():
        raise SampleError(f"{path} is a folder: PREDICTIONS is a file of answers, such as a run's predictions.jsonl.")
    if not path.exists():
        raise SampleError(f"There is no file of answers {path}.")
    kind = kind_of(path)
    if kind.name == "sheet":
        found = _foreign(path, sheet_rows(kind.path))
        if (sheets := sheet_count(kind.path)) > 1:
            found.notes.append(f"{path} has {sheets} sheets, and the answers are those of the first.")
    elif kind.name == "table":
        found = _foreign(path, table_rows(kind.path))
    elif kind.name in ("whole", "line"):
        found = _of_object(path)
    else:
        found = _of_rows(path)
    if not found.rows:
        raise found.nothing()
    return found


def _of_object(path: Path) -> AnswerFile:
    """One JSON object: a list of rows under some name, one row, or {id: answer}."""
    value = json_file(path, keep=True)
    if not isinstance(value, dict) or _is_own(value) or _is_row(value):
        return _of_rows(path)
    for name in _LISTS:
        if isinstance(value.get(name), list):
            rows = ((f"{name} {n}", row if isinstance(row, dict) else RowError("not a JSON object"))
                    for n, row in enumerate(value[name], 1))  # fmt: skip
            return _foreign(path, rows)
    if isinstance(value.get("results"), dict) and ("configs" in value or "versions" in value):
        raise SampleError(
            f"{path} holds lmms-eval's figures, not its answers: run it with --log_samples, and give the file "
            "samples_TASK.jsonl that it writes."
        )
    if isinstance(value.get("questions"), list):
        raise SampleError(f"{path} {QUESTIONS}.")
    named = ((f"entry {key[:40]!r}", {"id": key, **_entry(item)}) for key, item in value.items())
    return _foreign(path, named)


def _entry(item: Any) -> dict[str, Any]:
    if isinstance(item, dict):
        return item
    return {"boxes": item} if isinstance(item, list) and item and not isinstance(item[0], str) else {"text": item}


def _is_own(row: dict[str, Any]) -> bool:
    return "id" in row and ("text" in row or "boxes" in row or "error" in row)


def _is_row(row: dict[str, Any]) -> bool:
    return any(name in row for name in (*IDS, "doc", "question")) and any(name in row for name in (*ANSWERS, *BOXES))


def _of_rows(path: Path) -> AnswerFile:
    kind = kind_of(path)
    if kind.name == "parquet":
        return _foreign(path, rows_of(path))
    looked = [(at, row) for at, row in itertools.islice(rows_of(path), _LOOKED_AT) if isinstance(row, dict)]
    own = next((at for at, row in looked if _is_own(row)), None)
    other = next(((at, row) for at, row in looked if "id" not in row and _is_row(row)), None)
    if own and other:
        raise _several(path, {"this project's lines": own, _named(other[1]): other[0]})
    if own:
        return _own(path, kind.path)
    return _foreign(path, rows_of(path))


def _own(path: Path, plain: Path) -> AnswerFile:
    """This project's own rows, with the reader that runs have: it says more of what is wrong in a line."""
    given = read_predictions(plain)
    found = AnswerFile(path, "own lines", problems=given.problems, duplicates=given.duplicates)
    found.contradicting = given.contradicting
    for side, rows in given.sides.items():
        for id, row in rows.items():
            found.keys.update(dict.fromkeys(row))
            found.rows.append(AnswerRow("", side, (("id", id),), _text(row, _IMAGES), _text(row, _QUESTIONS), row))
    return found


def _foreign(path: Path, rows: Iterable[tuple[str, Any]]) -> AnswerFile:
    found = AnswerFile(path, "")
    formats: dict[str, str] = {}
    for location, row in rows:
        if not isinstance(row, RowError):
            if len(found.keys) < 100:
                found.keys.update(dict.fromkeys(row))
            try:
                name, answer = _answer_row(location, row)
                formats.setdefault(name, location)
                found.rows.append(answer)
                continue
            except FieldError as error:
                row = RowError(str(error))
            except RowError as error:
                row = error
        if len(found.problems) < MAX_PROBLEMS:
            found.problems.append(f"{location}: {row}")
    if len(formats) > 1:
        raise _several(path, formats)
    found.format = next(iter(formats), "")
    return found


def _several(path: Path, formats: dict[str, str]) -> SampleError:
    listed = ", ".join(f"{name} ({location})" for name, location in formats.items())
    return SampleError(f"{path} holds answers of {len(formats)} formats: {listed}. Give one file for each.")


def _answer_row(location: str, row: dict[str, Any]) -> tuple[str, AnswerRow]:
    """(format, the answer) of one row. Raises RowError or FieldError where it has none."""
    answers: tuple[str, ...]
    if "filtered_resps" in row or "resps" in row:
        name, about, answers = "lmms-eval", _document(row), ("filtered_resps", "resps")
    elif "prediction" in row and "index" in row:
        name, about, answers = "VLMEvalKit", row, ("prediction",)
    else:
        name, about, answers = _named(row), row, ANSWERS
    made: dict[str, Any] = {"id": "0", **_said(row, answers)}
    for key in ("checkpoint", "phrases", "error"):
        if row.get(key) is not None:
            made[key] = row[key]
    names = tuple((key, _id(about[key])) for key in IDS if key in about and _id(about[key]))
    image, question = _text(about, _IMAGES), _text(about, _QUESTIONS) or _text(row, _QUESTIONS)
    position = row.get("doc_id")
    if not names and not question and not image and type(position) is not int:
        raise RowError(f"nothing that says which sample it answers: none of the fields {', '.join(IDS[:8])}")
    _, side, made = prediction({**made, "side": row.get("side")})
    place = position if type(position) is int and not names else None
    return name, AnswerRow(location, side or NO_SIDE, names, image, question, made, place)


def _said(row: dict[str, Any], answers: tuple[str, ...]) -> dict[str, Any]:
    """The answer of a row: `text`, `boxes`, or both. Raises RowError where it has neither."""
    made: dict[str, Any] = {}
    text = next((text for key in answers if (text := _reply(row.get(key))) is not None), None)
    boxes = next((row[key] for key in BOXES if isinstance(row.get(key), (list, dict))), None)
    if boxes is None and text is None:
        boxes = next((row[key] for key in answers if holds_boxes(row.get(key))), None)
        text = next((row[key] for key in BOXES if isinstance(row.get(key), str)), None)
    if text is None and boxes is None:
        raise RowError(f"no answer: none of the fields {', '.join(answers[:12])}")
    if text is not None:
        made["text"] = text
    if boxes is not None:
        made["boxes"] = [boxes] if isinstance(boxes, dict) or _is_flat(boxes) else boxes
    return made


def _is_flat(boxes: list[Any]) -> bool:
    return bool(boxes) and not isinstance(boxes[0], (list, dict))


def _document(row: dict[str, Any]) -> dict[str, Any]:
    """What an lmms-eval row says of its question: the document, else what was to be submitted, else the row."""
    found = [row[key] for key in ("doc", "submission") if isinstance(row.get(key), dict)]
    return next((about for about in found if about), {**row, "question": row.get("input")})


def _named(row: dict[str, Any]) -> str:
    """What a row's format is called in messages: rows of different ones are not joined in one file."""
    if "caption" in row and "image_id" in row:
        return "COCO captions"
    if "questionId" in row:
        return "GQA" if "prediction" in row else "DocVQA"
    if "question_id" in row:
        return "VQA or LLaVA"
    return "questions and answers" if not any(key in row for key in IDS) else "id and answer"


def _reply(value: Any) -> str | float | None:
    """A row's answer as text: a text, a number, or a list of one of these; an empty text is an answer."""
    while isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, (list, tuple)) and value and all(item == value[0] for item in value):
        value = value[0]
    return value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None


def _id(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value).strip()[:300] if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _text(row: dict[str, Any], names: Iterable[str]) -> str:
    for name in names:
        value = row.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and 0 < len(str(value)) < 5000:
            return str(value)
    return ""
