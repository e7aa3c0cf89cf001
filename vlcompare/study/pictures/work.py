"""How much work a row on pictures is, estimated before anything is trained."""

from __future__ import annotations

import functools

from vlcompare.study.pictures.settings import PATCH, PictureSetting
from vlcompare.synth.train.learner import Learner, prefix_ids
from vlcompare.tasks.layouts import IMAGE_LEADS

_WIDTH = 192  # of the frozen encoder
_QUESTION = 22  # positions of a question and its answer, padded
_SLOWER = {"pythia": 1.0, "mamba": 1.6}  # at equal parameters, as measured on a CPU
_PER_OPERATION = 6  # of a parameter and position: forward two, backward four


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
    """The cost of a whole training, in floating-point operations of a Transformer that takes as long."""
    size = _parameters(setting.family, setting.scale, setting.recipe)
    return _SLOWER[setting.family] * _PER_OPERATION * size * positions(setting) * setting.how.steps
