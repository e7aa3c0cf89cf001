"""The training recipe of the embedded pair as one table of frozen values.

`CPU` is for two processor cores: the schedule of the embedded pair's first 14,000 steps in one go, with what was learnt
on the way (its card tells the phases that it went through); `GPU` is the same recipe at a larger budget. `SMOKE` is for
tests: it runs in seconds and teaches nothing. Sizes of both language models are here because they have to be matched.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlcompare.errors import CheckpointError
from vlcompare.evaluate.readers.json_lines import why
from vlcompare.synth.scenes.scene import PIXELS, SAMPLINGS, Sampling
from vlcompare.types import TASKS


@dataclass(frozen=True)
class PictureRecipe:
    """Which training scenes are drawn, and how many pictures are kept for the language models."""

    image_size: int = 112
    sampling: Sampling = "balanced"  # how scenes are sampled: see `synth.scenes.scene`
    count: int = 100_000
    scene_share: float = 0.6  # of the scenes without a document that are kept: more documents than the world has
    sizes: tuple[int, ...] = (224, 224, 224, 224, 224, 224, 160, 320)  # drawn at, then reduced; in turn
    shard: int = 480  # pictures per file
    workers: int = 1  # processes that draw beside the encoder's training; 0: it draws each file when it reads it


@dataclass(frozen=True)
class EncoderRecipe:
    """Dense supervision of the encoder."""

    steps: int = 5200
    batch: int = 48
    muon: float = 0.02  # the blocks' matrices
    adamw: float = 2e-3  # everything else
    warmup: int = 50
    decay_from: float = 0.62


@dataclass(frozen=True)
class TaskWeights:
    """A weight for each task."""

    captioning: float = 1.0
    grounded_captioning: float = 1.0
    region_description: float = 1.0
    vqa: float = 1.0
    document_vqa: float = 1.0
    multiple_choice: float = 1.0
    pointing: float = 1.0
    grounding: float = 1.0
    image_text_match: float = 1.0
    chat: float = 1.0

    def by_task(self) -> np.ndarray:
        """(tasks,) in the order of TASKS."""
        return np.array([getattr(self, task) for task in TASKS])


# how often a task is asked relative to its rows: more where answers are learnt late (checking a statement, counting,
# boxes), less where they come early or cost many tokens
ASKED = TaskWeights(
    captioning=5.0,
    grounded_captioning=0.3,
    region_description=0.2,
    vqa=1.4,
    document_vqa=1.2,
    multiple_choice=0.4,
    pointing=0.4,
    grounding=1.2,
    image_text_match=2.0,
    chat=0.1,
)
# weight of an answer's token: the one word that decides a yes or no would drown among the many of a caption
TOKENS = TaskWeights(
    captioning=1.5, grounded_captioning=0.3, vqa=2.0, image_text_match=2.5, multiple_choice=2.5, pointing=2.0
)


@dataclass(frozen=True)
class LanguageRecipe:
    """Both language models: the same pictures, questions, order and number of steps."""

    steps: int = 14_000
    pictures: int = 10  # per step
    questions: int = 10  # per picture, sharing its prefix
    kept_pictures: int = 36_000  # whose features are cached; visited again once all were seen
    warmup: int = 100
    decay_from: float = 0.52
    muon: float = 0.014  # matrices of the blocks (Mamba: in_proj and out_proj)
    adamw: float = 3e-3
    weight_decay: float = 0.01
    coordinate_sigma: float = 0.8  # bins of 0.01: a near miss costs less than a far one
    auxiliary: float = 0.5  # weight of connector -> words and box bins at the start; gone after `auxiliary_until`
    auxiliary_until: float = 0.25
    pointer: float = 0.5  # weight of pointing at the right patch from mid depth
    box_pointer_from: int = 0  # from this step on, all four positions that write a box point, not only the prompt's end
    mention_pointer_from: int = 0  # from this step on, the positions of a caption point at the things they mention
    option_marks_from: int = 0  # from this step on, a prompt's listed options are judged where they end
    asked: TaskWeights = ASKED
    token_weights: TaskWeights = TOKENS


@dataclass(frozen=True)
class ModelShapes:
    """The two language models, equal in parameters within 3 % (connector included)."""

    width: int = 128
    pythia_layers: int = 4
    pythia_heads: int = 4
    mamba_layers: int = 7
    mamba_state: int = 16


@dataclass(frozen=True)
class Recipe:
    name: str = "cpu"
    seed: int = 0
    pictures: PictureRecipe = field(default_factory=PictureRecipe)
    encoder: EncoderRecipe = field(default_factory=EncoderRecipe)
    language: LanguageRecipe = field(default_factory=LanguageRecipe)
    shapes: ModelShapes = field(default_factory=ModelShapes)


CPU = Recipe()
GPU = Recipe(
    name="gpu",
    pictures=PictureRecipe(count=400_000, workers=12),
    encoder=EncoderRecipe(steps=12_000, batch=64),
    language=LanguageRecipe(steps=60_000, pictures=32, kept_pictures=400_000),
)
SMOKE = Recipe(
    name="smoke",
    pictures=PictureRecipe(count=64, shard=16, sizes=(112,)),
    encoder=EncoderRecipe(steps=4, batch=8, warmup=1),
    language=LanguageRecipe(steps=4, pictures=2, questions=3, kept_pictures=64, warmup=1),
    shapes=ModelShapes(width=32, pythia_layers=2, pythia_heads=2, mamba_layers=2, mamba_state=4),
)
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (CPU, GPU, SMOKE)}


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON values."""
    return dataclasses.asdict(recipe)


