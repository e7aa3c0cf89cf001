"""The floor of every task: what is right without looking, by the most frequent answer in training to questions alike.

Alike are questions of one type that name the same kinds of things; where training has fewer than five of these, all of
the type. A letter of four is right for a quarter of the questions then, a yes or no for half. The floor follows from
the recipe and from how scenes are sampled, not from any training.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from vlcompare.evaluate.scoring import metric_of
from vlcompare.evaluate.summary import TaskResult, evaluate
from vlcompare.study.pictures.data import held_out
from vlcompare.study.pictures.settings import PictureSetting, picture_setting_of
from vlcompare.synth.train.priors import of_type, of_type_and_kind, prior_answers
from vlcompare.types import Sample

SIDE = "floor"


def floor_answers(setting: PictureSetting, samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """The guessed answer to each held-out question, by its id, as rows of predictions."""
    recipe = setting.how
    alike = (of_type_and_kind, of_type)
    return prior_answers(samples, recipe.floor_scenes, sampling=setting.sampling, tasks=recipe.tasks, alike=alike)


def right_digits(result: TaskResult, side: str) -> str:
    """A 0 or 1 for each question of a task."""
    scores = result.scores[side]
    least = metric_of(result.task, scores.main).right_at
    return "".join("1" if value >= least - 1e-9 else "0" for value in scores.values[scores.main])


def with_floors(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows; those that hold no floors, as earlier programs wrote them, with theirs. Some seconds then."""
    out = []
    for row in rows:
        tasks = row["tasks"]
        if any(SIDE not in found for found in tasks.values()):
            setting = picture_setting_of(dict(row))
            known = _floors(setting.recipe, setting.sampling, setting.asked_sampling)
            tasks = {task: {SIDE: known[task], **found} for task, found in tasks.items()}
        out.append({**row, "tasks": tasks})
    return out


@functools.cache
def _floors(recipe: str, sampling: Any, asked: Any) -> dict[str, str]:
    setting = PictureSetting("pythia", recipe=recipe, sampling=sampling, tested_sampling=asked)
    samples = [sample for _, questions in held_out(setting, 64) for sample in questions]
    results = evaluate(samples, {SIDE: floor_answers(setting, samples)})
    return {result.task: right_digits(result, SIDE) for result in results}
