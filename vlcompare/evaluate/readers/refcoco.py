"""Referring expressions: JSON lines or parquet as published on the Hub, a box and one or more expressions a row.

The format of the boxes (x0 y0 x1 y1 or x y width height, in pixels or as shares) has to be declared: numbers alone do
not show which it is. Each expression becomes one sample.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.base import (
    DatasetSource,
    Issue,
    Located,
    RowError,
    declared_box,
    decode_picture,
    each,
    hashed,
    is_base64_picture,
    json_lines,
    picture,
    picture_size,
    undeclared,
)
from vlcompare.types import Sample

_IMAGE = ("image", "img_path", "image_path", "file_name", "filename", "image_file", "img")
_BOX = ("bbox", "box", "bounding_box")
_TEXTS = ("sentences", "sents", "captions", "expressions", "answer", "expression", "sent", "phrase", "caption", "text")
_ID = ("id", "ref_id", "question_id", "ann_id", "anno_id")
_PARQUET_ROWS = 64  # rows held at a time


def read(source: DatasetSource) -> Iterator[Located | Issue]:
    """Grounding samples of a file of JSON lines or parquet."""
    if source.box_format is None or source.box_scale is None:
        raise undeclared(source)
    rows = parquet_rows(source.path) if source.path.suffix == ".parquet" else json_lines(source.path)
    return each(source, rows, samples_of)


def parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(location, row) of a parquet file, a few rows at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise SampleError(f"{path} is not a parquet file that can be read ({error}).") from error


def samples_of(source: DatasetSource, location: str, row: dict[str, Any]) -> list[Sample]:
    """One sample for each expression of the row."""
    image, key = picture_of(source, row, _IMAGE)
    box = declared_box(source, _first(row, _BOX), lambda: _size(source, row, image))
    base = _first(row, _ID, default=location.replace(" ", "-"))
    texts = _expressions(_first(row, _TEXTS))
    ids = [str(base)] if len(texts) == 1 else [f"{base}-{number}" for number in range(len(texts))]
    return [
        Sample(
            id=name,
            image=image,
            task="grounding",
            text=text,
            boxes=(box,),
            source=source.source or row.get("dataset_name"),
            split=source.split or row.get("split"),
            image_key=key,
        )
        for name, text in zip(ids, texts, strict=True)
    ]


def picture_of(source: DatasetSource, row: dict[str, Any], names: Sequence[str]) -> tuple[Any, str]:
    """(picture, key): a file of the data folder, the bytes in a parquet row, or base64 in a JSON line."""
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value), hashed(bytes(value))
    if isinstance(value, str) and is_base64_picture(value):
        data = decode_picture(value)
        return data, hashed(data)
    if value is None and not source.need_pictures:
        return None, ""
    return picture(source, value)


def _first(row: dict[str, Any], names: Sequence[str], **default: Any) -> Any:
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


def _size(source: DatasetSource, row: dict[str, Any], image: Any) -> tuple[float, float]:
    """(width, height) from the row, or else from the picture itself."""
    info = row.get("raw_image_info")
    if isinstance(info, str):
        info = json.loads(info)
    for holder in (row, info or {}):
        if holder.get("width") and holder.get("height"):
            return float(holder["width"]), float(holder["height"])
    if isinstance(row.get("hw"), (list, tuple)) and len(row["hw"]) == 2:
        return float(row["hw"][1]), float(row["hw"][0])
    name = next((row[name] for name in _IMAGE if isinstance(row.get(name), str)), None)
    return tuple(map(float, picture_size(source, image, name)))  # type: ignore[return-value]
