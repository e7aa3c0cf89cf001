"""VLMEvalKit's TSV: index, image (base64) or image_path, question, answer, A, B, C, D, hint, category, split.

As VLMEvalKit documents it ("Develop new Benchmark": the data fields) and reads it (`ImageBaseDataset`). Rows are read
one at a time; a picture is read again from its place in the file when it is wanted. An `image` that is short names the
row whose picture it shares, an earlier one or a later one. What a row asks follows from the columns: choices A, B, ..
make multiple choice, `bbox_x1` .. or a category RefCOCO grounding, no question captioning, the rest questions; --task
says otherwise. MMBench asks a question again with its choices turned (`index` + 1,000,000 each time): those rows are
tagged `circular` with the question's index, and count as one question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.benchmarks import set_name
from vlcompare.evaluate.readers.base import Item, box_in, each, literal_texts
from vlcompare.evaluate.readers.choice_rows import filled, hinted, letter_among, lettered, several_pictures
from vlcompare.evaluate.readers.opening import MAX_ROW_CHARACTERS, RowError, kind_of
from vlcompare.evaluate.readers.pictures import decode_picture, hashed, picture
from vlcompare.evaluate.readers.rows import YES_NO
from vlcompare.evaluate.readers.source import DatasetSource
from vlcompare.evaluate.readers.tables import fields_of, header_of, placed_rows
from vlcompare.types import Box, Sample

CIRCULAR = 1_000_000  # what is added to `index` for each turn of the choices
POPE_CATEGORIES = ("random", "popular", "adversarial")
_SHARED = 64  # an `image` shorter than this names another row
_WHOLE = re.compile(r"(\d{1,18})\.0\Z")  # what a column of whole numbers becomes on its way through pandas
_MENTION = re.compile(r"\s*<image[ _]?\d+>\s*")
_REFERRED = re.compile(r"<ref>(.{1,1000}?)</ref>", re.DOTALL)
_SPLIT_NAME = re.compile(r"(RefCOCO[+g]?|refcoco[+g]?)[ _]+([A-Za-z]+)\Z")
_CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


@dataclass(frozen=True, slots=True)
class TsvPicture:
    """The picture of one row, by the row's place in the file."""

    path: Path
    offset: int
    length: int
    column: int

    def __call__(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            text = file.read(min(self.length, MAX_ROW_CHARACTERS)).decode("utf-8-sig")
        return decode_picture(_one_of(fields_of(text)[self.column]))


def read(source: DatasetSource) -> Iterator[Item]:
    """Samples of a TSV. Raises SampleError where it has no column `index`, or none for pictures."""
    kind = kind_of(source.path)
    columns = header_of(kind.path)
    if "index" not in columns or not {"image", "image_path"} & set(columns):
        raise SampleError(
            f"{source.path} is not a VLMEvalKit TSV: it has the columns {', '.join(columns)[:200]}; it needs index and "
            "image or image_path."
        )
    return each(source, _rows(source, kind.path, columns), _sample)


class _Pictures:
    """The pictures of a file by their row's index; a row that names a later one's has the whole file read once."""

    def __init__(self, source: DatasetSource, path: Path, columns: list[str]) -> None:
        self._source, self._path = source, path
        self._column = columns.index("image") if "image" in columns else -1
        self._known: dict[str, tuple[TsvPicture, str]] = {}
        self._complete = False

    def take(self, row: dict[str, str], offset: int, length: int) -> None:
        cell = row.get("image", "")
        if len(cell) > _SHARED:
            made = TsvPicture(self._path, offset, length, self._column)
            self._known.setdefault(index_of(row), (made, hashed(cell)))

    def find(self, row: dict[str, str]) -> tuple[Any, str]:
        """(picture, its key) of a row. Raises RowError where it has none, or it is not base64."""
        cell = row.get("image", "")
        if not filled(cell):
            return self._file(row)
        own = len(cell) > _SHARED
        name = index_of(row) if own else _whole(cell.strip())
        if own and self._source.need_pictures:
            decode_picture(_one_of(cell))
        if name not in self._known and not self._complete:
            for _, offset, length, other in placed_rows(self._path):
                if not isinstance(other, RowError):
                    self.take(other, offset, length)
            self._complete = True
        if name not in self._known and self._source.need_pictures:
            if filled(row.get("image_path")):
                return self._file(row)
            raise RowError(f"there is no picture here, and none in a row {name[:20]!r}")
        return self._known.get(name, (None, name))

    def _file(self, row: dict[str, str]) -> tuple[Any, str]:
        """The picture that `image_path` names: a file, or a list of one."""
        if not filled(row.get("image_path")):
            if self._source.need_pictures:
                raise RowError("there is no picture here: neither `image` nor `image_path`")
            return None, ""
        return picture(self._source, _one_of(row["image_path"]))


def _one_of(cell: str) -> str:
    """The picture of a cell that holds one, or a list of one in Python's notation; several are refused."""
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return cell
    items = [item.strip().strip("'\"") for item in text[1:-1].split(",")]
    if len(items) != 1:
        raise several_pictures(len(items))
    return items[0]


def _whole(text: str) -> str:
    return match[1] if (match := _WHOLE.match(text)) else text


def index_of(row: dict[str, str]) -> str:
    """A row's index; one that pandas made a number with a fraction of 0 is whole again."""
    return _whole(row["index"].strip())


def _rows(source: DatasetSource, path: Path, columns: list[str]) -> Iterator[tuple[str, Any]]:
    pictures = _Pictures(source, path, columns)
    for location, offset, length, row in placed_rows(path):
        if isinstance(row, RowError):
            yield location, row
            continue
        pictures.take(row, offset, length)
        yield location, (row, pictures)


# ---- what a row asks -------------------------------------------------------------------------------------------------


def _sample(source: DatasetSource, location: str, value: tuple[dict[str, str], _Pictures]) -> Sample:
    row, pictures = value
    index = index_of(row)
    if not index:
        raise RowError("no `index`")
    image, key = pictures.find(row)
    task = source.task or _task(row)
    split = row["split"] if filled(row.get("split")) else None
    tags = {name: row[name] for name in ("category", "l2-category") if filled(row.get(name))}
    shared: dict[str, Any] = {"id": index, "image": image, "task": task, "image_key": key, "tags": tags}
    if task == "grounding":
        return _referring(source, row, shared)
    text, answer = _MENTION.sub(" ", hinted(row, row.get("question", ""))).strip(), row.get("answer", "")
    shared |= {"text": text, "split": split}
    if task == "multiple_choice":
        choices = lettered(row)
        if not choices:
            raise RowError("no choices A, B, ..")
        if index.isdecimal() and int(index) >= CIRCULAR:
            tags["circular"] = str(int(index) % CIRCULAR)
        letters = (letter_among(choices, answer),) if filled(answer) else ()
        return Sample(choices=tuple(choices.values()), references=letters, source=set_name(source), **shared)
    references = literal_texts(answer) if filled(answer) else ()
    pope = row.get("category") in POPE_CATEGORIES and answer.strip().lower() in YES_NO
    name = source.source or "pope" if pope and task == "vqa" else set_name(source)
    return Sample(references=references, source=name, **shared)


def _task(row: dict[str, str]) -> str:
    if "A" in row and (lettered(row) or "B" in row):
        return "multiple_choice"
    if set(_CORNERS) <= row.keys() or "bbox" in row or _SPLIT_NAME.match(row.get("category", "")):
        return "grounding"
    return "vqa" if "question" in row else "captioning"


def _referring(source: DatasetSource, row: dict[str, str], shared: dict[str, Any]) -> Sample:
    """A row of VLMEvalKit's RefCOCO: its box in shares or in pixels by its columns, or as text in `answer`."""
    named = _SPLIT_NAME.match(row.get("category", "") or "") or _SPLIT_NAME.match(row.get("split", "") or "")
    split = named[2] if named else row["split"] if filled(row.get("split")) else None
    question = row.get("question", "")
    referred = _REFERRED.search(question)
    size = _size(row)
    return Sample(
        text=referred[1] if referred else question.rpartition("describes:")[2].strip() or question,
        boxes=(_box(source, row, size),),
        source=source.source or (named[1] if named else "refcoco"),
        split=split,
        size=size,
        **shared,
    )


def _size(row: dict[str, str]) -> tuple[float, float] | None:
    try:
        width, height = float(row.get("width", "")), float(row.get("height", ""))
    except ValueError:
        return None
    return (width, height) if 0 < width < 1e7 and 0 < height < 1e7 else None


def _box(source: DatasetSource, row: dict[str, str], size: tuple[float, float] | None) -> Box:
    def known_size() -> tuple[float, float]:
        if size is None:
            raise RowError("the box is in pixels, and there is no `width` and `height`")
        return size

    shares = [f"{name}_norm" for name in _CORNERS]
    if all(filled(row.get(name)) for name in shares):
        return box_in("xyxy", "relative", [row[name] for name in shares], known_size)
    if all(filled(row.get(name)) for name in _CORNERS):
        return box_in("xyxy", "absolute", [row[name] for name in _CORNERS], known_size)
    text = next((row[name] for name in ("answer", "bbox") if filled(row.get(name))), "")
    scale = source.box_scale
    if scale is None:
        raise SampleError(
            f"The boxes of {source.path.name} stand in `answer`, in pixels or as shares of the picture: say which with "
            "--box-scale; it is never guessed."
        )
    return box_in(source.box_format or "xyxy", scale, [part for part in text.strip(" []()").split(",")], known_size)
