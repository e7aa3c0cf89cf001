"""Our own samples: one JSON object a line, or one array of them.

    id          text, once in the file
    image       path relative to the file (or to the declared picture folder), or the picture itself in base64
    task        one of vlcompare.types.TASKS
    text        question, expression or statement, where the task takes one
    choices     multiple_choice: texts; pointing: boxes
    references  right answers: captions, phrases, up to ten answers, a letter, "True" / "False", a caption with bars
    boxes       shares of the picture, xyxy: grounding the truth, region_description the region asked about
    source, split, tags, ocr_text, objects      optional; `tags` is an object, `objects` belong to rendered scenes

Run folders are written in this format, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vlcompare.evaluate import schema
from vlcompare.evaluate.fields import bounded, name, optional, text
from vlcompare.evaluate.readers.base import Item, checked_box, each, texts_of
from vlcompare.evaluate.readers.opening import RowError, json_lines_at, kind_of, rows_of
from vlcompare.evaluate.readers.pictures import LinePicture, decode_picture, hashed, is_base64_picture, picture
from vlcompare.evaluate.readers.source import DatasetSource
from vlcompare.types import TASKS, Sample

Find = Callable[[DatasetSource, str], tuple[Path | None, str]]


def read(source: DatasetSource, find: Find = picture, *, lines: bool = False) -> Iterator[Item]:
    """Samples of a file, in its order. `find` gives the file and the key of a picture that is named.

    `lines`: the file is read as lines, whatever it holds; nothing is unpacked.
    """
    return each(source, _lines(source.path) if lines else _rows(source.path), partial(_sample, find))


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    for location, offset, value in json_lines_at(path):
        yield location, value if isinstance(value, RowError) else ((path, offset), value)


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(location, (the place that inline pictures are read again from, row)) of each row."""
    kind = kind_of(path)
    if kind.name in ("lines", "line", "table"):
        yield from _lines(kind.path)
    else:
        for location, value in rows_of(path):
            yield location, value if isinstance(value, RowError) else (None, value)


def _sample(
    find: Find, source: DatasetSource, location: str, numbered: tuple[tuple[Path, int] | None, dict[str, Any]]
) -> Sample:
    offset, row = numbered
    task = row.get("task", source.task)
    if not isinstance(task, str) or task not in TASKS:
        raise RowError(f"`task` is {ascii(task)[:60]}, not one of {', '.join(TASKS)}")
    image, image_key = _picture(find, source, row.get("image"), offset)
    return Sample(
        id=_id(row.get("id")),
        image=image,
        task=task,
        text=_text(row.get("text"), "text") or "",
        choices=_choices(task, row.get("choices")),
        references=_references(row.get("references")),
        boxes=tuple(map(checked_box, _listed(row.get("boxes"), "boxes", schema.MAX_BOXES))),
        source=_short(row.get("source"), "source") or source.source,
        split=_short(row.get("split"), "split"),
        tags=schema.tags(row.get("tags") or {}),
        ocr_text=_text(row.get("ocr_text"), "ocr_text"),
        objects=_objects(row.get("objects")),
        image_key=image_key,
    )


_short, _text, _name = optional(text(300)), optional(text()), name(1000)


def _id(value: Any) -> str:
    if value is None or value == "":
        raise RowError("no `id`")
    return schema.row_id(value)


def _listed(value: Any, field: str, most: int) -> list[Any]:
    return bounded(value, field, most) if value else []


def _references(value: Any) -> tuple[str, ...]:
    if value in (None, []):
        return ()
    return tuple(schema.reference_texts(list(texts_of(value, "`references`")), "references"))


def _picture(find: Find, source: DatasetSource, value: Any, offset: tuple[Path, int] | None) -> tuple[Any, str]:
    if isinstance(value, str) and is_base64_picture(value):
        data = decode_picture(value) if source.need_pictures else b""
        return LinePicture(*offset, "image") if offset else data, hashed(value)
    if isinstance(value, dict):  # as parquet holds a picture
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value, hashed(value)
    if value in (None, "") and not source.need_pictures:
        return None, ""
    return find(source, _name(value, "image"))


def _objects(value: Any) -> tuple[dict[str, Any], ...]:
    """A rendered scene's objects, each at least {"kind": text}; a box is four numbers."""
    return tuple(
        schema.scene_object(item, f"objects[{i}]")
        for i, item in enumerate(_listed(value, "objects", schema.MAX_OBJECTS))
    )


def _choices(task: str, value: Any) -> tuple[Any, ...] | None:
    if value in (None, []):
        return None
    choices = bounded(value, "choices", schema.MAX_CHOICES)
    if task == "pointing":
        return tuple(map(checked_box, choices))
    return tuple(schema.reference_texts(list(texts_of(choices, "`choices`")), "choices"))


def to_row(sample: Sample, image: str) -> dict[str, Any]:
    """A sample as a line of this format, its picture given as `image`; what is empty is left out."""
    row: Mapping[str, Any] = {
        "id": sample.id,
        "image": image,
        "task": sample.task,
        "text": sample.text,
        "choices": [list(item) if sample.task == "pointing" else item for item in sample.choices or ()],
        "references": list(sample.references),
        "boxes": [list(box) for box in sample.boxes],
        "source": sample.source,
        "split": sample.split,
        "tags": sample.tags,
        "ocr_text": sample.ocr_text,
        "objects": list(sample.objects),
    }
    return {key: value for key, value in row.items() if value not in (None, "", [], {})}
