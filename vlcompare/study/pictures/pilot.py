"""Which tasks are reported: those of the smallest recipe always, the others where a pilot shows that they are learnt.

The pilot of a recipe are its rows at the baseline, of both families and all seeds. What leaves the floor for neither
family says nothing about their difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlcompare.evaluate.statistics import paired_difference
from vlcompare.study.pictures.measured import Record, Row, baseline, by_setting, clusters, right, short
from vlcompare.study.pictures.settings import RECIPES, V1
from vlcompare.types import FAMILIES

SEEDS = (0, 1)  # of a comparison, and so of a pilot
PILOTED = ("multiple_choice", "pointing", "captioning", "image_text_match")
RULE = (
    "a task is reported where, for at least one family and in every seed, the 95 % interval of its share right minus "
    "the floor's lies above 0"
)

_VERDICTS = {
    True: "reported",
    False: "not reported: neither family leaves the floor",
    None: "not known yet, seeds are missing",
}


@dataclass(frozen=True)
class Pilot:
    """A recipe's pilot: a record for each task, family and seed, and for each task what follows."""

    recipe: str
    records: tuple[Record, ...]
    verdicts: dict[str, str]


def pilots(rows: Sequence[Row]) -> Iterator[Pilot]:
    """The pilot of each recipe that has one."""
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        records = tuple(pilot_records(rows, recipe))
        if records:
            tasks = [task for task in PILOTED if task in RECIPES[recipe].tasks]
            yield Pilot(recipe, records, {task: _VERDICTS[passed(records, task)] for task in tasks})


def above_text(record: Record) -> str:
    """How far a pilot's share lies above the floor, with its interval; a dash where the floor is not known."""
    if record["above"] is None:
        return "–"
    return f"{record['above']:+.3f} ({record['above_low']:+.3f} to {record['above_high']:+.3f})"


def pilot_records(rows: Sequence[Row], recipe: str) -> Iterator[Record]:
    """A line for each piloted task, family and seed of a recipe's pilot: how far it is above the floor."""
    known = by_setting(rows, recipe)
    base = baseline(known, recipe)
    for task in (task for task in PILOTED if task in RECIPES[recipe].tasks):
        for family in FAMILIES:
            for seed in SEEDS:
                row = known.get(replace(base, family=family, seed=seed))
                if row is not None and task in row["tasks"]:
                    yield {"recipe": recipe, "task": task, "family": family, "seed": seed, **_above(row["tasks"][task])}


def _above(found: Row) -> Record:
    share, floor = right(found), right(found, "floor")
    if np.isnan(floor).any():
        low = high = float("nan")
    else:
        low, high = paired_difference(share, floor, clusters(found))[1]
    return {
        "n": len(share),
        "right": short(share.mean()),
        "floor": short(floor.mean()),
        "above": short(share.mean() - floor.mean()),
        "above_low": short(low),
        "above_high": short(high),
    }


def passed(records: Sequence[Record], task: str) -> bool | None:
    """Whether a pilot's records say that the task has left its floor, by `RULE`; None while seeds are missing."""
    lows = {
        family: [record["above_low"] for record in records if (record["task"], record["family"]) == (task, family)]
        for family in FAMILIES
    }
    whole = {family: len(values) == len(SEEDS) and None not in values for family, values in lows.items()}
    if any(whole[family] and min(values) > 0 for family, values in lows.items()):
        return True
    return False if all(whole.values()) else None


def reported(rows: Sequence[Row], recipe: str) -> tuple[str, ...]:
    """The tasks of a recipe that may be reported, as far as the rows say."""
    records = list(pilot_records(rows, recipe))
    return tuple(task for task in RECIPES[recipe].tasks if task in V1.tasks or passed(records, task))
