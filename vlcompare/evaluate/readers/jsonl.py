"""Our own samples: one JSON object a line.

    id          text, once in the file
    image       path relative to the file (or to the declared picture folder), or the picture itself in base64
    task        one of vlcompare.types.TASKS
    text        question, expression or statement, where the task takes one
    choices     multiple_choice: texts; pointing: boxes
    references  right answers: captions, phrases, up to ten answers, a letter, "True" / "False", a caption with bars
    boxes       shares of the picture, xyxy: grounding the truth, region_description the region asked about
    source, split, tags, ocr_text, objects      optional; `tags` is an object, `objects` belong to rendered scenes

Knows this format only; writes it too, for run folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlcompare.evaluate.readers.base import (
    Issue,
    LinePicture,
    Placed,
    RowError,
    Source,
    checked_box,
    decode_picture,
    each,
    hashed,
    is_base64_picture,
    json_lines_at,
    picture,
    text_of,
    texts_of,
)
from vlcompare.types import TASKS, Sample


def read(source: Source) -> Iterator[Placed | Issue]:
    """Samples of a JSONL file, in its order."""
    return each(source, _lines(source.path), _sample)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    """As `json_lines`, each row beside its offset: inline pictures are read again from there."""
    for place, offset, value in json_lines_at(path):
        yield place, value if isinstance(value, RowError) else (offset, value)


def _sample(source: Source, place: str, numbered: tuple[int, dict[str, Any]]) -> Sample:
    offset, row = numbered
    key = row.get("id")
    if isinstance(key, bool) or not isinstance(key, (str, int)) or key == "":
        raise RowError("no `id`")
    task = row.get("task", source.task)
    if task not in TASKS:
        raise RowError(f"`task` is {task!r}, not one of {', '.join(TASKS)}")
    image, image_key = _picture(source, row.get("image"), offset)
    tags = row.get("tags") or {}
    if isinstance(tags, list):
        tags = {str(tag): True for tag in tags}
    if not isinstance(tags, dict):
        raise RowError("`tags` is not an object")
    for name in ("source", "split", "ocr_text"):
        if not isinstance(row.get(name), (str, type(None))):
            raise RowError(f"`{name}` is not a text")
    return Sample(
        id=str(key),
        image=image,
        task=task,
        text=text_of(row, "text", required=False),
        choices=_choices(task, row.get("choices")),
        references=texts_of(row["references"], "`references`") if row.get("references") not in (None, []) else (),
        boxes=tuple(checked_box(box) for box in row.get("boxes") or ()),
        source=row.get("source") or source.source,
        split=row.get("split") or source.split,
        tags=tags,
        ocr_text=row.get("ocr_text"),
        objects=_objects(row.get("objects") or []),
        image_key=image_key,
    )


def _picture(source: Source, value: Any, offset: int) -> tuple[Any, str]:
    if isinstance(value, str) and is_base64_picture(value):
        if source.need_pictures:
            decode_picture(value)
        return LinePicture(source.path, offset, "image"), hashed(value)
    if value in (None, "") and not source.need_pictures:
        return None, ""
    return picture(source, value)


def _objects(value: Any) -> tuple[dict[str, Any], ...]:
    """A rendered scene's objects, each at least {"kind": text}; a box is four numbers."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RowError("`objects` is not a list of objects")
    for item in value:
        box = item.get("box", (0, 0, 0, 0))
        numbers = isinstance(box, (list, tuple)) and all(type(number) in (int, float) for number in box)
        if not isinstance(item.get("kind"), str) or not numbers or len(box) != 4:
            raise RowError("an object of `objects` has no `kind`, or its `box` is not four numbers")
    return tuple(value)


def _choices(task: str, value: Any) -> tuple[Any, ...] | None:
    if value in (None, []):
        return None
    if not isinstance(value, list):
        raise RowError("`choices` is not a list")
    return tuple(checked_box(box) for box in value) if task == "pointing" else texts_of(value, "`choices`")


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
