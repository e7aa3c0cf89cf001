"""Grids of rows: read from JSON or by name, with the rule for the best rate. Trains nothing.

A grid is {"name", "rows": [{FIELD: value}]} or {"name", "axes": {FIELD: [values]}, "fixed": {FIELD: value}}: every
combination, the last axis changing fastest. Rows start in that order. `layers` may be left out (then as many as give
the parameters of a Transformer of two blocks), so may `state_size` (16), `recipe`, `seed` (0), and `order` for a task
without orders. `learning_rate` may be "best": the best rate (`rates.RULE`) among the grid's rows of the same setting
with given rates, at the same length or at `rate_length`; the row waits until they are finished.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import RequestError
from vlcompare.evaluate.readers.json_lines import why
from vlcompare.study.lines import plain
from vlcompare.study.pictures.grids import KIND, PICTURE_GRIDS, PictureGrid, picture_grid_of
from vlcompare.study.pictures.settings import PictureSetting
from vlcompare.study.rates import best_rate
from vlcompare.study.recipe import RECIPES, SETTLED
from vlcompare.study.rows import MAX_VALUES, SETTING_FIELDS, Setting, check_names, setting_of

BEST = "best"
MAX_ROWS = 100_000
_ALLOWED = (*SETTING_FIELDS, "rate_length")
_SAME = ("task", "order", "vocabulary", "family", "width", "layers", "state_size", "recipe")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row to be: its setting, or what it takes to know it once its `candidates` are finished."""

    values: Mapping[str, Any]
    candidates: tuple[Setting, ...] = ()

    def setting(self, finished: Mapping[str, Mapping[str, Any]]) -> Setting | None:
        """None while the rate is not known yet. `finished`: rows by id."""
        if not self.candidates:
            return setting_of(dict(self.values))
        if any(candidate.id not in finished for candidate in self.candidates):
            return None
        rate = best_rate([finished[candidate.id] for candidate in self.candidates])
        return setting_of({**self.values, "learning_rate": rate})

    @property
    def provisional(self) -> Setting:
        """The setting, with any of the rates where the best one is not known."""
        return setting_of({**self.values, "learning_rate": self.candidates[0].learning_rate}
                          if self.candidates else dict(self.values))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Grid:
    name: str
    entries: tuple[Entry, ...]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "rows": [dict(entry.values) for entry in self.entries]}


AnyGrid = Grid | PictureGrid
AnySetting = Setting | PictureSetting


def missing(grid: AnyGrid, finished: Mapping[str, Mapping[str, Any]]) -> list[AnySetting]:
    """A grid's rows that are not finished; those whose rate is not known yet with any of their rates."""
    out: list[AnySetting] = []
    for entry in grid.entries:
        setting = entry.setting(finished)
        if setting is None or setting.id not in finished:
            out.append(setting or entry.provisional)
    return out


def grid_of(value: Any) -> AnyGrid:
    """A grid of either kind from its JSON value. Raises RequestError, with one sentence, for an invalid one."""
    if not isinstance(value, dict) or "kind" not in value:
        return sequences_of(value)
    if value["kind"] != KIND:
        raise RequestError(
            f'"kind" is "{KIND}", or left out for trainings on sequences; not {json.dumps(value["kind"])}.'
        )
    return picture_grid_of(value)


def sequences_of(value: Any) -> Grid:
    """A grid of trainings on sequences. Raises RequestError, with one sentence, for an invalid one."""
    if not isinstance(value, dict) or not ("rows" in value) ^ ("axes" in value):
        raise RequestError('A grid is {"name", "rows": [..]} or {"name", "axes": {FIELD: [..]}, "fixed": {..}}.')
    unknown = set(value) - {"name", "rows", "axes", "fixed", "version"}
    if unknown:
        raise RequestError(f"A grid has no {', '.join(sorted(unknown))}.")
    fixed = value.get("fixed", {})
    if not isinstance(fixed, dict):
        raise RequestError('"fixed" is an object: {FIELD: value}.')
    rows = value["rows"] if "rows" in value else _combined(value["axes"])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RequestError('"rows" is a list of objects.')
    if not 0 < len(rows) <= MAX_ROWS:
        raise RequestError(f"A grid has from 1 to {MAX_ROWS} rows; this one has {len(rows)}.")
    filled = [_filled({**fixed, **row}) for row in rows]
    known = [row for row in filled if row["learning_rate"] != BEST]
    entries: dict[str, Entry] = {}
    settings = [setting_of(row) for row in known]
    for row in filled:
        entry = Entry(row) if row["learning_rate"] != BEST else Entry(row, _candidates(row, settings))
        entries.setdefault(json.dumps(row), entry)
        entry.provisional  # noqa: B018  raises for what cannot be trained
    return Grid(str(value.get("name", "unnamed")), tuple(entries.values()))


def _combined(axes: Any) -> list[dict[str, Any]]:
    if not isinstance(axes, dict) or not all(isinstance(values, list) and values for values in axes.values()):
        raise RequestError('"axes" is an object of lists that are not empty: {FIELD: [..]}.')
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MAX_ROWS:
        raise RequestError(f"A grid has from 1 to {MAX_ROWS} rows; this one has {count}.")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    """An entry with what may be left out."""
    unknown = set(row) - set(_ALLOWED)
    if unknown:
        raise RequestError(f"A row has no field {', '.join(sorted(unknown))}; it has {', '.join(SETTING_FIELDS)}.")
    row = {"order": None, "recipe": SETTLED.name, "seed": 0, **row}
    missing = [name for name in SETTING_FIELDS if name not in row and name not in ("layers", "state_size")]
    if missing:
        raise RequestError(f"A row lacks {', '.join(missing)}.")
    check_names(row["family"], row["recipe"])
    family, width = row["family"], row["width"]
    row = {"state_size": None if family == "pythia" else 16, **row}
    if "layers" not in row:
        known = isinstance(width, int) and 0 < width <= MAX_VALUES["width"]  # else the row is refused for its width
        row["layers"] = _matched(family, width, row["recipe"]) if known else 1
    return {name: row[name] for name in _ALLOWED if name in row}


@functools.cache
def _matched(family: str, width: int, recipe: str) -> int:
    from vlcompare.study.models import matched_layers  # here, so that a grid's rows are read without torch

    return matched_layers(family, width, 2, RECIPES[recipe])


def _candidates(row: dict[str, Any], settings: list[Setting]) -> tuple[Setting, ...]:
    length = row.get("rate_length", row["length"])
    found = tuple(
        setting
        for setting in settings
        if setting.length == length and all(getattr(setting, name) == row[name] for name in _SAME)
    )
    if not found:
        raise RequestError(
            f'"learning_rate": "best" needs rows of the same setting with given rates at length {length}; '
            "the grid has none."
        )
    return found


def open_grid(wanted: str) -> AnyGrid:
    """A grid by name, or from a JSON file. Raises RequestError for an unknown name or an invalid file."""
    from vlcompare.study.named import NAMED

    if wanted in NAMED:
        return grid_of({"name": wanted, "rows": list(NAMED[wanted]())})
    if wanted in PICTURE_GRIDS:
        return PICTURE_GRIDS[wanted]
    path = Path(wanted)
    try:
        is_file = path.is_file()
    except OSError as error:
        raise RequestError(f"{plain(wanted[:80])} cannot be read ({error.strerror}).") from error
    if not is_file:
        known = (*NAMED, *PICTURE_GRIDS)
        near = difflib.get_close_matches(wanted.lower(), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        raise RequestError(f"Unknown grid '{wanted}', which is no file either; {hint}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is {why(error)}.") from error
    try:
        return grid_of(value)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from error
