"""What one training on pictures is: its setting, the sizes, and the recipe. Trains nothing.

Every comparison varies one field of `PictureSetting`; the others keep the values of the common baseline, so that the
baseline's rows serve all comparisons. A field that a row lacks has its default.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from vlcompare.errors import RequestError
from vlcompare.synth.train.recipe import LanguageRecipe, ModelShapes, PictureRecipe, Recipe
from vlcompare.tasks.layouts import LAYOUTS
from vlcompare.types import FAMILIES

VERSION = 1  # of how rows are made: those of another version are not set beside these
DISTRACTORS = (0, 1, 3)  # times the positions of the image, between image and question

# equal in parameters within 3 % (connector included), a head of 32 channels each
SCALES: dict[str, ModelShapes] = {
    "small": ModelShapes(width=64, pythia_layers=4, pythia_heads=2, mamba_layers=6),
    "medium": ModelShapes(),
    "large": ModelShapes(width=256, pythia_layers=4, pythia_heads=8, mamba_layers=7),
    "smoke": ModelShapes(width=32, pythia_layers=2, pythia_heads=1, mamba_layers=2, mamba_state=4),
}


@dataclass(frozen=True, slots=True)
class PicturesRecipe:
    """Everything that decides a training but what is compared: equal for both families and for all settings."""

    name: str
    steps: int
    tasks: tuple[str, ...] = ("grounding", "vqa", "document_vqa", "region_description")  # trained and evaluated
    pictures: int = 10  # of a step
    questions: int = 8  # about each of them
    kept: int = 9_600  # pictures that are drawn; visited again once all were seen
    shard: int = 480
    warmup: int = 50
    image_size: int = 112
    save_every: int = 50  # steps
    seeds: tuple[int, ...] = (101, 102, 103)  # of the held-out scenes
    scenes: int = 100  # of each of these seeds

    @property
    def grid(self) -> int:
        return self.image_size // 16

    @property
    def asked(self) -> int:
        """Questions that a whole training sees."""
        return self.steps * self.pictures * self.questions

    def training(self, scale: str, seed: int) -> Recipe:
        """As the embedded pair's trainer takes it; what is not named here is as in the pair's own recipe."""
        drawn = PictureRecipe(image_size=self.image_size, count=self.kept, shard=self.shard)
        language = LanguageRecipe(
            steps=self.steps,
            pictures=self.pictures,
            questions=self.questions,
            kept_pictures=self.kept,
            warmup=self.warmup,
        )
        return Recipe(name=self.name, seed=seed, pictures=drawn, language=language, shapes=SCALES[scale])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


V1 = PicturesRecipe("pictures-v1", steps=1500)
SMOKE = PicturesRecipe(
    "pictures-smoke",
    steps=4,
    pictures=2,
    questions=3,
    kept=32,
    shard=16,
    warmup=1,
    save_every=1,
    seeds=(1, 2),
    scenes=3,
)
RECIPES = {recipe.name: recipe for recipe in (V1, SMOKE)}


@dataclass(frozen=True, slots=True)
class PictureSetting:
    """One training, completely: two rows with the same setting are the same row.

    Raises RequestError, with one sentence, for what cannot be trained.
    """

    family: str
    layout: str = "image_first"
    distractors: int = 0
    scale: str = "medium"
    recipe: str = V1.name
    seed: int = 0

    def __post_init__(self) -> None:
        known: dict[str, tuple[Any, ...]] = {
            "family": FAMILIES,
            "layout": LAYOUTS,
            "distractors": DISTRACTORS,
            "scale": tuple(SCALES),
            "recipe": tuple(RECIPES),
        }
        for name, values in known.items():
            value = getattr(self, name)
            if isinstance(value, bool) or value not in values:
                raise RequestError(f"{name} is {', '.join(map(str, values))}; not {json.dumps(value)}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise RequestError(f"seed is a whole number from 0 to {2**31 - 1}, not {json.dumps(self.seed)}.")
        if self.distractors and self.layout != "image_first":
            raise RequestError("Distractors stand between image and question: the layout has to be image_first.")

    @property
    def how(self) -> PicturesRecipe:
        return RECIPES[self.recipe]

    @property
    def id(self) -> str:
        """A name for files, from all fields."""
        return "-".join(str(getattr(self, name)) for name in SETTING_FIELDS)

    def __str__(self) -> str:
        between = f", {self.distractors} x distractors" if self.distractors else ""
        return f"{self.layout.replace('_', ' ')}{between}, {self.scale}, {self.family}, seed {self.seed}"


SETTING_FIELDS = tuple(field.name for field in fields(PictureSetting))


def picture_setting_of(values: dict[str, Any]) -> PictureSetting:
    """The setting of a row or a grid's entry; further keys are ignored. Raises RequestError without a family."""
    if "family" not in values:
        raise RequestError("A row lacks family.")
    return PictureSetting(**{name: values[name] for name in SETTING_FIELDS if name in values})
