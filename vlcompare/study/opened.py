"""A study's rows as they are shown: those that come with the project, a user's own folder, or an uploaded file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.paths import EXAMPLES
from vlcompare.study.figures import Figure, all_figures
from vlcompare.study.rows import parse_rows
from vlcompare.study.tables import Group, groups

SHIPPED = EXAMPLES / "study"
MOST_BYTES = 16 * 2**20  # of a file of rows
MOST_ROWS = 10_000


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


def study_of(data: bytes, name: str, planned: int | None = None) -> Study:
    """The rows of a file's content; damaged ones become sentences. Raises SampleError where no row is whole."""
    if len(data) > MOST_BYTES:
        raise SampleError(f"{name} is larger than the {MOST_BYTES // 2**20} MiB of rows that are read.")
    rows, problems = parse_rows(data, name)
    if not rows:
        what = problems[0] if problems else f"{name} holds no finished rows; `study run GRID --out DIR` makes them."
        raise SampleError(what)
    if len(rows) > MOST_ROWS:
        raise SampleError(f"{name} holds {len(rows):,} rows; at most {MOST_ROWS:,} are shown.")
    return Study(name, tuple(rows), tuple(problems), planned)


def open_study(path: Path) -> Study:
    """The rows of a folder that `study run` filled, or of a file of rows. Raises SampleError where there are none."""
    file = path / "rows.jsonl" if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise SampleError(f"{path} holds no rows.jsonl; `study run GRID --out {path}` makes one.") from error
    except OSError as error:
        raise SampleError(f"{file} cannot be read: {error.strerror}.") from error
    return study_of(data, file.parent.name if path.is_dir() else file.name, planned_rows(file.parent))


def planned_rows(folder: Path) -> int | None:
    """How many rows the grid asks for, where the folder holds it."""
    try:
        return len(json.loads((folder / "grid.json").read_text(encoding="utf-8"))["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
