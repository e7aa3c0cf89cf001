"""Readers: files and data sets -> samples, by `open_samples`; formats are rows of the table FORMATS.

Reading is lazy: a stream holds one row at a time. A row that is broken is skipped, counted, and named with its place
and reason in `stream.issues`. Nothing in a file is evaluated as code. Pictures lie inside the data folder and are not
opened here.
"""

from __future__ import annotations

import importlib
import itertools
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.base import BOX_FORMATS, BOX_SCALES, DatasetSource, Issue, Located, RowError
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import TASKS, Sample

ISSUES_KEPT = 100
HUB = "hub"

# format -> (module of this package, what it reads)
FORMATS: dict[str, tuple[str, str]] = {
    "jsonl": ("jsonl", "this project's own JSON lines"),
    "refcoco": ("refcoco", "RefCOCO-style JSON lines or parquet: a box and its expressions"),
    "coco-captions": ("coco", "COCO captions JSON (`images` and `annotations`)"),
    "vqav2": ("vqa", "VQAv2's question file, with --annotations"),
    "gqa": ("vqa", "GQA's question file"),
    "docvqa": ("vqa", "DocVQA's JSON (`data`)"),
    "pope": ("vqa", "POPE JSON lines"),
    "vsr": ("vqa", "VSR JSON lines"),
    "ai2d": ("choices", "AI2D: its folder of question files, or JSON lines"),
    "visual7w": ("choices", "Visual7W's JSON, telling and pointing"),
    "vlmevalkit": ("tsv", "VLMEvalKit's TSV with pictures in base64"),
    "folder": ("folder", "a folder of pictures, with --question"),
    HUB: ("hub", "a data set on the Hub by its id (hub:OWNER/NAME), streamed; rows as in any format above"),
}


@dataclass(slots=True)
class SampleStream:
    """An iterable of samples. `skipped` and `issues` grow while it is read; iterating again reads again."""

    source: DatasetSource
    format: str
    limit: int | None = None
    need_references: bool = True
    skipped: int = 0
    read: int = 0
    issues: list[Issue] = field(default_factory=list)
    keep: Callable[[Sample], bool] | None = None
    rows: str = ""  # Hub sets: the format that their rows are in

    def __iter__(self) -> Iterator[Sample]:
        self.skipped, self.read = 0, 0
        self.issues.clear()
        return itertools.islice(self._samples(), self.limit)

    def _samples(self) -> Iterator[Sample]:
        seen: set[str] = set()
        for item in _reader(self.format).read(replace(self.source, format=self.rows or self.format)):
            if isinstance(item, Located):
                sample, problem = self._checked(item, seen)
                if problem is None:
                    if self.keep is None or self.keep(sample):
                        seen.add(sample.id)
                        self.read += 1
                        yield sample
                    continue
                item = problem
            self.skipped += 1
            if len(self.issues) < ISSUES_KEPT:
                self.issues.append(item)

    def _checked(self, row: Located, seen: set[str]) -> tuple[Sample, Issue | None]:
        location, sample = row
        sample = replace(
            sample,
            source=sample.source or self.source.source,
            split=sample.split or self.source.split,
            image_key=sample.image_key or sample.id,
        )
        try:
            if not all(isinstance(name, (str, type(None))) for name in (sample.source, sample.split)):
                raise RowError("its source or split is not a text")
            if sample.id in seen:
                raise RowError("the same `id` as an earlier row")
            check_sample(sample, need_references=self.need_references)
        except RowError as error:
            return sample, Issue(f"{location}, sample {sample.id[:60]!r}", str(error))
        return sample, None

    def report(self) -> str:
        """One sentence on what was read and skipped."""
        first = f"; first: {self.issues[0]}" if self.issues else ""
        return f"{self.read} samples read, {self.skipped} rows skipped{first}."


