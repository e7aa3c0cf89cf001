"""Flickr30k Entities: `Annotations/NAME.xml` with boxes by entity, `Sentences/NAME.txt` with phrases by entity.

As the set's README has it: `[/EN#283585/people A man] in gloves ..`, one caption a line; an entity may have several
boxes, which the set's own protocol joins into the one that holds them all. Entities without a box, and scenes, are left
out. With --task grounded_captioning each picture is one sample, its captions with their boxes in bars.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers import safe_xml
from vlcompare.evaluate.readers.base import Item, checked_box, each
from vlcompare.evaluate.readers.opening import RowError
from vlcompare.evaluate.readers.pictures import picture
from vlcompare.evaluate.readers.source import DatasetSource, LeftOut
from vlcompare.tasks.boxes import format_box
from vlcompare.types import Box, Sample

MAX_FILE = 4 << 20  # bytes of one picture's file
_PHRASE = re.compile(r"\[/EN#(\d{1,12})((?:/\w{1,40}){1,8}) ([^\[\]]{1,400})\]")
_SPLITS = ("train", "val", "test")
NO_BOX = "0"  # the entity of phrases that are about nothing visible


def read(source: DatasetSource) -> Iterator[Item]:
    """One sample a phrase of every picture of the folder, in the order of the pictures' names."""
    sentences = source.path / "Sentences"
    if not sentences.is_dir() or not (source.path / "Annotations").is_dir():
        raise SampleError(f"{source.path} is not a folder of Flickr30k Entities: it has no Sentences and Annotations.")
    splits = _splits(source.path)
    for path in sorted(sentences.glob("*.txt")):
        split = splits.get(path.stem)
        yield from each(source, [(path.name, (path, split))], _picture)


def _splits(folder: Path) -> dict[str, str]:
    """Picture -> split, of the set's lists train.txt, val.txt and test.txt."""
    found = {}
    for split in _SPLITS:
        path = folder / f"{split}.txt"
        if path.is_file():
            found.update(dict.fromkeys(_text(path).split(), split))
    return found


def _picture(
    source: DatasetSource, location: str, value: tuple[Path, str | None]
) -> Iterator[Sample] | LeftOut | list[Sample]:
    path, split = value
    (width, height), boxes = _boxes(source.path / "Annotations" / f"{path.stem}.xml")
    image, key = picture(source, _image_name(source, path.stem))
    shared: dict[str, Any] = {"image": image, "source": source.source or "flickr30k", "split": split}
    shared |= {"image_key": key, "size": (width, height)}

    def box_of(entity: str) -> Box | None:
        if entity == NO_BOX or not boxes.get(entity):
            return None
        x0, y0, x1, y1 = zip(*boxes[entity], strict=True)
        return checked_box((min(x0) / width, min(y0) / height, max(x1) / width, max(y1) / height))

    lines = [line for line in _text(path).splitlines() if line.strip()]
    if source.task == "grounded_captioning":
        references = tuple(_PHRASE.sub(lambda match: _barred(match, box_of), line) for line in lines)
        return [Sample(id=path.stem, task="grounded_captioning", references=references, **shared)]
    samples = []
    for number, line in enumerate(lines):
        for index, match in enumerate(_PHRASE.finditer(line)):
            if box := box_of(match[1]):
                tags = {"phrase_type": match[2].strip("/").split("/")[0], "boxes_joined": len(boxes[match[1]])}
                name = f"{path.stem}-{number}-{index}"
                samples.append(Sample(id=name, task="grounding", text=match[3], boxes=(box,), tags=tags, **shared))
    return samples or LeftOut("picture without a phrase that has a box")


def _barred(match: re.Match[str], box_of: Any) -> str:
    box = box_of(match[1])
    return match[3] if box is None else f"||{match[3]} {format_box(box)}||"


def _image_name(source: DatasetSource, name: str) -> str:
    for folder in ("flickr30k-images", "flickr30k_images", "images"):
        if source.need_pictures and (source.image_root / folder).is_dir():
            return f"{folder}/{name}.jpg"
    return f"{name}.jpg"


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise RowError(f"{path.name} cannot be read ({error.strerror or error})") from error
    if len(data) > MAX_FILE:
        raise RowError(f"{path.name} has more than {MAX_FILE:,} bytes")
    return data.decode("utf-8-sig", errors="replace")


def _boxes(path: Path) -> tuple[tuple[float, float], dict[str, list[tuple[float, float, float, float]]]]:
    """((width, height), entity -> its boxes in pixels) of an annotation; entities and external parts are refused."""
    size: dict[str, float] = {}
    boxes: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    names: list[str] = []
    corners: dict[str, float] = {}
    text: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        text.clear()
        if tag == "object":
            names.clear()
            corners.clear()

    def end(tag: str) -> None:
        value = "".join(text).strip()
        text.clear()
        if tag in ("width", "height"):
            size[tag] = float(value)
        elif tag == "name":
            names.append(value)
        elif tag in ("xmin", "ymin", "xmax", "ymax"):
            corners[tag] = float(value)
        elif tag == "object" and len(corners) == 4:
            box = corners["xmin"], corners["ymin"], corners["xmax"], corners["ymax"]
            for name in names:
                boxes[name].append(box)

    safe_xml.parse([_text(path).encode()], path.name, start, end, text.append)
    if len(size) < 2 or not all(0 < value < 1e6 for value in size.values()):
        raise RowError(f"{path.name} does not say the picture's width and height")
    return (size["width"], size["height"]), boxes
