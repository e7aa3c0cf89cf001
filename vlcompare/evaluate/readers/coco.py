"""Captions in whole files: COCO's (and its lists of test pictures), NoCaps', Karpathy's splits, and TextCaps'; one
sample a picture.

As cocodataset.org has it ("Data format", section 5). A file is one JSON value, so it is read whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers import rows
from vlcompare.evaluate.readers.base import Item, each, id_of, is_id, numbered, row_size
from vlcompare.evaluate.readers.opening import RowError, json_object
from vlcompare.evaluate.readers.pictures import picture
from vlcompare.evaluate.readers.source import DatasetSource
from vlcompare.types import Sample


def read(source: DatasetSource) -> Iterator[Item]:
    """One captioning sample a picture, its captions as references."""
    data = json_object(source.path)
    if source.format == "karpathy":
        listed = numbered(data.get("images"), "image")
        named = ((at, {"dataset": data.get("dataset"), **row} if isinstance(row, dict) else row) for at, row in listed)
        return rows.samples(source, named)
    if source.format == "textcaps":
        return rows.samples(source, numbered(data.get("data"), "row"))
    return _coco(source, data)


def _coco(source: DatasetSource, data: dict[str, Any]) -> Iterator[Item]:
    """`images` [{id, file_name}] and `annotations` [{image_id, caption}]; NoCaps adds each picture's `domain`."""
    annotations = data.get("annotations") or []
    if not isinstance(data.get("images"), list) or not isinstance(annotations, list):
        raise SampleError(f"{source.path} is not a COCO captions file: it has no lists `images` and `annotations`.")
    captions: dict[Any, list[str]] = {}
    problems: list[tuple[str, Any]] = []
    for number, row in enumerate(annotations, 1):
        if isinstance(row, dict) and isinstance(row.get("caption"), str) and is_id(row.get("image_id")):
            captions.setdefault(row["image_id"], []).append(row["caption"])
        else:
            problems.append((f"annotation {number}", RowError("no `image_id` and `caption`")))

    def make(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        path, key = picture(source, row["file_name"])
        domain = row.get("domain")
        nocaps = "nocaps" if domain is not None or "open_images_id" in row else "coco"
        return Sample(
            id=id_of(row, "id"),
            image=path,
            task="captioning",
            references=tuple(captions.get(row["id"], ())),
            source=source.source or ("nocaps" if source.format == "nocaps" else nocaps),
            tags={"domain": domain} if isinstance(domain, str) else {},
            image_key=key,
            size=row_size(row),
        )

    yield from each(source, problems, make)
    yield from each(source, numbered(data["images"], "image"), make)
