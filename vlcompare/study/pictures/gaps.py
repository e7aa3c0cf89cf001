"""Tables of the comparisons from finished rows alone: shares right with intervals, and the Transformer-minus-Mamba gap.

A question's value is its mean over the seeds that both families have. Intervals are the evaluation's own, over
pictures; they say what other held-out scenes would give, not what other trainings would: for that stand the single
seeds' gaps. Only rows of one recipe, and so of one budget, are set beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlcompare.errors import SampleError
from vlcompare.evaluate.published_gaps import GROUPS
from vlcompare.evaluate.statistics import mean_interval, paired_difference
from vlcompare.study.pictures.grids import COMPARISONS, SEEDS, Comparison
from vlcompare.study.pictures.measured import Record, Row, baseline, by_setting, clusters, right, short, slices
from vlcompare.study.pictures.pilot import reported
from vlcompare.study.pictures.settings import picture_setting_of
from vlcompare.types import FAMILIES


def comparison_records(rows: Sequence[Row], comparison: Comparison, recipe: str) -> Iterator[Record]:
    """A line for each value, reported task and type of question that both families have rows of a recipe for."""
    known, tasks = by_setting(rows, recipe), reported(rows, recipe)
    base = baseline(known, recipe)
    for value, fields in comparison.values.items():
        sides: dict[str, dict[int, Row]] = {family: {} for family in FAMILIES}
        for setting, row in known.items():
            if setting == replace(base, family=setting.family, seed=setting.seed, **fields):
                sides[setting.family][setting.seed] = row
        seeds = sorted(set.intersection(*(set(side) for side in sides.values())))
        if seeds:
            pairs = [tuple(sides[family][seed] for family in FAMILIES) for seed in seeds]
            for record in _compared(pairs, tasks):
                yield {
                    "comparison": comparison.name,
                    "value": value,
                    **record,
                    "seeds": len(seeds),
                    "complete": len(seeds) >= len(SEEDS),
                    "questions_trained": pairs[0][0]["questions"],
                    **{f"{row['family']}_parameters": row["parameters"] for row in pairs[0]},
                    "recipe": recipe,
                }


def _compared(pairs: Sequence[tuple[Row, ...]], tasks: Sequence[str]) -> Iterator[Record]:
    """Both families' shares, the floor and the gap, for each task and for each type of question in it."""
    found = pairs[0][0]["tasks"]
    for task in sorted(
        set(found) & set(tasks), key=lambda name: (GROUPS.index(found[name]["group"]), tasks.index(name))
    ):
        about = found[task]
        _check_alike(pairs, task)
        rights = [np.stack([right(pair[side]["tasks"][task]) for pair in pairs]) for side in range(len(FAMILIES))]
        pictures, floor = clusters(about), right(about, "floor")
        for name, chosen in slices(about).items():
            ours, theirs = (side[:, chosen] for side in rights)
            record: Record = {"group": about["group"], "task": task, "type": name, "n": int(chosen.sum())}
            record["floor"] = short(floor[chosen].mean())
            for family, side in zip(FAMILIES, (ours, theirs), strict=True):
                low, high = mean_interval(side.mean(axis=0), pictures[chosen])
                record |= {family: short(side.mean()), f"{family}_low": short(low), f"{family}_high": short(high)}
            gap, (low, high) = paired_difference(ours.mean(axis=0), theirs.mean(axis=0), pictures[chosen])
            each = " ".join(f"{value:+.3f}" for value in (ours - theirs).mean(axis=1))
            yield record | {"gap": short(gap), "gap_low": short(low), "gap_high": short(high), "gap_by_seed": each}


def _check_alike(pairs: Sequence[tuple[Row, ...]], task: str) -> None:
    """Raise SampleError where rows that are to be paired were not asked the same questions."""
    asked = [row["tasks"].get(task, {}) for pair in pairs for row in pair]
    if any(found.get(name) != asked[0].get(name) for found in asked for name in ("per_picture", "types", "names")):
        about = " and ".join(str(picture_setting_of(dict(row))) for row in pairs[0])
        raise SampleError(
            f"The rows of {about} were not asked the same questions ({task}); keep rows of one recipe and version."
        )


def compared(rows: Sequence[Row]) -> Iterator[tuple[str, Comparison, list[Record]]]:
    """(name, comparison, records) of every comparison that has two values, or more, of one recipe.

    What is trained by several recipes, and so on other budgets, is several comparisons, named after the recipe but for
    the first.
    """
    for comparison in COMPARISONS:
        several = 0
        for recipe in dict.fromkeys(row["recipe"] for row in rows):
            records = list(comparison_records(rows, comparison, recipe))
            if len({record["value"] for record in records}) > 1:
                yield f"{comparison.name}-{recipe}" if several else comparison.name, comparison, records
                several += 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How many rows of a comparison there are."""

    comparison: str
    recipe: str
    finished: int
    asked: int


def progress(rows: Sequence[Row]) -> Iterator[Progress]:
    """The state of every comparison that has a row of its own, beside the baseline's, which serve all of them."""
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        known = by_setting(rows, recipe)
        base = baseline(known, recipe)
        for comparison in COMPARISONS:
            asked = set(comparison.settings(base))
            own = {setting for setting in asked if setting != replace(base, family=setting.family, seed=setting.seed)}
            if own & set(known):
                yield Progress(comparison.name, recipe, len(asked & set(known)), len(asked))