def load(name_or_file: str) -> Recipe:
    """A recipe by name, or from a JSON file with the fields that differ from `cpu`.

    Raises CheckpointError for an unknown name or field.
    """
    if name_or_file in RECIPES:
        return RECIPES[name_or_file]
    path = Path(name_or_file)
    if not path.is_file():
        raise CheckpointError(f"Unknown recipe {name_or_file!r}: give a file, or one of {', '.join(RECIPES)}.")
    try:
        found = _merge(CPU, json.loads(path.read_text(encoding="utf-8")), path.name)
    except OSError as error:
        raise CheckpointError(f"The recipe {path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise CheckpointError(f"The recipe {path} is {why(error)}.") from error
    if wrong := impossible(found):
        raise CheckpointError(f"{path.name}: {wrong}.")
    return found


def impossible(recipe: Recipe) -> str | None:
    """What cannot be trained as a recipe says, or None."""
    pictures, encoder, language = recipe.pictures, recipe.encoder, recipe.language
    counts = {
        "pictures.shard": pictures.shard,
        "encoder.steps": encoder.steps,
        "encoder.batch": encoder.batch,
        "language.steps": language.steps,
        "language.pictures": language.pictures,
        "language.questions": language.questions,
        **{f"shapes.{field.name}": getattr(recipe.shapes, field.name) for field in dataclasses.fields(recipe.shapes)},
    }
    rules = (
        *((value >= 1, f"{name} is 1 or more, not {value}") for name, value in counts.items()),
        (encoder.batch <= pictures.shard, "encoder.batch is no more than pictures.shard: a batch comes from one file"),
        # behind the last one the pictures begin again, and the questions would not
        (language.kept_pictures <= pictures.count, "language.kept_pictures is no more than pictures.count"),
        (language.pictures <= language.kept_pictures, "language.pictures is no more than language.kept_pictures"),
        (language.auxiliary_until > 0, "language.auxiliary_until is above 0; auxiliary = 0 turns it off"),
        (all(size in PIXELS for size in pictures.sizes), f"pictures.sizes are {PIXELS.start} to {PIXELS.stop - 1}"),
        (pictures.workers >= 0, f"pictures.workers is 0 or more, not {pictures.workers}"),
        (pictures.sampling in SAMPLINGS, f"pictures.sampling is {' or '.join(SAMPLINGS)}"),
        (pictures.image_size in range(64, 4097, 16), "pictures.image_size is a multiple of 16 from 64 on"),
    )
    return next((sentence for holds, sentence in rules if not holds), None)


def _merge(base: Any, changes: dict[str, Any], where: str) -> Any:
    if not isinstance(changes, dict):
        raise CheckpointError(f"{where}: fields with their values are wanted here, not {json.dumps(changes)[:40]}.")
    known = {f.name for f in dataclasses.fields(base)}
    if unknown := sorted(set(changes) - known):
        raise CheckpointError(f"{where}: unknown fields {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    values = {}
    for key, value in changes.items():
        old = getattr(base, key)
        if dataclasses.is_dataclass(old):
            values[key] = _merge(old, value, f"{where}, {key}")
        elif not _alike(value, old):
            raise CheckpointError(f"{where}: {key} is {json.dumps(value)[:40]}, which is not a value like {old!r}.")
        else:
            values[key] = tuple(value) if isinstance(old, tuple) else value
    return dataclasses.replace(base, **values)


def _alike(value: Any, old: Any) -> bool:
    """Whether a JSON value fits a field: integers for an int, any number for a float."""
    if isinstance(old, tuple):
        return isinstance(value, list) and bool(value) and all(_alike(item, old[0]) for item in value)
    if isinstance(value, bool) or not isinstance(old, float):
        return type(value) is type(old)
    return isinstance(value, (int, float))
