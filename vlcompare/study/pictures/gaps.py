"""Tables of the comparisons from finished rows alone: shares right with intervals, and the Transformer-minus-Mamba gap.

A question's value is its mean over the seeds that both families have. Intervals are the evaluation's own, over
pictures; they say what other held-out scenes would give, not what other trainings would: for that stand the single
seeds' gaps. Only rows of one recipe, and so of one budget, are set beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vlcompare.evaluate.statistics import mean_interval, paired_difference
from vlcompare.study.pictures.grids import COMPARISONS, SEEDS, Comparison
from vlcompare.study.pictures.settings import PictureSetting, picture_setting_of
from vlcompare.types import FAMILIES

Row = Mapping[str, Any]
Record = dict[str, Any]


def comparison_records(rows: Sequence[Row], comparison: Comparison) -> list[Record]:
    """A line for each recipe, value, task and type of question that both families have rows for."""
    recipes = dict.fromkeys(row["recipe"] for row in rows)
    return [record for recipe in recipes for record in _of_recipe(rows, comparison, recipe)]


def _of_recipe(rows: Sequence[Row], comparison: Comparison, recipe: str) -> Iterator[Record]:
    known = {picture_setting_of(dict(row)): row for row in rows}
    # the baseline as the rows have it: a recipe may come at another size than the usual one
    scale = {setting.scale for setting in known if setting.recipe == recipe}
    base = PictureSetting(FAMILIES[0], recipe=recipe, scale=scale.pop() if len(scale) == 1 else "medium")
    for value in comparison.values:
        sides: dict[str, dict[int, Row]] = {family: {} for family in FAMILIES}
        for setting, row in known.items():
            wanted = replace(base, family=setting.family, seed=setting.seed, **{comparison.field: value})
            if setting == wanted:
                sides[setting.family][setting.seed] = row
        seeds = sorted(set.intersection(*(set(side) for side in sides.values())))
        if seeds:
            pairs = [tuple(sides[family][seed] for family in FAMILIES) for seed in seeds]
            for record in _compared(pairs):
                yield {
                    "comparison": comparison.name,
                    "value": value,
                    **record,
                    "seeds": len(seeds),
                    "complete": len(seeds) >= len(SEEDS),
                    "questions_trained": pairs[0][0]["questions"],
                    "recipe": recipe,
                }


def _compared(pairs: Sequence[tuple[Row, ...]]) -> Iterator[Record]:
    """Both families' shares and their gap, for each task and for each type of question in it."""
    first = pairs[0][0]["tasks"]
    for task, about in first.items():
        rights = [np.stack([_right(pair[side]["tasks"][task]) for pair in pairs]) for side in range(len(FAMILIES))]
        counts = [int(digit, 36) for digit in about["per_picture"]]
        clusters = np.repeat(np.arange(len(counts)), counts)
        types = np.array([ord(letter) - ord("a") for letter in about["types"]])
        slices = {"all": np.ones(len(types), dtype=bool)}
        if len(about["names"]) > 1:
            slices |= {name: types == index for index, name in enumerate(about["names"])}
        for name, chosen in slices.items():
            ours, theirs = (side[:, chosen] for side in rights)
            record: Record = {"group": about["group"], "task": task, "type": name, "n": int(chosen.sum())}
            for family, side in zip(FAMILIES, (ours, theirs), strict=True):
                low, high = mean_interval(side.mean(axis=0), clusters[chosen])
                record |= {family: _short(side.mean()), f"{family}_low": _short(low), f"{family}_high": _short(high)}
            gap, (low, high) = paired_difference(ours.mean(axis=0), theirs.mean(axis=0), clusters[chosen])
            each = " ".join(f"{value:+.3f}" for value in (ours - theirs).mean(axis=1))
            yield record | {"gap": _short(gap), "gap_low": _short(low), "gap_high": _short(high), "gap_by_seed": each}


def _right(found: Mapping[str, Any]) -> np.ndarray:
    return np.array([digit == "1" for digit in found["right"]], dtype=np.float64)


def _short(value: Any) -> float:
    return round(float(value), 4)


def all_records(rows: Sequence[Row]) -> dict[str, list[Record]]:
    """The records of every comparison that has at least two values to compare."""
    found = {one.name: comparison_records(rows, one) for one in COMPARISONS}
    return {name: records for name, records in found.items() if len({record["value"] for record in records}) > 1}
