"""Readers: files and data sets -> samples, by `open_samples`; formats are rows of the table `formats.FORMATS`.

Reading is lazy: a stream holds one row at a time. A row that is broken is skipped, counted, and named with its place
and reason in `stream.issues`; one that is sound and not wanted (another split) is counted in `stream.left_out`. Nothing
in a file is evaluated as code. Pictures lie inside the data folder and are not opened here.
"""

from __future__ import annotations

import importlib
import itertools
import re
import string
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.formats import AUTO, FORMATS, HUB, LOOKS, detect, explain, module_of
from vlcompare.evaluate.readers.opening import RowError
from vlcompare.evaluate.readers.source import BOX_FORMATS, BOX_SCALES, DatasetSource, Issue, LeftOut, Located
from vlcompare.tasks.forms import MAX_CHOICES
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import TASKS, Sample
from vlcompare.units import how_many

__all__ = ["AUTO", "FORMATS", "HUB", "SampleStream", "check_sample", "is_scorable", "open_samples"]

ISSUES_KEPT = 100
EVERY_SPLIT = "all"
_YEAR = re.compile(r"(20\d\d)\Z")


class _NoAnswer(RowError):
    """The row is sound, but for a right answer."""


@dataclass(slots=True)
class SampleStream:
    """An iterable of samples. `skipped` and `issues` grow while it is read; iterating again reads again.

    A set none of whose rows has an answer (a test set) is read without them: then `answered` is False.
    """

    source: DatasetSource
    format: str
    limit: int | None = None
    need_references: bool = True
    skipped: int = 0
    read: int = 0
    issues: list[Issue] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    keep: Callable[[Sample], bool] | None = None
    rows: str = ""  # Hub sets: the format that their rows are in
    answered: bool = True

    def __iter__(self) -> Iterator[Sample]:
        return itertools.islice(self._either(), self.limit)

    def _either(self) -> Iterator[Sample]:
        self.answered = True
        try:
            unanswered = yield from self._samples(self.need_references)
        except SampleError as error:
            if self.read or self.source.hub_id or LOOKS not in (hint := self._hint()):
                raise
            raise SampleError(f"{error} {hint}") from error
        if unanswered and not self.read:
            if LOOKS in (hint := self._hint()):
                raise SampleError(f"There is no sample in {self.source.path}: {self.report()} {hint}")
            self.answered = False
            yield from self._samples(False)
        if self.skipped and not self.read and not self.left_out and (hint := self._hint()):
            raise SampleError(f"There is no sample in {self.source.path}: {self.report()} {hint}")

    def _samples(self, need_references: bool) -> Generator[Sample, None, int]:
        self.skipped, self.read = 0, 0
        self.issues.clear()
        self.left_out.clear()
        seen: set[str] = set()
        splits: set[str] = set()
        unanswered = 0
        for item in _items(self):
            if isinstance(item, LeftOut):
                self.left_out[item.what] += 1
                continue
            if isinstance(item, Located):
                if item.sample.split is not None and not self._is_wanted(item.sample.split):
                    splits.add(item.sample.split)
                    self.left_out["row of another split"] += 1
                    continue
                sample, problem = self._checked(item, seen, need_references)
                if problem is None:
                    if self.keep is None or self.keep(sample):
                        seen.add(sample.id)
                        self.read += 1
                        yield sample
                    continue
                unanswered += isinstance(problem, _NoAnswer)
                item = Issue(f"{item.location}, sample {sample.id[:60]!r}", str(problem))
            self.skipped += 1
            if len(self.issues) < ISSUES_KEPT:
                self.issues.append(item)
        if splits and not self.read and not self.skipped:
            raise SampleError(
                f"No row of {self.source.path} is of the split {self.source.split!r}; its splits are "
                f"{', '.join(sorted(splits)[:20])}."
            )
        return unanswered

    def _is_wanted(self, split: str) -> bool:
        """Whether rows of this split are read: those that were declared, else AI2D's test split, else all."""
        if self.source.hub_id or self.source.split == EVERY_SPLIT:
            return True  # of a Hub set, the split is what is streamed
        if self.source.split is None:
            return not (self.format == "ai2d" and split == "train")
        return any(same_split(split, wanted) for wanted in self.source.split.split("+"))

    def _checked(self, row: Located, seen: set[str], need_references: bool) -> tuple[Sample, RowError | None]:
        sample = row.sample
        declared = None if self.source.split == EVERY_SPLIT else self.source.split
        sample = replace(
            sample,
            source=sample.source or self.source.source,
            split=declared if sample.split is None or self.source.hub_id else sample.split,
            image_key=sample.image_key or sample.id,
        )
        try:
            if not all(isinstance(name, (str, type(None))) for name in (sample.source, sample.split)):
                raise RowError("its source or split is not a text")
            if sample.id in seen:
                raise RowError("the same `id` as an earlier row")
            check_sample(sample, need_references=need_references)
        except RowError as error:
            return sample, error
        return sample, None

    def report(self) -> str:
        """One sentence on what was read, left out and skipped."""
        first = f"; first: {self.issues[0]}" if self.issues else ""
        left = "".join(f", {count} left out ({what})" for what, count in self.left_out.items())
        return f"{how_many(self.read, 'sample')} read{left}, {how_many(self.skipped, 'row')} skipped{first}."

    def _hint(self) -> str:
        """Which format the file is of, where it is another than the one it was read as."""
        return "" if self.source.hub_id else explain(self.source.path, self.format)


