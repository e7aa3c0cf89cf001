"""The grids of trainings on pictures: one for each comparison, and all of them. Order of training is the order here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from vlcompare.errors import RequestError
from vlcompare.study.pictures.settings import (
    DISTRACTORS,
    SETTING_FIELDS,
    SMOKE,
    PictureSetting,
    picture_setting_of,
)
from vlcompare.types import FAMILIES

KIND = "pictures"
SEEDS = (0, 1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One field whose values are compared, at the baseline's values of all others."""

    name: str  # of its grid
    title: str
    field: str
    values: tuple[Any, ...]

    def settings(self) -> Iterator[PictureSetting]:
        """Both families beside each other, value by value, then the same with the next seed."""
        for seed, value, family in product(SEEDS, self.values, FAMILIES):
            yield picture_setting_of({"family": family, "seed": seed, self.field: value})


COMPARISONS = (
    Comparison("pictures-order", "Order", "layout", ("image_first", "template_first", "query_first")),
    Comparison("pictures-scale", "Scale", "scale", ("small", "medium", "large")),
    Comparison("pictures-twice", "Encoding again", "layout", ("image_first", "image_twice", "query_around")),
    Comparison("pictures-distance", "Distance from image to question", "distractors", DISTRACTORS),
)


@dataclass(frozen=True, slots=True)
class PictureEntry:
    """One row to be."""

    provisional: PictureSetting

    def setting(self, finished: Mapping[str, Mapping[str, Any]]) -> PictureSetting:
        return self.provisional


@dataclass(frozen=True)
class PictureGrid:
    name: str
    entries: tuple[PictureEntry, ...]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "kind": KIND, "rows": [asdict(entry.provisional) for entry in self.entries]}


def picture_grid_of(value: Mapping[str, Any]) -> PictureGrid:
    """A grid from {"name", "kind": "pictures", "rows": [{FIELD: value}]}; a field left out has its default.

    Raises RequestError, with one sentence, for an invalid one.
    """
    rows = value.get("rows")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise RequestError('A grid of pictures is {"name", "kind": "pictures", "rows": [{..}, ..]}.')
    for row in rows:
        if unknown := sorted(set(row) - set(SETTING_FIELDS)):
            raise RequestError(f"A row has no field {', '.join(unknown)}; it has {', '.join(SETTING_FIELDS)}.")
    settings = dict.fromkeys(picture_setting_of(row) for row in rows)
    return PictureGrid(str(value.get("name", "unnamed")), tuple(PictureEntry(setting) for setting in settings))


def _grid(name: str, *comparisons: Comparison) -> PictureGrid:
    settings = dict.fromkeys(setting for one in comparisons for setting in one.settings())
    return PictureGrid(name, tuple(PictureEntry(setting) for setting in settings))


PICTURE_GRIDS: dict[str, PictureGrid] = {
    KIND: _grid(KIND, *COMPARISONS),
    **{comparison.name: _grid(comparison.name, comparison) for comparison in COMPARISONS},
    "pictures-smoke": PictureGrid(
        "pictures-smoke",
        tuple(
            PictureEntry(PictureSetting(family, layout, scale="smoke", recipe=SMOKE.name))
            for layout, family in product(("image_first", "query_around"), FAMILIES)
        ),
    ),
}
