"""What one training on pictures is: its setting, the sizes, and the recipe. Trains nothing.

Every comparison varies a field or two of `PictureSetting`; the others keep the values of the common baseline, so that
the baseline's rows serve all comparisons. A field that a row lacks has its default.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vlcompare.errors import RequestError
from vlcompare.synth.scenes.scene import SAMPLINGS, Sampling
from vlcompare.synth.train.recipe import EncoderRecipe, LanguageRecipe, ModelShapes, PictureRecipe, Recipe
from vlcompare.tasks.layouts import LAYOUTS
from vlcompare.types import FAMILIES

DISTRACTORS = (0, 1, 3)  # times the positions of the image, between image and question
IMAGE_SIZES = (112, 160)  # pixels: a 7 x 7 and a 10 x 10 grid of patches
OWN_SIZE = IMAGE_SIZES[0]  # of the embedded pair's encoder
PATCH = 16  # pixels

# equal in parameters within 3 % (connector included), a head of 32 channels each
SCALES: dict[str, ModelShapes] = {
    "small": ModelShapes(width=64, pythia_layers=4, pythia_heads=2, mamba_layers=6),
    "medium": ModelShapes(),
    "large": ModelShapes(width=256, pythia_layers=4, pythia_heads=8, mamba_layers=7),
    "smoke": ModelShapes(width=32, pythia_layers=2, pythia_heads=1, mamba_layers=2, mamba_state=4),
}
# a third to a half of the embedded encoder's own rates; its own schedule has 5,200 steps
FINETUNED = EncoderRecipe(steps=600, muon=0.008, adamw=1e-3, decay_from=0.4)


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
    encoder: EncoderRecipe = FINETUNED  # how the encoder is finetuned for a size that is not its own
    save_every: int = 50  # steps
    seeds: tuple[int, ...] = (101, 102, 103)  # of the held-out scenes
    scenes: int = 100  # of each of these seeds
    floor_scenes: int = 1500  # of the training stream, in which the most frequent answers are counted

    @property
    def asked(self) -> int:
        """Questions that a whole training sees."""
        return self.steps * self.pictures * self.questions

    def training(self, scale: str, seed: int, image_size: int = OWN_SIZE, sampling: Sampling = "balanced") -> Recipe:
        """As the embedded pair's trainer takes it; what is not named here is as in the pair's own recipe."""
        drawn = PictureRecipe(image_size, sampling, self.kept, shard=self.shard, workers=0)
        language = LanguageRecipe(
            steps=self.steps,
            pictures=self.pictures,
            questions=self.questions,
            kept_pictures=self.kept,
            warmup=self.warmup,
        )
        return Recipe(self.name, seed, drawn, self.encoder, language, SCALES[scale])

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


# settled by a trial of the baseline before any grid: after these steps the Transformer finds .61 of the boxes and
# answers .67 of the questions; a row takes some 7 to 30 minutes of one core, all six comparisons some ten hours of one
V1 = PicturesRecipe("pictures-v1", steps=1500)
# the same number of questions over more tasks: what is learnt of these, a pilot says (see `pilot`)
ALL_TASKS = replace(
    V1,
    name="pictures-all-tasks-v1",
    tasks=(*V1.tasks, "multiple_choice", "pointing", "captioning", "image_text_match"),
)
SMOKE = PicturesRecipe(
    "pictures-smoke",
    steps=4,
    pictures=2,
    questions=3,
    kept=32,
    shard=16,
    warmup=1,
    encoder=EncoderRecipe(steps=2, batch=8, warmup=1),
    save_every=1,
    seeds=(1, 2),
    scenes=3,
    floor_scenes=40,
)
RECIPES = {recipe.name: recipe for recipe in (V1, ALL_TASKS, SMOKE)}


def _shown(value: Any) -> str:
    """A value of a field as it stands in a sentence."""
    return "null" if value is None else str(value)


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
    image_size: int = OWN_SIZE  # trained at; the encoder is this size's own
    tested_size: int | None = None  # None: as trained
    sampling: Sampling = "balanced"  # of the scenes that are trained on
    tested_sampling: Sampling | None = None

    def __post_init__(self) -> None:
        for tested, as_trained in TESTED.items():  # one training, one test, one setting
            if getattr(self, tested) == getattr(self, as_trained):
                object.__setattr__(self, tested, None)
        known: dict[str, tuple[Any, ...]] = {
            "family": FAMILIES,
            "layout": LAYOUTS,
            "distractors": DISTRACTORS,
            "scale": tuple(SCALES),
            "recipe": tuple(RECIPES),
            "image_size": IMAGE_SIZES,
            "tested_size": (None, *IMAGE_SIZES),
            "sampling": SAMPLINGS,
            "tested_sampling": (None, *SAMPLINGS),
        }
        for name, values in known.items():
            value = getattr(self, name)
            if not any(value == one and type(value) is type(one) for one in values):
                raise RequestError(f"{name} is {', '.join(map(_shown, values))}; not {json.dumps(value)}.")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise RequestError(f"seed is a whole number from 0 to {2**31 - 1}, not {json.dumps(self.seed)}.")
        if self.distractors and self.layout != "image_first":
            raise RequestError("Distractors stand between image and question: the layout has to be image_first.")

    @property
    def how(self) -> PicturesRecipe:
        return RECIPES[self.recipe]

    @property
    def trained(self) -> PictureSetting:
        """The same training, tested on what it was trained on."""
        return replace(self, tested_size=None, tested_sampling=None)

    @property
    def asked_size(self) -> int:
        """Pixels of the held-out pictures."""
        return self.tested_size or self.image_size

    @property
    def asked_sampling(self) -> Sampling:
        """How the held-out scenes are sampled."""
        return self.tested_sampling or self.sampling

    @property
    def training(self) -> Recipe:
        """As the embedded pair's trainer takes it."""
        return self.how.training(self.scale, self.seed, self.image_size, self.sampling)

    @property
    def id(self) -> str:
        """A name for files, from all fields; those that are seldom varied are left out at their defaults."""
        parts = [str(getattr(self, name)) for name in SETTING_FIELDS[:_ALWAYS_NAMED]]
        return "-".join([*parts, *(text.replace(" ", "-") for text in self._seldom)])

    @property
    def _seldom(self) -> list[str]:
        """Words for the fields that are seldom varied, without those at their defaults."""
        words = {
            f"at {self.image_size}": self.image_size != OWN_SIZE,
            f"tested at {self.tested_size}": self.tested_size is not None,
            f"{self.sampling} scenes": self.sampling != "balanced",
            f"tested on {self.tested_sampling} scenes": self.tested_sampling is not None,
        }
        return [text for text, named in words.items() if named]

    def __str__(self) -> str:
        between = [f"{self.distractors} x distractors"] if self.distractors else []
        parts = [self.layout.replace("_", " "), *between, *self._seldom, self.scale, self.family, f"seed {self.seed}"]
        return ", ".join(parts)


TESTED = {"tested_size": "image_size", "tested_sampling": "sampling"}  # field of a test -> of the training
_ALWAYS_NAMED = 6  # fields of a setting's id
SETTING_FIELDS = tuple(field.name for field in fields(PictureSetting))


def picture_setting_of(values: dict[str, Any]) -> PictureSetting:
    """The setting of a row or a grid's entry; further keys are ignored. Raises RequestError without a family."""
    if "family" not in values:
        raise RequestError("A row lacks family.")
    return PictureSetting(**{name: values[name] for name in SETTING_FIELDS if name in values})
