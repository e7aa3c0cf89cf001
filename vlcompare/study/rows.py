"""What is trained and what came out: a row's setting and its result, and the folder in which rows are gathered.

A folder holds `grid.json` (what was last asked for, and the version), `rows.jsonl` (one finished training a line),
`weights/` (a finished row's model), `states/` (what an unfinished row goes on from) and `locks/`. Locks are the file
system's own, so that the lock of a process that died is free at once.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from vlcompare.errors import RequestError, SampleError
from vlcompare.study.lines import cause, is_whole, plain, value_of, version_of, whole_lines
from vlcompare.study.recipe import RECIPES, STUDY_FAMILIES
from vlcompare.study.tasks import ItemSource
from vlcompare.whole_files import write_whole

Parse = Callable[[bytes, str], tuple[list[dict[str, Any]], list[str]]]  # a file's content and name -> rows, problems
VERSION = 1  # of how rows are made: those of another version are not set beside these
MAX_VALUES = {"width": 8192, "layers": 256, "state_size": 1024, "budget": 10**12, "vocabulary": 100_000}
_MAX_EVALUATIONS = 100_000  # of a curve
_RESULTS: dict[str, type | tuple[type, ...]] = {  # what a finished row holds beside its setting
    "parameters": int,
    "examples": int,
    "reached": (int, type(None)),
    "accuracy": (int, float),
    "by_position": (list, type(None)),
    "extrapolation": dict,
    "curve": list,
    "seconds": (int, float),
    "device": str,
    "version": int,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One training, completely: two rows with the same setting are the same row.

    Raises RequestError, with one sentence, for what cannot be trained.
    """

    task: str
    order: str | None
    length: int
    vocabulary: int
    family: str
    width: int
    layers: int
    state_size: int | None  # None for a family without a recurrence
    recipe: str
    learning_rate: float
    seed: int
    budget: int  # examples at most

    def __post_init__(self) -> None:
        check_names(self.family, self.recipe)
        for name in ("length", "vocabulary", "width", "layers", "seed", "budget"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            most = MAX_VALUES.get(name, 2**31)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise RequestError(f"{name} is a whole number from {least} to {most}, not {json.dumps(value)}.")
        states = self.state_size
        if self.family == "pythia":
            if states is not None:
                raise RequestError("A Transformer has no state_size; leave it out, or give null.")
        elif isinstance(states, bool) or not isinstance(states, int) or not 1 <= states <= MAX_VALUES["state_size"]:
            raise RequestError(f"state_size is a whole number from 1 to {MAX_VALUES['state_size']}, not {states}.")
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise RequestError(f"learning_rate is a number above 0, not {json.dumps(rate)}.")
        head = RECIPES[self.recipe].head_size
        if self.width % head:
            raise RequestError(f"width is a multiple of the recipe's head size, {head}; {self.width} is not.")
        self.source  # noqa: B018  raises for what is not a task

    @property
    def source(self) -> ItemSource:
        return ItemSource(self.task, self.order, self.length, self.vocabulary)

    @property
    def id(self) -> str:
        """A name for files, from all fields."""
        shape = f"w{self.width}-n{self.layers}" + ("" if self.state_size is None else f"-s{self.state_size}")
        return (
            f"{self.task}-{self.order or 'fixed'}-{self.length}-{self.vocabulary}-{self.family}-{shape}-"
            f"{self.recipe}-{self.learning_rate:g}-seed{self.seed}-{self.budget}"
        )

    def __str__(self) -> str:
        order = f", {self.order.replace('_', ' ')}" if self.order else ""
        return f"{self.task} {self.length}{order}, {self.family}, rate {self.learning_rate:g}, seed {self.seed}"


def check_names(family: Any, recipe: Any) -> None:
    """Raise RequestError for an unknown family or recipe."""
    if family not in STUDY_FAMILIES:
        raise RequestError(f"Unknown family '{family}'; the families are {', '.join(STUDY_FAMILIES)}.")
    if recipe not in RECIPES:
        raise RequestError(f"Unknown recipe '{recipe}'; the recipes are {', '.join(RECIPES)}.")


SETTING_FIELDS = tuple(field.name for field in fields(Setting))


def setting_of(values: dict[str, Any]) -> Setting:
    """The setting of a row or a grid's entry; further keys are ignored. Raises RequestError where one is missing."""
    missing = [name for name in SETTING_FIELDS if name not in values]
    if missing:
        raise RequestError(f"A row lacks {', '.join(missing)}.")
    return Setting(**{name: values[name] for name in SETTING_FIELDS})


def rows_in(source: Path) -> Path:
    """The file of rows that a folder or file means. Raises SampleError where there is none, or it cannot be read."""
    try:
        path = source / "rows.jsonl" if source.is_dir() else source
        if path.exists():
            return path
        within = sorted(str(rows.parent) for rows in source.glob("*/rows.jsonl"))
    except OSError as error:
        raise SampleError(f"{source} cannot be read ({error.strerror}).") from error
    if within:
        raise SampleError(f"{source} holds no rows itself; name a folder in it: {' or '.join(within[:5])}.")
    folder = source.parent if source.suffix == ".jsonl" else source
    raise SampleError(f"There is no {path}, so no finished rows; `study run GRID --out {folder}` makes them.")


def read_rows(path: Path, parse: Parse | None = None) -> list[dict[str, Any]]:
    """All finished rows of a file; none where there is no file. A last line that was cut off in writing is left out.

    parse: of a file's content and name, `parse_rows` or another with its result. Raises SampleError, with file and
    line, where a row is damaged or of another version.
    """
    rows, problems = whole_rows(path, parse, str(path))
    if problems:
        raise SampleError(problems[0])
    return rows


def whole_rows(path: Path, parse: Parse | None = None, name: str = "") -> tuple[list[dict[str, Any]], list[str]]:
    """The finished rows of a file, and a sentence for each line that is left out, as `parse` gives them.

    name: of the file in these sentences, its own by default. Raises SampleError where it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise SampleError(f"{path} cannot be read: {error.strerror}.") from error
    return (parse or parse_rows)(data, name or path.name)


def parse_rows(data: bytes, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The finished rows of a file's content, and a sentence for each line that is damaged or of another version.

    Of several rows of one setting the last counts.
    """
    rows: dict[Setting, dict[str, Any]] = {}
    problems = []
    for number, line in whole_lines(data):
        try:
            row = _checked(line, name, number)
            rows[setting_of(row)] = row
        except SampleError as error:
            problems.append(plain(str(error)))
    return list(rows.values()), problems


def _checked(line: bytes, name: str, number: int) -> dict[str, Any]:
    try:
        row = value_of(line)
        if not isinstance(row, dict):
            raise ValueError("it is not an object")
        if "kind" in row:
            raise SampleError(
                f"{name}, line {number}: a row of a training on {str(row['kind'])[:20]}, where those on sequences are "
                "wanted; give another folder or file."
            )
        if row.get("version") != VERSION:
            raise SampleError(
                f"{name}, line {number}: a row of {version_of(row)}, where this program makes version {VERSION}; "
                "give another folder or file."
            )
        for key, kind in _RESULTS.items():
            if key not in row or not isinstance(row[key], kind) or isinstance(row[key], bool):
                raise ValueError(f"its {key} is missing or of the wrong kind")
        _check_results(row, setting_of(row).source.places)
    except (ValueError, TypeError, RecursionError) as error:
        raise SampleError(
            f"{name}, line {number}, is not a whole row of a study ({cause(error)}); delete the line, and "
            f"`study run` makes it again."
        ) from error
    return row


def _check_results(row: dict[str, Any], places: int) -> None:
    """Raise ValueError where a result is out of its range."""

    def share(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1

    def count(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_VALUES["budget"]

    by_position, curve = row["by_position"], row["curve"]
    checks = {
        "accuracy": share(row["accuracy"]),
        "examples": count(row["examples"]),
        "parameters": row["parameters"] > 0,
        "reached": row["reached"] is None or count(row["reached"]),
        "by_position": by_position is None
        or (len(by_position) == places and all(value is None or share(value) for value in by_position)),
        "extrapolation": all(
            length.isascii() and length.isdecimal() and 0 < len(length) < 6 and share(value)
            for length, value in row["extrapolation"].items()
        ),
        "curve": len(curve) <= _MAX_EVALUATIONS
        and all(isinstance(one, list) and len(one) == 2 and count(one[0]) and share(one[1]) for one in curve)
        and all(a[0] < b[0] for a, b in pairwise(curve)),
    }
    for name, right in checks.items():
        if not right:
            raise ValueError(f"its {name} is out of range")


class Named(Protocol):
    """A setting of any kind: its id names its files."""

    @property
    def id(self) -> str: ...


def weights_path(folder: Path, setting: Named) -> Path:
    """Where a folder keeps the finished model of a setting."""
    return folder / "weights" / f"{setting.id}.safetensors"


class Folder:
    """Where several processes gather the rows of a grid. Raises SampleError for a folder of another version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows_path = path / "rows.jsonl"
        for name in ("weights", "states", "locks"):
            (path / name).mkdir(parents=True, exist_ok=True)

    def begin(self, grid: dict[str, Any]) -> None:
        """Record the grid's rows; refuse a folder that another version wrote."""
        noted = self.path / "grid.json"
        with self.lock("grid"):
            if noted.exists():
                try:
                    version = json.loads(noted.read_text(encoding="utf-8")).get("version")
                except (ValueError, AttributeError) as error:
                    raise SampleError(f"{noted} is damaged; delete it, the rows stay.") from error
                if version != VERSION:
                    raise SampleError(
                        f"{self.path} was filled by version {version} of the study, and this is version {VERSION}; "
                        "give another folder."
                    )
            self.rows()
            write_whole(noted, json.dumps({"version": VERSION, **grid}, indent=1) + "\n")

    def lock(self, name: str) -> FileLock:
        return FileLock(self.path / "locks" / f"{name}.lock")

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.rows_path)

    def finished(self) -> dict[str, dict[str, Any]]:
        """Finished rows by their setting's id."""
        return {setting_of(row).id: row for row in self.rows()}

    def append(self, row: dict[str, Any]) -> None:
        """Write a finished row; what a killed process left of a line is cut off first.

        A last line that only lacks its end, as some editors leave it, gets it.
        """
        line = (json.dumps(row) + "\n").encode()
        with self.lock("rows"), self.rows_path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if is_whole(content[whole:]):
                line = b"\n" + line
            elif whole < end:
                file.truncate(whole)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def state_path(self, setting: Named) -> Path:
        return self.path / "states" / f"{setting.id}.pt"

    def weights_path(self, setting: Named) -> Path:
        return weights_path(self.path, setting)


def row_of(setting: Setting, results: dict[str, Any]) -> dict[str, Any]:
    """A finished row: the setting's fields, with `parameters` behind the shape, then the results."""
    values = asdict(setting)
    shape = {name: values.pop(name) for name in SETTING_FIELDS[: SETTING_FIELDS.index("recipe")]}
    return {**shape, "parameters": results["parameters"], **values, **results, "version": VERSION}
