"""The grids of trainings on pictures: one for each comparison, and all of them. Order of training is the order here.

A row that is tested on other pictures than it was trained on needs no training of its own: it waits for the row that is
tested as trained, where the grid has it, and asks that row's model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from vlcompare.errors import RequestError
from vlcompare.study.pictures.pilot import SEEDS
from vlcompare.study.pictures.settings import (
    ALL_TASKS,
    DISTRACTORS,
    IMAGE_SIZES,
    PATCH,
    SETTING_FIELDS,
    SMOKE,
    PictureSetting,
    picture_setting_of,
)
from vlcompare.types import FAMILIES

KIND = "pictures"
BASELINE = PictureSetting(FAMILIES[0])


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is varied, all else being as in the baseline: the fields of each value."""

    name: str  # of its grid
    title: str
    values: Mapping[Any, Mapping[str, Any]]
    axis: str = ""  # what its values are, where they do not say so themselves
    ordered: bool = False  # whether the values are amounts of one thing, from less to more
    widens: str = ""  # what the paper says, where it says that the gap in grounding grows along `values`
    expects: str = ""  # what values other than the first are expected to do to a family, with its source
    note: str = ""  # what has to be known to read it; {finetuned} stands for the encoder's further steps

    def settings(self, base: PictureSetting = BASELINE) -> Iterator[PictureSetting]:
        """Both families beside each other, value by value, then the same with the next seed."""
        for seed, fields, family in product(SEEDS, self.values.values(), FAMILIES):
            yield replace(base, family=family, seed=seed, **fields)


def _one_field(name: str, values: tuple[Any, ...]) -> dict[Any, dict[str, Any]]:
    return {value: {name: value} for value in values}


_OWN, _LARGER = IMAGE_SIZES
COMPARISONS = (
    Comparison("pictures-order", "Order", _one_field("layout", ("image_first", "template_first", "query_first"))),
    Comparison(
        "pictures-scale",
        "Scale",
        _one_field("scale", ("small", "medium", "large")),
        ordered=True,
        widens="In the paper the gap in grounding widens with scale",
    ),
    Comparison(
        "pictures-twice",
        "Encoding again",
        _one_field("layout", ("image_first", "image_twice", "query_around")),
        expects="Reading again is meant to help recurrent models (arXiv 2407.05483)",
    ),
    Comparison(
        "pictures-resolution",
        "Resolution",
        {
            f"{_OWN}": {},
            f"{_LARGER}, finetuned": {"image_size": _LARGER},
            f"{_LARGER}, extrapolated": {"tested_size": _LARGER},
        },
        "pixels",
        note=f"Ours: {_OWN} and {_LARGER} pixels ({_OWN // PATCH} x {_OWN // PATCH} and {_LARGER // PATCH} x "
        f"{_LARGER // PATCH} patches), and an encoder for each: that of {_LARGER} begins as that of {_OWN} and is "
        f"finetuned, so that it has had {{finetuned}} training steps more. Finetuned: the language models are trained "
        f"at {_LARGER}, too. Extrapolated: those trained at {_OWN} are asked at {_LARGER}, with that size's encoder "
        f"and without further training.",
    ),
    Comparison(
        "pictures-sampling",
        "Curated against naturally sampled",
        {
            "balanced, tested balanced": {},
            "balanced, tested natural": {"tested_sampling": "natural"},
            "natural, tested natural": {"sampling": "natural"},
            "natural, tested balanced": {"sampling": "natural", "tested_sampling": "balanced"},
        },
        "trained on → tested on",
        note="Ours, all of it. Balanced: every attribute equally often and independent of the others. Natural: each "
        "with a long tail, and three quarters of the things in the usual colour of their kind, so that language alone "
        "guesses more. The questions about a scene are chosen alike in both; the encoder was trained on balanced ones.",
    ),
    Comparison(
        "pictures-distance",
        "Distance from image to question",
        _one_field("distractors", DISTRACTORS),
        "distractor tokens, in images",
        ordered=True,
        expects="A state of fixed size is expected to lose what lies far back",
        note="Ours: between image and question stand random words of those that questions and answers contain, other "
        "ones for each scene, as many as the image has positions, or three times as many; trained and tested so.",
    ),
)


@dataclass(frozen=True, slots=True)
class PictureEntry:
    """One row to be; `model`: the row whose model it asks, where that is another one."""

    provisional: PictureSetting
    model: PictureSetting | None = None

    def setting(self, finished: Mapping[str, Mapping[str, Any]]) -> PictureSetting | None:
        """None while the row whose model is asked is not finished. `finished`: rows by id."""
        return None if self.model is not None and self.model.id not in finished else self.provisional


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
    if not isinstance(value, Mapping):
        raise RequestError("A grid of pictures is a JSON object.")
    if unknown := sorted(set(value) - {"name", "kind", "rows", "version"}):
        raise RequestError(f"A grid of pictures has no {', '.join(unknown)}.")
    rows = value.get("rows")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise RequestError('A grid of pictures is {"name", "kind": "pictures", "rows": [{FIELD: value}, ..]}.')
    for row in rows:
        if unknown := sorted(set(row) - set(SETTING_FIELDS)):
            raise RequestError(f"A row has no field {', '.join(unknown)}; it has {', '.join(SETTING_FIELDS)}.")
    return _grid(str(value.get("name", "unnamed")), map(picture_setting_of, rows))


def _grid(name: str, settings: Iterable[PictureSetting]) -> PictureGrid:
    """A grid of the settings in their order, each once."""
    known = dict.fromkeys(settings)
    models = {setting: setting.trained for setting in known}
    return PictureGrid(
        name,
        tuple(
            PictureEntry(setting, model if model != setting and model in known else None)
            for setting, model in models.items()
        ),
    )


def _pilot() -> Iterator[PictureSetting]:
    """The baseline, trained in all tasks: which of them are learnt."""
    for seed, family in product(SEEDS, FAMILIES):
        yield PictureSetting(family, recipe=ALL_TASKS.name, seed=seed)


def _smoke() -> Iterator[PictureSetting]:
    """Seconds: something of everything that a row can be."""
    varied: tuple[dict[str, Any], ...] = (
        {},
        {"layout": "query_around"},
        {"image_size": _LARGER},
        {"tested_size": _LARGER, "tested_sampling": "natural"},
    )
    for fields, family in product(varied, FAMILIES):
        yield picture_setting_of({"family": family, "scale": "smoke", "recipe": SMOKE.name, **fields})


PICTURE_GRIDS: dict[str, PictureGrid] = {
    KIND: _grid(KIND, (setting for one in COMPARISONS for setting in one.settings())),
    **{comparison.name: _grid(comparison.name, comparison.settings()) for comparison in COMPARISONS},
    "pictures-pilot": _grid("pictures-pilot", _pilot()),
    "pictures-smoke": _grid("pictures-smoke", _smoke()),
}
