"""Rows with a question or captions, as benchmarks publish them and the Hub has them: lines, arrays, parquet, streams.

One row holds a picture (or its name), a question, and its right answers under the names of its benchmark. `formats`
lists the fields of each format; the code that only one format needs is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from vlcompare.evaluate.benchmarks import set_name, set_of_row
from vlcompare.evaluate.readers import choice_rows
from vlcompare.evaluate.readers.base import Item, answers_of, each, id_of, is_id, row_size, text_of
from vlcompare.evaluate.readers.formats import other_format
from vlcompare.evaluate.readers.opening import RowError, json_object, rows_of
from vlcompare.evaluate.readers.parquet_pictures import pictures_by_id
from vlcompare.evaluate.readers.pictures import picture_of
from vlcompare.evaluate.readers.source import DatasetSource, LeftOut
from vlcompare.tasks.prompts import MAX_TEXT
from vlcompare.types import Sample

_IMAGE = ("image", "img", "image_path", "image_file", "file_name", "filename", "image_file_name", "image_name")
_ID = ("id", "question_id", "questionId", "qa_id", "index", "image_id", "cocoid", "imgid", "img_id")
_TAGS = ("question_type", "answer_type", "category", "relation", "type", "domain", "image_domain")
_CAPTIONS = ("annotations_captions", "captions", "caption", "sentences", "answer")
_ANSWERS = ("answers", "answer", "label", "annotation")
# what LLaVA's files add to each question for its own prompt; ours has its own words
_LLAVA_ENDS = re.compile(
    r"(\n(Reference OCR token: (?P<tokens>[^\n]*)|When the provided information is insufficient[^\n]*|"
    r"Answer the question using a single word or phrase\.|"
    r"Answer with the option's letter from the given choices directly\.))+\s*\Z"
)
YES_NO = ("yes", "no")

Make = Callable[[DatasetSource, str, dict[str, Any]], Sample | LeftOut]


def read(source: DatasetSource) -> Iterator[Item]:
    """Samples of a file of rows."""
    return samples(source, rows_of(source.path))


def samples(source: DatasetSource, rows: Iterable[tuple[str, Any]]) -> Iterator[Item]:
    """Samples of rows in the source's format, from wherever they come."""
    make = maker(source)

    def made(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample | LeftOut:
        try:
            return make(source, location, row)
        except (RowError, KeyError, TypeError, ValueError):
            if isinstance(row, dict) and (other := other_format(row, source.format)):
                raise RowError(f"a row of the format {other}, in a file read as {source.format}") from None
            raise

    return each(source, rows, made)


def maker(source: DatasetSource) -> Make:
    """The function that makes a sample of a row of this source."""
    if source.format == "textcaps":
        return _one_caption_set(_MAKERS["textcaps"])
    if source.format == "llava" and source.annotations is not None:
        return _with_annotations(source)
    return _MAKERS.get(source.format) or choice_rows.MAKERS[source.format]


def row_name(row: dict[str, Any], location: str, *names: str) -> str:
    """The row's id, or its place in the file."""
    return id_of(row, *(names or _ID), default=location.replace(" ", "-"))


def tags_of(row: dict[str, Any]) -> dict[str, Any]:
    """What a row says of itself, to slice by."""
    return {name: row[name] for name in _TAGS if isinstance(row.get(name), (str, int, bool))}


def _question(task: str, name: str) -> Make:
    """Rows {question, answers}; `name` is the benchmark's, for its prompt form and scoring."""

    def make(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        image, key = picture_of(source, row, _IMAGE)
        return Sample(
            id=row_name(row, location),
            image=image,
            task=source.task if source.task in ("vqa", "document_vqa") else task,
            text=text_of(row, "question", "text", "query"),
            references=answers_of(row, *_ANSWERS, required=False),
            source=source.source or name or set_of_row(source, row),
            split=_split(row),
            tags=tags_of(row),
            image_key=key,
            size=row_size(row),
        )

    return make


def _split(row: dict[str, Any]) -> str | None:
    value = row.get("split") or row.get("data_split") or row.get("set_name")
    return value if isinstance(value, str) else None


# ---- benchmarks ------------------------------------------------------------------------------------------------------


def _pope(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
    """{question_id, image, text, label: "yes" | "no"}; on the Hub {question, answer, category}."""
    image, key = picture_of(source, row, _IMAGE)
    label = str(row["label"] if "label" in row else row["answer"]).strip().lower()
    if label not in YES_NO:
        raise RowError(
            f"the label is {label[:40]!r}, not yes or no as POPE's; if it is another set, say --format questions"
        )
    return Sample(
        id=row_name(row, location),
        image=image,
        task="vqa",
        text=text_of(row, "text", "question"),
        references=(label,),
        source=source.source or "pope",
        split=_split(row),
        tags=tags_of(row),
        image_key=key,
    )


def _vsr(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
    """{image, caption, label: 0 | 1, relation}."""
    label = row["label"]
    if str(label) not in ("0", "1", "True", "False"):
        raise RowError(f"the label is {label!r}, not 0 or 1")
    image, key = picture_of(source, row, _IMAGE)
    return Sample(
        id=row_name(row, location.replace("line", "vsr")),
        image=image,
        task="image_text_match",
        text=text_of(row, "caption", "text"),
        references=("True" if str(label) in ("1", "True") else "False",),
        source=source.source or "vsr",
        split=_split(row),
        tags=tags_of(row),
        image_key=key,
    )


def _textvqa(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
    """The Hub's {question, answers, ocr_tokens}: the tokens, joined by spaces, are part of TextVQA's prompt form."""
    image, key = picture_of(source, row, _IMAGE)
    return Sample(
        id=row_name(row, location, "question_id"),
        image=image,
        task="vqa",
        text=text_of(row, "question"),
        references=answers_of(row, "answers", required=False),
        source=source.source or "textvqa",
        split=_split(row),
        ocr_text=ocr_text(row.get("ocr_tokens")),
        image_key=key,
        size=row_size(row),
    )


def ocr_text(tokens: Any) -> str | None:
    """OCR tokens joined by spaces, as many whole ones as a prompt may hold."""
    if not isinstance(tokens, (list, tuple)):
        return None
    kept, count = [], 0
    for token in tokens:
        if isinstance(token, str) and token.strip():
            count += len(token) + 1
            if count > MAX_TEXT:
                break
            kept.append(token)
    return " ".join(kept) or None


def _gqa(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample | LeftOut:
    """{id, imageId, question, answer, isBalanced}; on the Hub the pictures are in the other config."""
    if source.balanced and row.get("isBalanced") is False:
        return LeftOut("unbalanced question")
    image, key = gqa_picture(source, row)
    types = row.get("types")
    return Sample(
        id=row_name(row, location, "id", "question_id"),
        image=image,
        task="vqa",
        text=text_of(row, "question"),
        references=answers_of(row, "answer", required=False),
        source=source.source or "gqa",
        tags={k: v for k, v in types.items() if isinstance(v, str)} if isinstance(types, dict) else {},
        image_key=key,
    )


def gqa_picture(source: DatasetSource, row: dict[str, Any]) -> tuple[Any, str]:
    """The picture of a question: in the row, in a parquet file or a Hub config of pictures by id, or a file."""
    if row.get("image") is not None:
        return picture_of(source, row, _IMAGE)
    name = id_of(row, "imageId")
    if (found := pictures_by_id(source)) is not None:
        return found.picture(name), name
    return picture_of(source, {"image": name if "." in name else f"{name}.jpg"}, _IMAGE)


def _captions(name: str) -> Make:
    """Rows of one picture and all its captions."""

    def make(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        if name == "karpathy" and isinstance(row.get("filepath"), str):
            row = {**row, "image": row.get("image") or f"{row['filepath']}/{row.get('filename')}"}
        image, key = picture_of(source, row, _IMAGE)
        first = ("cocoid",) if name == "karpathy" else ()
        return Sample(
            id=row_name(row, location, *first, *_ID),
            image=image,
            task="captioning",
            references=answers_of(row, "reference_strs", "caption_str", *_CAPTIONS, required=False),
            source=source.source or (_karpathys(row) if name == "karpathy" else name) or set_name(source),
            split=_split(row),
            tags=tags_of(row),
            image_key=key,
            size=row_size(row),
        )

    return make


def _karpathys(row: dict[str, Any]) -> str:
    """Karpathy split COCO, Flickr8k and Flickr30k; COCO's rows alone have `cocoid`."""
    dataset = row.get("dataset")
    return dataset if isinstance(dataset, str) and dataset else "coco"


def _one_caption_set(make: Make) -> Make:
    """TextCaps' file has a row a caption, each with all of its picture's captions: the first row is taken for all."""
    seen: set[str] = set()

    def once(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample | LeftOut:
        name = id_of(row, "image_id")
        if name in seen:
            return LeftOut("row of a picture that was read")
        sample = make(source, location, textcaps_row(row))
        seen.add(name)
        return sample

    return once


def textcaps_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of TextCaps' file with its picture's name, which is its id's in `train_images` or `test_images`."""
    row = {**row, "id": id_of(row, "image_id")}
    if row.get("image") is None and not isinstance(row.get("image_path"), str):
        row["image_path"] = open_images_name(row)
    return row


def open_images_name(row: dict[str, Any]) -> str:
    """Where TextVQA and TextCaps keep the picture of a row: validation pictures lie among those of training."""
    folder = "test_images" if str(row.get("set_name")) == "test" else "train_images"
    return f"{folder}/{id_of(row, 'image_id')}.jpg"


def bare_question(text: str) -> str:
    """A question without the lines that LLaVA's files add for its own prompt."""
    end = _LLAVA_ENDS.search(text)
    return text[: end.start()] if end else text


def _llava(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
    """LLaVA's question lines {question_id, image, text}: no answers, and its own prompt's last lines in the text."""
    text = text_of(row, "text", "question")
    end = _LLAVA_ENDS.search(text)
    image, key = picture_of(source, row, _IMAGE)
    return Sample(
        id=row_name(row, location, "question_id", "id"),
        image=image,
        task=source.task or "vqa",
        text=bare_question(text),
        references=answers_of(row, "answers", "answer", required=False),
        source=source.source,
        tags=tags_of(row),
        ocr_text=ocr_text(end["tokens"].split(", ")) if end and end["tokens"] else None,
        image_key=key,
    )


def _with_annotations(source: DatasetSource) -> Make:
    """LLaVA's lines with the answers of VQA's annotation file, by question id."""
    assert source.annotations is not None
    answers = vqa_annotations(json_object(source.annotations))

    def make(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        truth = answers.get(id_of(row, "question_id"))
        if truth is None:
            raise RowError(f"question {id_of(row, 'question_id')[:40]} has no annotation")
        return replace(_llava(source, location, {**row, **truth}), source=source.source or "vqav2")

    return make


def vqa_annotations(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """VQA's annotations by question id."""
    rows = data.get("annotations")
    return {
        str(row["question_id"]): row
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict) and is_id(row.get("question_id"))
    }


_MAKERS: dict[str, Make] = {
    "vqav2": _question("vqa", "vqav2"),
    "docvqa": _question("document_vqa", "docvqa"),
    "infographicvqa": _question("document_vqa", "infographicvqa"),
    "questions": _question("vqa", ""),
    "textvqa": _textvqa,
    "pope": _pope,
    "vsr": _vsr,
    "gqa": _gqa,
    "llava": _llava,
    "coco-captions": _captions("coco"),
    "nocaps": _captions("nocaps"),
    "textcaps": _captions("textcaps"),
    "karpathy": _captions("karpathy"),
    "captions": _captions(""),
    "pictures": _captions(""),
}
