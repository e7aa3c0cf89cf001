"""How much work a row on pictures is, estimated before anything is trained."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from vlcompare.study.pictures.settings import OWN_SIZE, PATCH, RECIPES, PictureSetting
from vlcompare.synth.train.corpus import prefix_ids
from vlcompare.synth.train.learner import Learner
from vlcompare.tasks.layouts import IMAGE_LEADS, QUERY_LEADS

_WIDTH = 192  # of the frozen encoder
_QUESTION, _INSTRUCTION = 22, 8  # positions of a question and its answer, padded; of the instruction among them
_TEMPLATES = 2.5  # instructions among a picture's questions
_PER_OPERATION = 6  # of a parameter and position: forward two, backward four
_ANSWERED, _WRITTEN = 12, 6  # questions about a held-out picture; tokens of an answer
# as measured on a CPU, at equal parameters: Mamba's positions are slower, Pythia's optimiser has more to do
_SLOWER = {"pythia": 1.0, "mamba": 2.6}
_EACH_STEP = {"pythia": 1700, "mamba": 200}  # positions that take as long as what a step does beside its positions
# products are larger than those of the trainings on sequences that `estimate.pace` is about, and so faster: the more
# so, the more parameters a model has
_FASTER, _POWER, _MILLION = 0.24, 0.7, 1e6
# operations of a patch, as measured on a CPU: its picture drawn, encoded and asked about; its encoder finetuned on it
_PREPARED, _FINETUNED = 9e6, 9e6
_ENCODED = 1.4e8  # operations of a picture's questions, put into a layout's words


@functools.cache
def _parameters(family: str, scale: str, recipe: str) -> int:
    setting = PictureSetting(family, scale=scale, recipe=recipe)
    return Learner(family, setting.how.training(scale, 0), _WIDTH).shipped_parameters()


def _image(size: int) -> int:
    """Positions of a picture of `size` pixels."""
    return len(prefix_ids(size // PATCH))


def positions(setting: PictureSetting) -> int:
    """Positions that a step computes: what stands before the question once, all else once a question."""
    recipe, image = setting.how, _image(setting.image_size)
    shared, each = 0.0, float(_whole(setting, image))
    if setting.layout in IMAGE_LEADS:
        shared, each = each - _QUESTION, _QUESTION
    elif setting.layout not in QUERY_LEADS:
        shared, each = _TEMPLATES * (image + _INSTRUCTION), _QUESTION - _INSTRUCTION / 2
    return round(recipe.pictures * (shared + recipe.questions * each))


def _whole(setting: PictureSetting, image: int) -> int:
    """Positions of one prompt with its answer."""
    images = (2 if setting.layout == "image_twice" else 1) + setting.distractors
    return images * image + _QUESTION * (2 if setting.layout == "query_around" else 1)


def picture_work(setting: PictureSetting) -> float:
    """The cost of a whole row, in floating-point operations of a Transformer on sequences that takes as long.

    A row that asks another one's model costs its answers alone.
    """
    recipe = setting.how
    size = _parameters(setting.family, setting.scale, setting.recipe) ** _POWER * _MILLION ** (1 - _POWER)
    asked = len(recipe.seeds) * recipe.scenes * _ANSWERED
    answered = asked * (_whole(setting, _image(setting.asked_size)) + _WRITTEN) * 2 / _PER_OPERATION
    trained = recipe.steps * (positions(setting) + _EACH_STEP[setting.family])
    count = answered + (trained if setting == setting.trained else 0)
    return _FASTER * _SLOWER[setting.family] * _PER_OPERATION * size * count


def preparation_work(settings: Sequence[PictureSetting]) -> float:
    """The cost of the pictures and the encoders that rows share, in the same unit."""
    drawn = {(setting.recipe, setting.image_size, setting.sampling) for setting in settings}
    sizes = {(setting.recipe, size) for setting in settings for size in (setting.image_size, setting.asked_size)}
    asked = {(one.recipe, one.image_size, one.sampling, one.layout, one.distractors) for one in settings}
    cost = sum(_PREPARED * _patches(size) * RECIPES[recipe].kept for recipe, size, _ in drawn)
    cost += sum(_ENCODED * RECIPES[recipe].kept for recipe, *_ in asked)
    for recipe, size in sizes:
        if size != OWN_SIZE:
            encoder = RECIPES[recipe].encoder
            cost += _FINETUNED * _patches(size) * encoder.steps * encoder.batch
    return cost


def _patches(size: int) -> int:
    return (size // PATCH) ** 2
