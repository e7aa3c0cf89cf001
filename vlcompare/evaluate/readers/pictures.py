"""Pictures that rows name or hold: files inside the data folder, base64, bytes; none is opened before it is used.

A name is looked up in the data folder as it stands, then without its leading folders, for names of COCO's years in the
folder of that year, and in the folders that benchmarks unpack their pictures into. Links are followed within the
folder, and from a Hub cache's `snapshots` to its `blobs`; anything else that leads out of the folder is refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlcompare.evaluate.readers.opening import RowError, line_at
from vlcompare.evaluate.readers.source import DatasetSource

PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp"))
_BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "UklGR")  # PNG, JPEG, WebP
# what benchmarks unpack their pictures into, where their files name the picture alone or another folder
_UNPACKED = ("images", "train_images", "test_images", "validation", "SEED-Bench-image", "flickr30k-images")
_COCO_NAME = re.compile(r"COCO_([a-z]+20\d\d)_\d{12}\.jpg\Z")


@dataclass(frozen=True, slots=True)
class LinePicture:
    """A picture in base64 in one line of a file; the line is read when the picture is needed, and not kept."""

    path: Path
    offset: int
    key: str

    def __call__(self) -> bytes:
        return decode_picture(line_at(self.path, self.offset)[self.key])


def is_base64_picture(value: str) -> bool:
    return value.startswith("data:image/") or (len(value) > 64 and value.startswith(_BASE64_STARTS))


def decode_picture(value: str) -> bytes:
    """Bytes of a picture in base64, with or without a `data:` head."""
    head, _, body = value.partition(",") if value.startswith("data:") else ("", "", value)
    if head and not head.endswith(";base64"):
        raise RowError("the picture is a data address that is not base64")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RowError("the picture is not base64") from error


def picture_path(source: DatasetSource, name: Any) -> Path:
    """The file a row names, inside the data folder. Raises RowError where it leads out of it or does not exist."""
    if not isinstance(name, str) or not name.strip():
        raise RowError("no picture is named")
    if "\0" in name or "://" in name:
        raise RowError(f"{name[:80]!r} is not a file name; pictures are files in the data folder, or base64")
    return _found(_resolved(source.image_root), name, source.need_pictures)


@lru_cache(maxsize=4096)  # rows of one picture follow one another
def _found(root: Path, name: str, needed: bool) -> Path:
    path = (root / name).resolve()
    inside = _is_inside(path, root)
    if inside and (not needed or path.is_file()):
        return path
    for other in _elsewhere(name):
        if needed and _is_inside(moved := (root / other).resolve(), root) and moved.is_file():
            return moved
    if not inside:
        raise RowError(f"the picture {name[:80]!r} lies outside the data folder {root}")
    raise RowError(f"the picture {name[:80]!r} is not in {root} (--images names another folder)")


def _elsewhere(name: str) -> Iterator[str]:
    """Where else in the folder a picture of this name may lie."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        return
    for start in range(1 if len(parts) > 1 or not name.startswith("/") else 0, len(parts)):
        yield "/".join(parts[start:])
    if year := _COCO_NAME.match(parts[-1]):
        yield f"{year[1]}/{parts[-1]}"
    yield from (f"{folder}/{parts[-1]}" for folder in _UNPACKED)


def _is_inside(path: Path, root: Path) -> bool:
    return path.is_relative_to(root) or path.parent == tree_of(root) / "blobs"


def tree_of(folder: Path) -> Path:
    """The folder that a data folder's pictures lie in: itself, or the repository's folder of a Hub cache, where
    datasets--OWNER--NAME/snapshots/REVISION/.. holds links to files of the same repository's `blobs`."""
    root = _resolved(folder)
    for each in (root, *root.parents):
        if each.parent.name == "snapshots" and "--" in each.parent.parent.name:
            return each.parent.parent
    return root


@lru_cache(maxsize=64)
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def picture(source: DatasetSource, name: Any) -> tuple[Path | None, str]:
    """(the file, the key that rows of one picture share). Scoring needs the key alone and opens no file."""
    if not source.need_pictures:
        return None, name if isinstance(name, str) else ""
    path = picture_path(source, name)
    return path, str(path)


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
    if value is None:
        raise RowError(f"no picture: none of the fields {', '.join(names)}")
    return picture(source, value)


def hashed(data: bytes | str) -> str:
    """A short stable key of a picture's content, for clustering."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]


def picture_size(source: DatasetSource, image: Any, name: Any) -> tuple[int, int]:
    """(width, height) of a row's picture, upright; where scoring left it unopened, it is opened by its name."""
    from vlcompare.runtime.image import open_image

    if image is None:
        image = picture_path(replace(source, need_pictures=True), name)
    return open_image(image() if callable(image) else image).size