def _items(stream: SampleStream) -> Iterator[Any]:
    name = stream.rows or stream.format
    source = replace(stream.source, format=name)
    module = "hub" if stream.format == HUB else module_of(name, source.path)
    yield from importlib.import_module(f"{__name__}.{module}").read(source)


def same_split(split: str, wanted: str) -> bool:
    """Whether a split is the one that was asked for: "val" is also val2014 and "validation"; case does not count."""
    one, other = (re.sub(r"[^a-z0-9]", "", name.lower()).replace("validation", "val") for name in (split, wanted))
    return one == other or (not _YEAR.search(other) and _YEAR.sub("", one) == other)


def open_samples(
    spec: str | Path,
    *,
    format: str = AUTO,
    task: str | None = None,
    limit: int | None = None,
    need_references: bool = True,
    **declared: Any,
) -> SampleStream:
    """A lazy stream of samples.

    `spec` is a file, a folder, or `hub:OWNER/NAME`; `format` is one of FORMATS (for the Hub: the shape of its rows), or
    "auto", which goes by the keys that are found. `task` keeps the rows of one task; for formats whose rows name none
    it says which it is. `declared` are the fields of `DatasetSource`; of rows that have a split, `split` selects.
    Raises SampleError where the source cannot be read at all or a declaration is not one.
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
    if format == AUTO:
        format = detect(source.path, task)
    return SampleStream(source, format, limit, need_references and format != "folder", keep=_keep(task))


def _check_declared(format: str, task: str | None, declared: dict[str, Any]) -> None:
    if format != AUTO and (format not in FORMATS or format == HUB):
        raise SampleError(f"Unknown format {format!r}; the formats are {', '.join(FORMATS)}.")
    if task is not None and task not in TASKS:
        raise SampleError(f"Unknown task {task!r}; the tasks are {', '.join(TASKS)}.")
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
        raise _NoAnswer(f"{sample.task} needs one true box in `boxes`, not {len(sample.boxes)}")
    if spec.truth == "references" and not any(reference.strip() for reference in sample.references):
        raise _NoAnswer(f"{sample.task} needs `references`")
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
    if not 2 <= count <= MAX_CHOICES:
        raise RowError(f"{sample.task} needs 2 to {MAX_CHOICES} `choices`, not {count}")
    letters = string.ascii_uppercase[:count]
    for reference in sample.references:
        if reference.strip().upper() not in set(letters):
            raise RowError(
                f"the reference {reference!r} is not a letter of the {count} choices ({letters[0]}..{letters[-1]})"
            )
