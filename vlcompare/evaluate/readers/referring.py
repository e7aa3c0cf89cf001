"""Referring expressions: one phrase, one true box.

    refcoco         rows with a box and its expressions, as lines, arrays, parquet or on the Hub; how their boxes are
                    (x0 y0 x1 y1 or x y width height, pixels or shares) has to be declared: numbers do not show it
    mdetr           MDETR's JSON: an entry of `images` for each expression, boxes x y width height in pixels
    refer           refer's references as JSON, with --annotations instances.json; boxes as in COCO
    coco-instances  COCO's or Objects365's instances: a category that a picture has one of is its phrase

Each expression becomes one sample.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.base import (
    Item,
    box_in,
    declared_box,
    each,
    id_of,
    is_id,
    numbered,
    row_size,
    text_of,
    undeclared,
)
from vlcompare.evaluate.readers.opening import RowError, json_object, rows_of
from vlcompare.evaluate.readers.pictures import picture, picture_of, picture_size
from vlcompare.evaluate.readers.source import DatasetSource
from vlcompare.types import Box, Sample

_IMAGE = ("image", "img_path", "image_path", "file_name", "filename", "image_file", "img")
_BOX = ("bbox", "box", "bounding_box")
_TEXTS = ("sentences", "sents", "captions", "expressions", "answer", "expression", "sent", "phrase", "caption", "text")
_ID = ("id", "ref_id", "question_id", "ann_id", "anno_id")
# refer names a picture after its object: COCO_train2014_000000581857_16.jpg is object 16 in ..581857.jpg
_OBJECT_NAME = re.compile(r"(COCO_[a-z]+20\d\d_\d{12})_\d+(\.jpg)\Z")


def read(source: DatasetSource) -> Iterator[Item]:
    """Grounding samples of a file in one of the four formats."""
    return _READERS[source.format](source)


def need_declared(source: DatasetSource) -> None:
    """Raise SampleError where it was not declared how the boxes are."""
    if source.box_format is None or source.box_scale is None:
        raise undeclared(source)


def _refcoco(source: DatasetSource) -> Iterator[Item]:
    need_declared(source)
    return each(source, rows_of(source.path), samples_of)


def samples_of(source: DatasetSource, location: str, row: dict[str, Any]) -> list[Sample]:
    """One sample for each expression of a row of `refcoco`."""
    if isinstance(row.get("file_name"), str):
        row = {**row, "file_name": _OBJECT_NAME.sub(r"\1\2", row["file_name"])}
    image, key = picture_of(source, row, _IMAGE)
    size = _known_size(row)
    box = declared_box(source, _first(row, _BOX), lambda: size or _opened_size(source, row, image))
    base = str(_first(row, _ID, default=location.replace(" ", "-")))
    name, split = row.get("dataset_name"), row.get("split")
    return _samples(
        base,
        _expressions(_first(row, _TEXTS)),
        image=image,
        boxes=(box,),
        source=source.source or (name if isinstance(name, str) else None),
        split=split if isinstance(split, str) else None,
        image_key=key,
        size=size,
    )


def _samples(base: str, texts: list[str], **fields: Any) -> list[Sample]:
    ids = [base] if len(texts) == 1 else [f"{base}-{number}" for number in range(len(texts))]
    return [Sample(id=id, task="grounding", text=text, **fields) for id, text in zip(ids, texts, strict=True)]


def _first(row: dict[str, Any], names: tuple[str, ...], **default: Any) -> Any:
    for name in names:
        if row.get(name) not in (None, "", []):
            return row[name]
    if default:
        return default["default"]
    raise RowError(f"none of the fields {', '.join(names)}")


def _expressions(value: Any) -> list[str]:
    """Texts from a text, a list of texts, or a list of {"raw", "sent"}."""
    items = value if isinstance(value, list) else [value]
    texts = [item.get("sent") or item.get("raw") if isinstance(item, dict) else item for item in items]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise RowError("an expression is empty or not a text")
    return [str(text) for text in texts]


def _known_size(row: dict[str, Any]) -> tuple[float, float] | None:
    """(width, height) as the row, or its `raw_image_info`, says it."""
    info = row.get("raw_image_info")
    if isinstance(info, str):
        info = json.loads(info)
    return row_size(row) or (row_size(info) if isinstance(info, dict) else None)


def _opened_size(source: DatasetSource, row: dict[str, Any], image: Any) -> tuple[float, float]:
    name = next((row[name] for name in _IMAGE if isinstance(row.get(name), str)), None)
    width, height = picture_size(source, image, name)
    return float(width), float(height)


# ---- files with lists of pictures and of annotations -----------------------------------------------------------------


def _mdetr(source: DatasetSource) -> Iterator[Item]:
    """`images` [{id, file_name, caption, dataset_name}], `annotations` [{image_id, bbox}]."""
    data = json_object(source.path)
    boxes: dict[Any, list[Any]] = defaultdict(list)
    for row in _listed(data, "annotations", source):
        if isinstance(row, dict) and is_id(row.get("image_id")):
            boxes[row["image_id"]].append(row.get("bbox"))

    def make(source: DatasetSource, location: str, row: dict[str, Any]) -> Sample:
        path, key = picture(source, row["file_name"])
        name = row.get("dataset_name")
        return Sample(
            id=id_of(row, "id"),
            image=path,
            task="grounding",
            text=text_of(row, "caption"),
            boxes=(_only_box(source, boxes[row["id"]], row, path),),
            source=source.source or (name if isinstance(name, str) else None),
            image_key=key,
            size=row_size(row),
        )

    return each(source, numbered(data.get("images"), "image"), make)


def _refer(source: DatasetSource) -> Iterator[Item]:
    """refer's [{ref_id, ann_id, image_id, split, sentences: [{sent}]}] beside COCO's instances."""
    if source.annotations is None:
        raise SampleError(f"{source.path} names its boxes by `ann_id`: give COCO's instances.json with --annotations.")
    instances = json_object(source.annotations)
    boxes = {row["id"]: row for row in _by_id(instances, "annotations", source)}
    images = {row["id"]: row for row in _by_id(instances, "images", source)}

    def make(source: DatasetSource, location: str, row: dict[str, Any]) -> list[Sample]:
        image, annotation = images.get(row["image_id"]), boxes.get(row["ann_id"])
        if image is None or annotation is None:
            raise RowError(f"the instances have no picture {row['image_id']} or no object {row['ann_id']}")
        path, key = picture(source, image["file_name"])
        split = row.get("split")
        return _samples(
            id_of(row, "ref_id"),
            _expressions(row["sentences"]),
            image=path,
            boxes=(_only_box(source, [annotation.get("bbox")], image, path),),
            source=source.source or "refcoco",
            split=split if isinstance(split, str) else None,
            image_key=key,
            size=row_size(image),
        )

    return each(source, rows_of(source.path), make)


def _instances(source: DatasetSource) -> Iterator[Item]:
    """One sample for each picture and category that it has exactly one object of; groups (`iscrowd`) are none."""
    data = json_object(source.path)
    names = {row["id"]: row.get("name") for row in _by_id(data, "categories", source)}
    found: dict[Any, dict[Any, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for row in _listed(data, "annotations", source):
        if isinstance(row, dict) and is_id(row.get("image_id")) and is_id(row.get("category_id")):
            found[row["image_id"]][row["category_id"]].append(None if row.get("iscrowd") else row.get("bbox"))

    def rows() -> Iterator[tuple[str, Any]]:
        for location, row in numbered(data.get("images"), "image"):
            if isinstance(row, dict) and is_id(row.get("id")):
                for category, boxes in found.get(row["id"], {}).items():
                    yield f"{location}, category {category}", (row, category, boxes)
            else:
                yield location, RowError("no `id`")

    def make(source: DatasetSource, location: str, value: tuple[dict[str, Any], Any, list[Any]]) -> Sample:
        row, category, boxes = value
        name = names.get(category)
        if not isinstance(name, str) or not name.strip():
            raise RowError("the category has no name")
        if len(boxes) != 1 or boxes[0] is None:
            raise RowError(f"the picture has {len(boxes)} of {name[:40]!r}, or a group: no one box is the true one")
        path, key = picture(source, row["file_name"])
        return Sample(
            id=f"{row['id']}-{category}",
            image=path,
            task="grounding",
            text=name,
            boxes=(_only_box(source, boxes, row, path),),
            source=source.source,
            tags={"category": name},
            image_key=key,
            size=row_size(row),
        )

    return each(source, rows(), make)


def _only_box(source: DatasetSource, boxes: list[Any], row: dict[str, Any], image: Any) -> Box:
    """The one box of an annotation, which COCO writes as x, y, width, height in pixels."""
    if len(boxes) != 1:
        raise RowError(f"{len(boxes)} boxes, and one is what a phrase needs")
    return box_in("xywh", "absolute", boxes[0], lambda: row_size(row) or _opened_size(source, row, image))


def _listed(data: dict[str, Any], name: str, source: DatasetSource) -> list[Any]:
    rows = data.get(name)
    if not isinstance(rows, list):
        raise SampleError(f"{source.path} has no list `{name}`; is the format {source.format} the right one?")
    return rows


def _by_id(data: dict[str, Any], name: str, source: DatasetSource) -> list[dict[str, Any]]:
    return [row for row in _listed(data, name, source) if isinstance(row, dict) and is_id(row.get("id"))]


_READERS = {"refcoco": _refcoco, "mdetr": _mdetr, "refer": _refer, "coco-instances": _instances}
