"""A folder of pictures with one question for all of them; there are no references, so nothing is scored."""

from __future__ import annotations

from collections.abc import Iterator

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.base import Item
from vlcompare.evaluate.readers.pictures import PICTURE_SUFFIXES, picture
from vlcompare.evaluate.readers.source import DatasetSource, Issue, Located
from vlcompare.types import Sample


def read(source: DatasetSource) -> Iterator[Item]:
    """One sample a picture, in the order of their names; `id` is the path inside the folder."""
    if not source.path.is_dir():
        raise SampleError(f"{source.path} is not a folder.")
    task = source.task or ("vqa" if source.question else "captioning")
    found = False
    for path in sorted(source.path.rglob("*")):
        if path.suffix.lower() not in PICTURE_SUFFIXES or not path.is_file():
            continue
        found = True
        name = path.relative_to(source.path).as_posix()
        try:
            image, key = picture(source, name)
        except ValueError as error:
            yield Issue(name, str(error))
            continue
        yield Located(name, Sample(id=name, image=image, task=task, text=source.question or "", image_key=key))
    if not found:
        raise SampleError(
            f"{source.path} is a folder without pictures (.jpg, .png, .webp): give the data set's file, "
            "or a folder of pictures."
        )
