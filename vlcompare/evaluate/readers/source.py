"""What is read, and what was declared about it; what readers give: samples with their place, issues, rows left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vlcompare.types import Sample

BOX_FORMATS = ("xyxy", "xywh")
BOX_SCALES = ("absolute", "relative", "thousandths")


@dataclass(frozen=True, slots=True)
class Issue:
    """A row that was skipped: its location and the reason."""

    location: str
    reason: str

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}"


class LeftOut(NamedTuple):
    """A sound row that is not wanted, and what it is ("an unbalanced question"): counted, not reported one by one."""

    what: str


class Located(NamedTuple):
    """A sample and the location of its row, for the messages of errors that are found later."""

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
    images: Path | None = None  # folder of the pictures, or a parquet file of them by id; None: beside the file
    annotations: Path | None = None  # the file that goes with the first: answers, instances, OCR tokens
    question: str | None = None  # a folder of pictures: what is asked about each
    box_format: str | None = None
    box_scale: str | None = None
    balanced: bool = True  # GQA: the balanced questions alone, which its figures are of
    need_pictures: bool = True  # False for scoring, which opens none
    hub_id: str = ""
    config: str | None = None  # Hub sets: which part of the set
    revision: str | None = None
    load_dataset: Callable[..., Any] | None = field(default=None, compare=False)  # None: `datasets.load_dataset`

    @property
    def image_root(self) -> Path:
        return self.images or (self.path if self.path.is_dir() else self.path.parent)
