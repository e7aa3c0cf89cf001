"""How much work a row on pictures is, estimated before anything is trained."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from vlcompare.study.pictures.settings import OWN_SIZE, PATCH, RECIPES, PictureSetting
from vlcompare.synth.train.corpus import prefix_ids
from vlcompare.synth.train.learner import Learner
from vlcompare.tasks.layouts import IMAGE_LEADS

_WIDTH = 192  # of the frozen encoder
_QUESTION = 22  # positions of a question and its answer, padded
_SLOWER = {"pythia": 1.0, "mamba": 1.6}  # at equal parameters, as measured on a CPU
_PER_OPERATION = 6  # of a parameter and position: forward two, backward four
_ANSWERED = 12  # questions about a held-out picture
# operations of a patch, as measured on a CPU: its picture drawn, encoded and asked about; its encoder finetuned on it
_PREPARED, _FINETUNED = 6e6, 9e6


@functools.cache
def _parameters(family: str, scale: str, recipe: str) -> int:
    setting = PictureSetting(family, scale=scale, recipe=recipe)
    return Learner(family, setting.how.training(scale, 0), _WIDTH).shipped_parameters()


def positions(setting: PictureSetting) -> int:
    """Positions that a step computes: a leading image once a picture, all else once a question."""
    recipe, image = setting.how, len(prefix_ids(setting.image_size // PATCH))
    images = {"image_twice": 1}.get(setting.layout, 0 if setting.layout in IMAGE_LEADS else 1)
    again = _QUESTION if setting.layout == "query_around" else 0
    each = _QUESTION + again + (images + setting.distractors) * image
    shared = image if setting.layout in IMAGE_LEADS else 0
    return recipe.pictures * (shared + recipe.questions * each)


def picture_work(setting: PictureSetting) -> float:
    """The cost of a whole row, in floating-point operations of a Transformer that takes as long.

    A row that asks another one's model costs its answers alone.
    """
    size, recipe = _parameters(setting.family, setting.scale, setting.recipe), setting.how
    cost = _SLOWER[setting.family] * size * positions(setting)
    if setting != setting.trained:
        steps = len(recipe.seeds) * recipe.scenes * _ANSWERED / (recipe.pictures * recipe.questions)
        return 2 * cost * steps
    return _PER_OPERATION * cost * recipe.steps


def preparation_work(settings: Sequence[PictureSetting]) -> float:
    """The cost of the pictures and the encoders that rows share, in the same unit."""
    drawn = {(setting.recipe, setting.image_size, setting.sampling) for setting in settings}
    sizes = {(setting.recipe, size) for setting in settings for size in (setting.image_size, setting.asked_size)}
    cost = sum(_PREPARED * _patches(size) * RECIPES[recipe].kept for recipe, size, _ in drawn)
    for recipe, size in sizes:
        if size != OWN_SIZE:
            encoder = RECIPES[recipe].encoder
            cost += _FINETUNED * _patches(size) * encoder.steps * encoder.batch
    return cost


def _patches(size: int) -> int:
    return (size // PATCH) ** 2
