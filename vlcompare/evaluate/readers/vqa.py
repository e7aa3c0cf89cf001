"""Questions about pictures as their benchmarks publish them: VQAv2, GQA, DocVQA, POPE, VSR.

POPE and VSR are JSON lines and are streamed; the others are one JSON value each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.base import (
    DatasetSource,
    Issue,
    Located,
    RowError,
    each,
    id_of,
    is_id,
    json_lines,
    json_object,
    picture,
    text_of,
    texts_of,
)
from vlcompare.types import Sample


def read(source: DatasetSource) -> Iterator[Located | Issue]:
    """Samples of whichever of the five formats was declared."""
    return _READERS[source.format](source)


def _vqav2(source: DatasetSource) -> Iterator[Located | Issue]:
    """visualqa.org, "Input questions format" and "Annotation format"."""
    questions = json_object(source.path)
    subtype = str(questions.get("data_subtype") or source.split or "")
    pictures = subtype.replace("test-dev", "test")  # test-dev's pictures are named as those of the whole test set
    answers: dict[Any, dict[str, Any]] = {}
    if source.annotations is not None:
        rows = json_object(source.annotations).get("annotations")
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict) and is_id(row.get("question_id")):
                answers[str(row["question_id"])] = row

    def sample(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        truth = answers.get(id_of(row, "question_id"), {})
        if source.annotations is not None and not truth:
            raise RowError(f"question {row['question_id']} has no annotation")
        path, key = picture(source, row.get("image") or f"COCO_{pictures}_{int(row['image_id']):012d}.jpg")
        return Sample(
            id=id_of(row, "question_id"),
            image=path,
            task="vqa",
            text=text_of(row, "question"),
            references=texts_of([answer["answer"] for answer in truth["answers"]], "`answers`") if truth else (),
            source=source.source or "vqav2",
            split=source.split or subtype or None,
            tags={key: truth[key] for key in ("question_type", "answer_type") if key in truth},
            image_key=key,
        )

    return each(source, _numbered(questions.get("questions"), "question"), sample)


def _gqa(source: DatasetSource) -> Iterator[Located | Issue]:
    """The GQA download page: question id -> {question, answer, imageId, types}."""
    data = json_object(source.path)
    rows = ((f"question {key}", (key, row)) for key, row in data.items())

    def sample(source: DatasetSource, location: str, value: tuple[str, dict[str, Any]]) -> Sample:
        number, row = value
        name = str(row["imageId"])
        path, key = picture(source, name if "." in name else f"{name}.jpg")
        return Sample(
            id=str(number),
            image=path,
            task="vqa",
            text=text_of(row, "question"),
            references=texts_of(row["answer"], "`answer`"),
            source=source.source or "gqa",
            tags={str(k): v for k, v in (row.get("types") or {}).items() if v is not None},
            image_key=key,
        )

    return each(source, rows, sample)


def _docvqa(source: DatasetSource) -> Iterator[Located | Issue]:
    """The Robust Reading Competition's file: `data` [{questionId, question, image, answers}]."""
    data = json_object(source.path)

    def sample(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        path, key = picture(source, row["image"])
        kinds = row.get("question_types") or []
        return Sample(
            id=id_of(row, "questionId"),
            image=path,
            task="document_vqa",
            text=text_of(row, "question"),
            references=texts_of(row["answers"], "`answers`"),
            source=source.source or "docvqa",
            split=source.split or data.get("dataset_split"),
            tags={"question_type": kinds[0]} if kinds else {},
            image_key=key,
        )

    return each(source, _numbered(data.get("data"), "row"), sample)


def _pope(source: DatasetSource) -> Iterator[Located | Issue]:
    """One line a question: {question_id, image, text, label: "yes" | "no"}."""

    def sample(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        label = str(row["label"]).strip().lower()
        if label not in ("yes", "no"):
            raise RowError(f"the label is {row['label']!r}, not yes or no")
        path, key = picture(source, row["image"])
        return Sample(
            id=id_of(row, "question_id"),
            image=path,
            task="vqa",
            text=text_of(row, "text", "question"),
            references=(label,),
            source=source.source or "pope",
            image_key=key,
        )

    return each(source, json_lines(source.path), sample)


def _vsr(source: DatasetSource) -> Iterator[Located | Issue]:
    """One line a statement: {image, caption, label: 0 | 1, relation}."""

    def sample(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        if row["label"] not in (0, 1, True, False):
            raise RowError(f"the label is {row['label']!r}, not 0 or 1")
        path, key = picture(source, row["image"])
        return Sample(
            id=id_of(row, "id", default=location.replace("line ", "vsr-")),
            image=path,
            task="image_text_match",
            text=text_of(row, "caption"),
            references=("True" if row["label"] else "False",),
            source=source.source or "vsr",
            tags={"relation": row["relation"]} if row.get("relation") else {},
            image_key=key,
        )

    return each(source, json_lines(source.path), sample)


def _numbered(rows: Any, what: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(rows, list):
        raise SampleError(f"The file has no list of {what}s; is the format the right one?")
    return ((f"{what} {number}", row) for number, row in enumerate(rows, 1))


_READERS = {"vqav2": _vqav2, "gqa": _gqa, "docvqa": _docvqa, "pope": _pope, "vsr": _vsr}