def open_samples(
    spec: str | Path,
    *,
    format: str = "jsonl",
    task: str | None = None,
    limit: int | None = None,
    need_references: bool = True,
    **declared: Any,
) -> SampleStream:
    """A lazy stream of samples.

    `spec` is a file, a folder, or `hub:OWNER/NAME`; `format` is one of FORMATS (for the Hub: the shape of its rows).
    `task` keeps the rows of one task; for formats whose rows name none it says which it is. `declared` are the fields
    of `DatasetSource`. Raises SampleError where the source cannot be read at all or a declaration is not one.
    """
    text = str(spec)
    declared = {name: value for name, value in declared.items() if value is not None}
    _check_declared(format, task, declared)
    if text.startswith(f"{HUB}:"):
        source = DatasetSource(Path(text), task=task, hub_id=text.removeprefix(f"{HUB}:"), **declared)
        return SampleStream(source, HUB, limit, need_references, keep=_keep(task), rows=format)
    source = DatasetSource(Path(spec), task=task, **declared)
    if not source.path.exists():
        raise SampleError(f"There is no {source.path}; give a file, a folder, or hub:OWNER/NAME.")
    return SampleStream(source, format, limit, need_references and format != "folder", keep=_keep(task))


def _check_declared(format: str, task: str | None, declared: dict[str, Any]) -> None:
    if format not in FORMATS or format == HUB:
        raise SampleError(f"There is no format {format!r}; the formats are {', '.join(FORMATS)}.")
    if task is not None and task not in TASKS:
        raise SampleError(f"There is no task {task!r}; the tasks are {', '.join(TASKS)}.")
    for name, allowed in (("box_format", BOX_FORMATS), ("box_scale", BOX_SCALES)):
        if declared.get(name) not in (None, *allowed):
            raise SampleError(f"{name} is one of {', '.join(allowed)}, not {declared[name]!r}.")
    for name in ("images", "annotations"):
        if name in declared:
            declared[name] = Path(declared[name])
            if not declared[name].exists():
                raise SampleError(f"There is no {declared[name]}, which was declared as {name}.")


def _keep(task: str | None) -> Callable[[Sample], bool] | None:
    return None if task is None else lambda sample: sample.task == task


def _reader(format: str) -> Any:
    module, _ = FORMATS[format]
    return importlib.import_module(f"{__name__}.{module}")


# ---- what a sample of each task must have before it can be asked and scored ------------------------------------------


def check_sample(sample: Sample, *, need_references: bool) -> None:
    """Raise RowError where a sample cannot be asked, or (with `need_references`) not be scored."""
    _check_characters(sample)
    spec = SPECS[sample.task]
    if spec.text and not sample.text.strip():
        raise RowError(f"{sample.task} needs `text`")
    if spec.box and len(sample.boxes) != 1:
        raise RowError(f"{sample.task} needs one box in `boxes`, not {len(sample.boxes)}")
    if spec.choices:
        _check_choices(sample)
    if not need_references:
        return
    if spec.truth == "box" and len(sample.boxes) != 1:
        raise RowError(f"{sample.task} needs one true box in `boxes`, not {len(sample.boxes)}")
    if spec.truth == "references" and not any(reference.strip() for reference in sample.references):
        raise RowError(f"{sample.task} needs `references`")
    if spec.reads == "truth" and sample.references[0].strip().capitalize() not in ("True", "False"):
        raise RowError(f"the reference of {sample.task} is 'True' or 'False', not {sample.references[0]!r}")


def is_scorable(sample: Sample) -> bool:
    """Whether a sample says what a right answer is."""
    truth = SPECS[sample.task].truth
    if truth == "box":
        return len(sample.boxes) == 1
    return truth == "references" and any(reference.strip() for reference in sample.references)


def _check_characters(sample: Sample) -> None:
    """Half of a character (a lone surrogate, which JSON can spell) can be written to no file."""
    listed = (*sample.references, *(sample.choices or ()), *sample.tags.values())
    texts = (sample.id, sample.text, sample.ocr_text or "", sample.image_key, *listed)
    try:
        "".join(text for text in texts if isinstance(text, str)).encode()
    except UnicodeEncodeError as error:
        raise RowError(f"a text holds half of a character ({error.reason})") from error


def _check_choices(sample: Sample) -> None:
    count = len(sample.choices or ())
    if not 1 < count <= len(string.ascii_uppercase):
        raise RowError(f"{sample.task} needs 2 to 26 `choices`, not {count}")
    letters = string.ascii_uppercase[:count]
    for reference in sample.references:
        if reference.strip().upper() not in set(letters):
            raise RowError(
                f"the reference {reference!r} is not a letter of the {count} choices ({letters[0]}..{letters[-1]})"
            )
