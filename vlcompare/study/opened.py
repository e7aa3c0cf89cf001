"""A study's rows as they are shown: those that come with the project, a user's own folder, or an uploaded file.

A file holds rows of one kind: of trainings on text, or of trainings on pictures. Its first row says which.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.paths import EXAMPLES
from vlcompare.study.figures import Figure, all_figures
from vlcompare.study.pictures.figures import picture_figures
from vlcompare.study.pictures.folder import are_of_pictures, holds_pictures, parse_picture_rows
from vlcompare.study.pictures.gaps import progress
from vlcompare.study.pictures.grids import Comparison
from vlcompare.study.pictures.measured import Row, baseline, by_setting
from vlcompare.study.pictures.settings import picture_setting_of
from vlcompare.study.rows import Parse, parse_rows, rows_in
from vlcompare.study.tables import Group, groups

SHIPPED = EXAMPLES / "study"
MAX_BYTES = 16 * 2**20  # of a file of rows
MAX_ROWS = 10_000


@dataclass(frozen=True)
class Study:
    """Finished rows, the sentences about damaged ones, and how many rows the grid asks for, where that is known."""

    name: str
    rows: tuple[dict[str, Any], ...]
    problems: tuple[str, ...] = ()
    planned: int | None = None

    @cached_property
    def groups(self) -> list[Group]:
        return groups(self.rows)

    @cached_property
    def figures(self) -> list[Figure]:
        return all_figures(self.groups)

    @property
    def unfinished(self) -> bool:
        return self.planned is not None and len(self.rows) < self.planned


@dataclass(frozen=True)
class PictureStudy:
    """Finished rows of trainings on pictures, and the sentences about damaged ones; there may be no row."""

    name: str = ""
    rows: tuple[dict[str, Any], ...] = ()
    problems: tuple[str, ...] = ()

    @cached_property
    def figures(self) -> list[Figure]:
        """Raises SampleError where the rows are not about the same questions."""
        try:
            return picture_figures(self.rows)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise SampleError(
                f"The rows of {self.name} cannot be set beside each other: they were not asked the same questions."
            ) from error

    def behind(self, comparison: Comparison, recipe: str) -> list[Row]:
        """The rows by a recipe that a comparison is made of, at the size that these have."""
        known = by_setting(self.rows, recipe)
        wanted = dict.fromkeys(comparison.settings(baseline(known, recipe)))
        return [known[setting] for setting in wanted if setting in known]

    def progress(self, comparison: Comparison) -> tuple[int, int]:
        """How many trainings of a comparison are finished, and how many there are; 0 where it is not begun."""
        counts = [(one.finished, one.asked) for one in progress(self.rows) if one.comparison == comparison.name]
        return max(counts, default=(0, len(list(comparison.settings()))))


def study_of(data: bytes, name: str, planned: int | None = None) -> Study:
    """The rows of a file's content; damaged ones become sentences. Raises SampleError where no row is whole."""
    return Study(name, *_read(data, name, parse_rows), planned)


def picture_study_of(data: bytes, name: str) -> PictureStudy:
    """The same for rows of trainings on pictures."""
    return PictureStudy(name, *_read(data, name, parse_picture_rows))


def any_study_of(data: bytes, name: str) -> Study | PictureStudy:
    """The rows of a file's content, of the kind that its first row has."""
    return picture_study_of(data, name) if are_of_pictures(data.split(b"\n")) else study_of(data, name)


def _read(data: bytes, name: str, parse: Parse) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    if len(data) > MAX_BYTES:
        raise SampleError(f"{name} is larger than the {MAX_BYTES // 2**20} MiB of rows that are read.")
    rows, problems = parse(data, name)
    if not rows:
        what = problems[0] if problems else f"{name} holds no finished rows; `study run GRID --out DIR` makes them."
        raise SampleError(what)
    if len(rows) > MAX_ROWS:
        raise SampleError(f"{name} holds {len(rows):,} rows; at most {MAX_ROWS:,} are shown.")
    return tuple(rows), tuple(problems)


def rows_file(path: Path) -> Path:
    """The file of rows: of a folder that `study run` filled, or the one that is given itself."""
    return path / "rows.jsonl" if path.is_dir() else path


def open_study(path: Path) -> Study:
    """The rows of a folder that `study run` filled, or of a file of rows. Raises SampleError where there are none."""
    name = path.name if path.is_dir() else rows_file(path).name
    return study_of(_content(path), name, planned_rows(rows_file(path).parent))


def open_pictures(paths: Sequence[Path], name: str) -> PictureStudy:
    """The rows of trainings on pictures in several folders or files. Raises SampleError where one cannot be read."""
    parts = [picture_study_of(_content(path), name) for path in paths]
    rows = {picture_setting_of(row).id: row for part in parts for row in part.rows}
    return PictureStudy(name, tuple(rows.values()), tuple(problem for part in parts for problem in part.problems))


def open_any(path: Path) -> Study | PictureStudy:
    """The rows of a folder or file, of the kind that its first row has. Raises SampleError where there are none."""
    if holds_pictures(rows_file(path)):
        return open_pictures([path], path.name)
    return open_study(path)


def _content(path: Path) -> bytes:
    file = rows_in(path)
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise SampleError(f"{file} cannot be read: {error.strerror}.") from error


def planned_rows(folder: Path) -> int | None:
    """How many rows the grid asks for, where the folder holds it."""
    try:
        return len(json.loads((folder / "grid.json").read_text(encoding="utf-8"))["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
