"""What all readers share: the source they read, rows that are broken, pictures that stay inside the data folder.

A reader is a function from a DatasetSource to an iterator of samples (Located) and Issues; it holds one row at a time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from vlcompare.errors import SampleError
from vlcompare.evaluate.fields import FieldError
from vlcompare.evaluate.readers.json_lines import each_line, exactly, why
from vlcompare.types import Box, Sample

BOX_FORMATS = ("xyxy", "xywh")
BOX_SCALES = ("absolute", "relative", "thousandths")
PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp"))
MAX_ROW_CHARACTERS = 64 * 1024 * 1024
_BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "UklGR")  # PNG, JPEG, WebP


class RowError(ValueError):
    """One row cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Issue:
    """A row that was skipped: where it stands, and why."""

    location: str
    reason: str

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}"


class Located(NamedTuple):
    """A sample and where its row stands: errors that are found later are reported with that location."""

    location: str
    sample: Sample


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """What to read, and what the user declared about it; nothing here is guessed from the data."""

    path: Path
    format: str = "jsonl"
    task: str | None = None
    source: str | None = None
    split: str | None = None
    images: Path | None = None  # folder of the pictures; None: beside the file
    annotations: Path | None = None  # VQAv2: the file of the answers
    question: str | None = None  # a folder of pictures: what is asked about each
    box_format: str | None = None
    box_scale: str | None = None
    need_pictures: bool = True  # False for scoring, which opens none
    hub_id: str = ""
    config: str | None = None  # Hub sets: which part of the set
    revision: str | None = None
    load_dataset: Callable[..., Any] | None = field(default=None, compare=False)  # None: `datasets.load_dataset`

    @property
    def image_root(self) -> Path:
        return self.images or (self.path if self.path.is_dir() else self.path.parent)


def each(
    source: DatasetSource, rows: Iterator[tuple[str, Any]], make: Callable[[DatasetSource, str, Any], Any]
) -> Iterator[Located | Issue]:
    """Samples of every row; a row that raises RowError, or has an unexpected shape, becomes an Issue."""
    for location, row in rows:
        if isinstance(row, RowError):
            yield Issue(location, str(row))
            continue
        try:
            made = make(source, location, row)
            samples = [made] if isinstance(made, Sample) else list(made)
        except (RowError, FieldError) as error:
            yield Issue(location, str(error))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            yield Issue(location, f"not as this format has it ({type(error).__name__}: {error})")
        else:
            yield from (Located(location, sample) for sample in samples)


# ---- files -----------------------------------------------------------------------------------------------------------


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """(location, value) of each line; a line that is no JSON object gives a RowError in its place."""
    return ((location, value) for location, _, value in json_lines_at(path))


def json_lines_at(path: Path) -> Iterator[tuple[str, int, Any]]:
    """The same as (location, byte offset, value), so that what is large in a line can be read again later."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise SampleError(f"{path} cannot be read: {error.strerror or error}.") from error
    with file:
        for number, start, line in each_line(file, MAX_ROW_CHARACTERS):
            if line is not None and not line.strip():
                continue
            try:
                value = RowError(f"more than {MAX_ROW_CHARACTERS:,} bytes") if line is None else exactly(line)
            except (ValueError, RecursionError) as error:
                value = RowError(why(error))
            known = isinstance(value, (dict, RowError))
            yield f"line {number}", start, value if known else RowError("not a JSON object")


def json_file(path: Path) -> Any:
    """A whole JSON file. Raises SampleError where it is none."""
    try:
        # halves of characters are left to the samples' own check: one of them is no reason to refuse the other rows
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise SampleError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{path} is not a JSON file: {why(error)}.") from error


def json_object(path: Path) -> dict[str, Any]:
    """A whole JSON file that holds an object. Raises SampleError where it does not."""
    value = json_file(path)
    if not isinstance(value, dict):
        raise SampleError(f"{path} holds no JSON object; is the format the right one?")
    return value


# ---- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinePicture:
    """A picture that stands in base64 in a line of a file: read again when it is wanted, not kept."""

    path: Path
    offset: int
    key: str

    def __call__(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return decode_picture(json.loads(file.readline())[self.key])


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
        raise RowError(f"the picture is not base64 ({error})") from error


def picture_path(source: DatasetSource, name: Any) -> Path:
    """The file a row names, inside the data folder. Raises RowError where it leads out of it or does not exist."""
    if not isinstance(name, str) or not name.strip():
        raise RowError("no picture is named")
    if "\0" in name or "://" in name:
        raise RowError(f"{name[:80]!r} is no file name; pictures are files in the data folder, or base64")
    root = _resolved(source.image_root)
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise RowError(f"the picture {name[:80]!r} lies outside the data folder {root}")
    if source.need_pictures and not path.is_file():
        raise RowError(f"the picture {name[:80]!r} is not in {root}")
    return path


@lru_cache(maxsize=64)
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def picture(source: DatasetSource, name: Any) -> tuple[Path | None, str]:
    """(the file, the key that rows of one picture share). Scoring needs the key alone and opens no file."""
    if not source.need_pictures:
        return None, name if isinstance(name, str) else ""
    path = picture_path(source, name)
    return path, str(path)


def hashed(data: bytes | str) -> str:
    """A short stable key of a picture's content, for clustering."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]


