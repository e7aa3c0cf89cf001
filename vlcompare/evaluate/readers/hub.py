"""Data sets on the Hub, streamed row by row through `datasets`; no code from the Hub is ever run.

The only module that imports `datasets`. Reads the field names of each benchmark's usual conversions; which benchmark it
is has to be declared as the format, and for boxes their format too. Pictures stay encoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlcompare.errors import HubError, SampleError
from vlcompare.evaluate.readers import refcoco
from vlcompare.evaluate.readers.base import DatasetSource, Issue, Located, RowError, each, text_of, texts_of, undeclared
from vlcompare.evaluate.readers.choices import letter_of
from vlcompare.evaluate.readers.tsv import asked, letter_among, lettered
from vlcompare.types import Sample

_TASKS = {
    "refcoco": "grounding",
    "coco-captions": "captioning",
    "vqav2": "vqa",
    "gqa": "vqa",
    "pope": "vqa",
    "docvqa": "document_vqa",
    "vsr": "image_text_match",
    "ai2d": "multiple_choice",
    "vlmevalkit": "multiple_choice",
}
_ID = ("id", "question_id", "questionId", "qa_id", "index", "image_id")
_TAGS = ("question_type", "answer_type", "category", "relation", "type")


def read(source: DatasetSource) -> Iterator[Located | Issue]:
    """Samples of a data set's split, in its order."""
    if source.format not in _TASKS:
        raise SampleError(f"Rows of a Hub data set are read as one of {', '.join(_TASKS)}: say which with --format.")
    if source.format == "refcoco" and (source.box_format is None or source.box_scale is None):
        raise undeclared(source)
    rows = ((f"row {number}", row) for number, row in enumerate(_stream(source), 1))
    return each(source, rows, refcoco.samples_of if source.format == "refcoco" else _sample)


def _stream(source: DatasetSource) -> Iterator[dict[str, Any]]:
    if not source.split:
        raise SampleError(f"Say which split of {source.hub_id} to read with --split.")
    try:
        load = source.load_dataset or _library()
        rows = load(source.hub_id, source.config, split=source.split, streaming=True, revision=source.revision)
        rows = _undecoded(rows)
        yield from rows
    except (OSError, ValueError, RuntimeError) as error:
        sentence = str(error).strip().split("\n")[0].rstrip(".")
        raise HubError(f"The data set {source.hub_id} ({source.split}) could not be streamed: {sentence}.") from error


def _library() -> Any:
    from datasets import load_dataset

    return load_dataset


def _undecoded(rows: Any) -> Any:
    """The same rows with encoded pictures, so that `runtime.image` decodes them within its limits, not the library."""
    features = getattr(rows, "features", None) or {}
    for name, kind in features.items():
        if type(kind).__name__ == "Image":
            rows = rows.cast_column(name, type(kind)(decode=False))
    return rows


def _sample(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
    image, key = refcoco.picture_of(source, row, ("image", "image_path", "file_name", "image_file"))
    task = _TASKS[source.format]
    text, choices, references = _question(task, row)
    return Sample(
        id=str(next((row[name] for name in _ID if row.get(name) is not None), location.replace(" ", "-"))),
        image=image,
        task=task,
        text=text,
        choices=choices,
        references=references,
        source=source.source or (None if source.format == "vlmevalkit" else source.format.replace("-captions", "")),
        split=source.split,
        tags={name: row[name] for name in _TAGS if isinstance(row.get(name), (str, int, bool))},
        image_key=key,
    )


def _question(task: str, row: dict[str, Any]) -> tuple[str, tuple[str, ...] | None, tuple[str, ...]]:
    """(text, choices, references) of one row."""
    if task == "captioning":
        return "", None, _answers(row, "answer", "captions", "caption", "sentences")
    if task == "image_text_match":
        if row.get("label") not in (0, 1):
            raise RowError(f"the label is {row.get('label')!r}, not 0 or 1")
        return text_of(row, "caption", "text"), None, ("True" if row["label"] else "False",)
    if task == "multiple_choice" and (columns := lettered(row)):
        return asked(row), tuple(columns.values()), (letter_among(columns, row["answer"]),)
    text = text_of(row, "question", "text", "query")
    if task == "multiple_choice":
        options = texts_of(row.get("options") or row.get("choices"), "the choices")
        return text, options, (letter_of(row["answer"], len(options)),)
    return text, None, _answers(row, "answers", "answer", "label")


def _answers(row: dict[str, Any], *names: str) -> tuple[str, ...]:
    for name in names:
        value = row.get(name)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = [item.get("answer") or item.get("raw") for item in value]
        if value not in (None, "", []):
            return texts_of(value, f"`{name}`")
    raise RowError(f"none of the fields {', '.join(names)}")
