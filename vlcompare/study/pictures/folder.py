"""Finished rows of trainings on pictures: how they are read and checked, and the folder in which they are gathered."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from vlcompare.study.lines import cause, plain, value_of, version_of, whole_lines
from vlcompare.study.pictures.grids import KIND, picture_grid_of
from vlcompare.study.pictures.settings import PictureSetting, picture_setting_of
from vlcompare.study.rows import VERSION, Folder, read_rows
from vlcompare.tasks.prompts import SPECS

_RESULTS: dict[str, type | tuple[type, ...]] = {  # what a finished row holds beside its setting
    "parameters": int,
    "steps": int,
    "questions": int,
    "tasks": dict,
    "curve": list,
    "seconds": (int, float),
    "device": str,
}
_PER_TASK = ("group", "metric", "right", "per_picture", "types")
_MAX_QUESTIONS = 100_000  # of a task
_LONGEST_ROW = 1 << 22  # bytes
_LOOKED_AT = 1000  # lines in which a file's first row is looked for


def parse_picture_rows(data: bytes, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The finished rows of a file's content, and a sentence for each line that is damaged or of another version.

    A last line that was cut off in writing is left out; of several rows of one setting the last counts.
    """
    rows: dict[PictureSetting, dict[str, Any]] = {}
    problems = []
    for number, line in whole_lines(data):
        try:
            row = value_of(line)
            if foreign := _foreign(row):
                problems.append(f"{name}, line {number}: {foreign}; give another folder or file.")
                continue
            _check(row)
            setting = picture_setting_of(row)
            rows[setting] = asdict(setting) | row  # the fields that a row lacks have their defaults
        except (ValueError, TypeError, RecursionError) as error:
            problems.append(
                f"{name}, line {number}, is not a whole row of a training on pictures ({cause(error)}); "
                "delete the line, and `study run` makes it again."
            )
    return list(rows.values()), [plain(one) for one in problems]


def _foreign(row: Any) -> str:
    """What a whole row is instead of one of this version of trainings on pictures; "" where it may be one."""
    if isinstance(row, dict) and "kind" not in row and "task" in row:
        return "a row of a training on sequences, where those on pictures are wanted"
    if isinstance(row, dict) and row.get("kind") == KIND and row.get("version") != VERSION:
        return f"a row of {version_of(row)}, where this program makes version {VERSION}"
    return ""


def _check(row: Any) -> None:
    """Raise ValueError where a row is not whole."""
    if not isinstance(row, dict):
        raise ValueError("it is not an object")
    if row.get("kind") != KIND:
        raise ValueError(f'it is not of the kind "{KIND}"')
    for name, kind in _RESULTS.items():
        if not isinstance(row.get(name), kind) or isinstance(row[name], bool):
            raise ValueError(f"its {name} is missing or of the wrong kind")
    picture_setting_of(row)
    for task, found in row["tasks"].items():
        if task not in SPECS or not isinstance(found, dict):
            raise ValueError(f"its task {str(task)[:40]} is unknown")
        if not all(isinstance(found.get(name), str) for name in _PER_TASK) or not isinstance(found.get("names"), list):
            raise ValueError(f"its {task} lacks one of {', '.join(_PER_TASK)}, names")
        right = found["right"]
        if not 0 < len(right) <= _MAX_QUESTIONS or set(right) - {"0", "1"}:
            raise ValueError(f"its {task} does not say which questions are right")
        if sum(int(digit, 36) for digit in found["per_picture"]) != len(right) or len(found["types"]) != len(right):
            raise ValueError(f"its {task} has counts that do not add up")
        floor = found.get("floor", right)
        if not isinstance(floor, str) or len(floor) != len(right) or set(floor) - {"0", "1"}:
            raise ValueError(f"its {task} has a floor that does not add up")
        if any(not 0 <= ord(letter) - ord("a") < len(found["names"]) for letter in found["types"]):
            raise ValueError(f"its {task} has a type without a name")


def read_picture_rows(path: Path) -> list[dict[str, Any]]:
    """All finished rows of a file. Raises SampleError, with file and line, where a row is damaged."""
    return read_rows(path, parse_picture_rows)


def holds_pictures(path: Path) -> bool:
    """Whether the first row of a file is one of a training on pictures."""
    try:
        with path.open("rb") as file:
            return are_of_pictures(iter(lambda: file.readline(_LONGEST_ROW), b""))
    except OSError:
        return False


def are_of_pictures(lines: Iterable[bytes]) -> bool:
    """Whether the first row among a file's lines is one of a training on pictures; damaged lines are no rows."""
    for line in islice(lines, _LOOKED_AT):
        try:
            row = json.loads(line[:_LONGEST_ROW])
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            return row.get("kind") == KIND
    return False


def planned_settings(path: Path) -> list[PictureSetting]:
    """What was last asked of a folder, as far as it says."""
    try:
        grid = picture_grid_of(json.loads((path / "grid.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # RequestError is one
        return []
    return [entry.provisional for entry in grid.entries]


class PictureFolder(Folder):
    """As `Folder`, with rows of trainings on pictures, and `data/`: what they are trained on (from 0.2 to 1 GB)."""

    def rows(self) -> list[dict[str, Any]]:
        return read_picture_rows(self.rows_path)

    def finished(self) -> dict[str, dict[str, Any]]:
        return {picture_setting_of(row).id: row for row in self.rows()}
