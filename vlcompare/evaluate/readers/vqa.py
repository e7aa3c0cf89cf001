"""Questions about pictures in whole files: VQA's, GQA's, DocVQA's, InfographicVQA's, TextVQA's, SEED-Bench's,
ScienceQA's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers import rows
from vlcompare.evaluate.readers.base import Item, answers_of, each, id_of, numbered, text_of, texts_of
from vlcompare.evaluate.readers.opening import RowError, json_object
from vlcompare.evaluate.readers.pictures import picture
from vlcompare.evaluate.readers.source import DatasetSource, LeftOut
from vlcompare.types import Sample


def read(source: DatasetSource) -> Iterator[Item]:
    """Samples of whichever of the formats it is."""
    return _READERS[source.format](source)


def _vqav2(source: DatasetSource) -> Iterator[Item]:
    """visualqa.org, "Input questions format" and "Annotation format"."""
    questions = json_object(source.path)
    if "questions" not in questions and isinstance(questions.get("annotations"), list):
        raise SampleError(
            f"{source.path} holds VQA's answers, not its questions: give the questions' file, and this with "
            "--annotations."
        )
    subtype = str(questions.get("data_subtype") or source.split or "")
    pictures = subtype.replace("test-dev", "test")  # test-dev's pictures are named as those of the whole test set
    abstract = str(questions.get("data_type") or "").startswith("abstract")
    answers = {} if source.annotations is None else rows.vqa_annotations(json_object(source.annotations))

    def make(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        truth = answers.get(id_of(row, "question_id"), {})
        if source.annotations is not None and not truth:
            raise RowError(f"question {row['question_id']} has no annotation")
        start = questions["data_type"] if abstract else "COCO"
        number = f"{int(row['image_id']):012d}"
        name = row.get("image") or f"{start}_{pictures}_{number}.{'png' if abstract else 'jpg'}"
        path, key = picture(source, name)
        return Sample(
            id=id_of(row, "question_id"),
            image=path,
            task="vqa",
            text=text_of(row, "question"),
            references=texts_of([answer["answer"] for answer in truth["answers"]], "`answers`") if truth else (),
            source=source.source or "vqav2",
            split=subtype or None,
            tags={key: truth[key] for key in ("question_type", "answer_type") if key in truth},
            image_key=key,
        )

    return each(source, numbered(questions.get("questions"), "question"), make)


def _gqa(source: DatasetSource) -> Iterator[Item]:
    """The GQA download page: question id -> {question, answer, imageId, isBalanced, types}."""
    data = json_object(source.path)
    named = (
        (f"question {key[:40]}", {**row, "id": key} if isinstance(row, dict) else RowError("not a JSON object"))
        for key, row in data.items()
    )
    return rows.samples(source, named)


def _docvqa(source: DatasetSource) -> Iterator[Item]:
    """The Robust Reading Competition's files: `data` [{questionId, question, image, answers}]; InfographicVQA names
    its pictures `image_local_name`, in a folder of their own."""
    data = json_object(source.path)
    infographic = source.format == "infographicvqa" or "infographic" in str(data.get("dataset_name")).lower()
    split = data.get("dataset_split")

    def make(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        name = row.get("image") or row.get("image_local_name")
        if infographic and isinstance(name, str) and "/" not in name and (folder := _infographics(source)):
            name = f"{folder}/{name}"
        path, key = picture(source, name)
        kinds = row.get("question_types") or row.get("answer_type") or []
        return Sample(
            id=id_of(row, "questionId"),
            image=path,
            task="document_vqa",
            text=text_of(row, "question"),
            references=answers_of(row, "answers", required=False),
            source=source.source or ("infographicvqa" if infographic else "docvqa"),
            split=row["data_split"] if isinstance(row.get("data_split"), str) else split,
            tags={"question_type": kinds[0]} if kinds else {},
            image_key=key,
        )

    return each(source, numbered(data.get("data"), "row"), make)


def _infographics(source: DatasetSource) -> str:
    """The folder that InfographicVQA's pictures are unpacked into, where it lies in the data folder."""
    names = ("infographicsvqa_images", "infographicvqa_images")
    return next((name for name in names if source.need_pictures and (source.image_root / name).is_dir()), "")


def _textvqa(source: DatasetSource) -> Iterator[Item]:
    """TextVQA's `data` [{question_id, image_id, question, answers}]; its OCR file, with --annotations, adds the
    tokens that are part of its prompt form."""
    tokens: dict[str, Any] = {}
    if source.annotations is not None:
        for row in json_object(source.annotations).get("data") or ():
            if isinstance(row, dict):
                tokens[str(row.get("image_id"))] = row.get("ocr_tokens")

    def named() -> Iterator[tuple[str, Any]]:
        for location, row in numbered(json_object(source.path).get("data"), "row"):
            if isinstance(row, dict) and "image_id" in row:
                row = {"image_path": rows.open_images_name(row), "ocr_tokens": tokens.get(str(row["image_id"])), **row}
            yield location, row

    return rows.samples(source, named())


def _seedbench(source: DatasetSource) -> Iterator[Item]:
    return rows.samples(source, numbered(json_object(source.path).get("questions"), "question"))


def _scienceqa(source: DatasetSource) -> Iterator[Item]:
    """problems.json: id -> {question, choices, answer, image, split}; the picture is SPLIT/ID/image.png, or null."""

    def named() -> Iterator[tuple[str, Any]]:
        for key, row in data.items():
            if not isinstance(row, dict):
                yield f"question {key[:40]}", RowError("not a JSON object")
            elif name := row.get("image"):
                yield f"question {key[:40]}", {**row, "id": key, "image": f"{row.get('split')}/{key}/{name}"}

    data = json_object(source.path)
    for row in data.values():
        if isinstance(row, dict) and not row.get("image"):
            yield LeftOut("question without a picture")
    yield from rows.samples(source, named())


_READERS = {
    "vqav2": _vqav2,
    "gqa": _gqa,
    "docvqa": _docvqa,
    "infographicvqa": _docvqa,
    "textvqa": _textvqa,
    "seedbench": _seedbench,
    "scienceqa": _scienceqa,
}