def picture_size(source: DatasetSource, image: Any, name: Any) -> tuple[int, int]:
    """(width, height) of a row's picture, upright; where scoring left it unopened, it is opened by its name."""
    from vlcompare.runtime.image import open_image

    if image is None:
        image = picture_path(replace(source, need_pictures=True), name)
    return open_image(image() if callable(image) else image).size


# ---- values ----------------------------------------------------------------------------------------------------------


def text_of(row: Any, *names: str, required: bool = True) -> str:
    """The first of these fields that holds text."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value
    if required:
        raise RowError(f"no text in {' / '.join(names)}")
    return ""


def is_id(value: Any) -> bool:
    """A text or a whole number that can name a row."""
    return isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""


def id_of(row: Any, *names: str, default: str | None = None) -> str:
    """The first of these fields that names the row: a text or a whole number."""
    value = next((row[name] for name in names if is_id(row.get(name))), default)
    if value is None:
        raise RowError(f"no {' / '.join(names)} that names the row")
    return str(value)


def texts_of(value: Any, what: str) -> tuple[str, ...]:
    """A text, or a list of texts (numbers allowed)."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values or not all(isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in values):
        raise RowError(f"{what} is not a text or a list of texts")
    return tuple(str(item) for item in values)


def declared_box(source: DatasetSource, value: Any, size: Callable[[], tuple[float, float]]) -> Box:
    """A box in the declared format, as shares of the picture, xyxy. `size` gives (width, height) where it is needed."""
    numbers = [float(item) for item in value]
    if len(numbers) != 4 or not all(-1e7 < number < 1e7 for number in numbers):
        raise RowError(f"a box has four finite numbers, not {value!r}")
    if source.box_format is None or source.box_scale is None:
        raise undeclared(source)
    x0, y0, x1, y1 = numbers
    if source.box_format == "xywh":
        x1, y1 = x0 + x1, y0 + y1
    width, height = {"relative": (1.0, 1.0), "thousandths": (1000.0, 1000.0)}.get(source.box_scale) or size()
    if width <= 0 or height <= 0:
        raise RowError(f"the picture's size is {width} x {height}")
    return checked_box((x0 / width, y0 / height, x1 / width, y1 / height))


def checked_box(values: Any) -> Box:
    """A true box: four finite shares of the picture, with an area, within 0..1 (a rounding step over is clipped)."""
    if not isinstance(values, (list, tuple)) or len(values) != 4:
        raise RowError("a box is [x0, y0, x1, y1]")
    if not all(type(item) in (float, int) and abs(item) < 1e300 for item in values):
        shown = "large numbers" if all(type(item) in (float, int) for item in values) else ascii(values)[:80]
        raise RowError(f"a box has four numbers, not {shown}")
    x0, y0, x1, y1 = map(float, values)
    box = Box(x0, y0, x1, y1)
    if 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1:
        return box
    if not all(-0.02 <= item <= 1.02 for item in box):
        raise RowError(f"the box {_short(box)} is not within 0..1 of the picture")
    if x0 >= x1 or y0 >= y1 or box.clip().area <= 0:
        raise RowError(f"the box {_short(box)} is inverted or empty")
    return box.clip()


def undeclared(source: DatasetSource) -> SampleError:
    return SampleError(
        f"The boxes of {source.path.name} can be xyxy or xywh, in pixels or as shares of the picture: say which with "
        f"--box-format {'|'.join(BOX_FORMATS)} and --box-scale {'|'.join(BOX_SCALES)}; it is never guessed."
    )


def _short(box: Box) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in box) + "]"
