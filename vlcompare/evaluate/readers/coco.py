"""COCO captions: `images` [{id, file_name}] and `annotations` [{image_id, caption}], one sample a picture.

As cocodataset.org has it ("Data format", section 5). The file is one JSON value, so it is read whole.
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
    json_object,
    picture,
)
from vlcompare.types import Sample


def read(source: DatasetSource) -> Iterator[Located | Issue]:
    """One captioning sample a picture, its captions as references."""
    data = json_object(source.path)
    annotations = data.get("annotations") or []
    if not isinstance(data.get("images"), list) or not isinstance(annotations, list):
        raise SampleError(f"{source.path} is no COCO captions file: it has no lists `images` and `annotations`.")
    captions: dict[Any, list[str]] = {}
    problems: list[tuple[str, Any]] = []
    for number, row in enumerate(annotations, 1):
        if isinstance(row, dict) and isinstance(row.get("caption"), str) and is_id(row.get("image_id")):
            captions.setdefault(row["image_id"], []).append(row["caption"])
        else:
            problems.append((f"annotation {number}", RowError("no `image_id` and `caption`")))
    yield from each(source, iter(problems), _picture)
    rows = ((f"image {number}", (row, captions)) for number, row in enumerate(data["images"], 1))
    yield from each(source, rows, _picture)


def _picture(source: DatasetSource, location: str, value: tuple[dict[str, Any], dict[Any, list[str]]]) -> Sample:
    row, captions = value
    path, key = picture(source, row["file_name"])
    return Sample(
        id=id_of(row, "id"),
        image=path,
        task="captioning",
        references=tuple(captions.get(row["id"], ())),
        source=source.source or "coco",
        image_key=key,
    )
