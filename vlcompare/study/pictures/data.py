"""What the trainings on pictures learn from and are asked: drawn and encoded once a folder, by whoever comes first.

The encoder is the embedded pair's own, or begins as it and is finetuned at a larger size; it is frozen then. Training
pictures come from the training stream of scenes, held-out ones from the evaluation stream: they share no scene.

`data/RECIPE/` holds what follows from the recipe alone, `data/RECIPE-160/`, `data/RECIPE-natural/` and so on what
pictures of that size or sampling need.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vlcompare.models.scene_encoder import SceneEncoder, SceneEncoderConfig
from vlcompare.paths import CHECKPOINTS, EMBEDDED
from vlcompare.runtime.loading.keys import file_key
from vlcompare.study.pictures.settings import OWN_SIZE, PATCH, PictureSetting
from vlcompare.study.rows import Folder
from vlcompare.synth.scenes.dataset import evaluation_scenes
from vlcompare.synth.scenes.dice import Dice
from vlcompare.synth.scenes.phrases import VOCABULARY
from vlcompare.synth.scenes.scene import Scene
from vlcompare.synth.train import encoded_questions
from vlcompare.synth.train.corpus import TrainingSet, prefix_ids, prepare_features, stored_features
from vlcompare.synth.train.encoded_questions import Prompting
from vlcompare.synth.train.encoder import EncoderTraining, train_encoder
from vlcompare.synth.train.pictures import PictureStore, normalised
from vlcompare.tasks.layouts import IMAGE_LEADS, QUERY_LEADS, lay_out_turns
from vlcompare.tasks.sequence import prompt_ids
from vlcompare.training.progress import load_state
from vlcompare.types import Request, Sample
from vlcompare.whole_files import whole_file

_DRAWN = 224  # pixels at which held-out scenes are drawn, then reduced
_DISTRACTING = 77  # purpose of the dice that choose distractors
_LONGEST = 96  # ids of a question and its answer
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Questions:
    """Held-out questions: samples, each one's prompt and the place of its picture, and the pictures' features."""

    samples: list[Sample]
    prompts: list[np.ndarray]
    pictures: np.ndarray  # (n,)
    features: np.ndarray  # (pictures, P, C)


def _place(setting: PictureSetting, folder: Folder, size: int, sampling: str) -> Path:
    """Where pictures of a size and a sampling are prepared for a setting's recipe."""
    parts = {setting.recipe: True, str(size): size != OWN_SIZE, sampling: sampling != "balanced"}
    return folder.path / "data" / "-".join(part for part, named in parts.items() if named)


def encoder_of(setting: PictureSetting, folder: Folder, size: int) -> SceneEncoder:
    """The frozen encoder for pictures of `size` pixels; it is finetuned at that size where that has not been done."""
    own = embedded_encoder()
    if size == OWN_SIZE:
        return own
    place, recipe = _place(setting, folder, size, "balanced"), setting.how.training(setting.scale, 0, size)
    with folder.lock(f"{place.name}-encoder"):
        state = place / "encoder.pt"
        if not (state.exists() and load_state(state)["step"] >= recipe.encoder.steps):
            train_encoder(recipe, place, resume=True, begin=own)
            shutil.rmtree(place / "pictures")  # a GB; they are drawn again in seconds where they are trained on
    training = EncoderTraining.fresh(recipe, CPU)
    training.encoder.load_state_dict(load_state(state)["encoder"])
    return training.encoder.eval().requires_grad_(False)


def embedded_encoder() -> SceneEncoder:
    """The embedded pair's vision encoder."""
    from safetensors.torch import load_file

    folder = CHECKPOINTS / EMBEDDED[0]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    encoder = SceneEncoder(SceneEncoderConfig.from_dict(config.get("scene_encoder")))
    tensors = load_file(folder / "model.safetensors")
    encoder.load_state_dict(
        {name: tensors[file_key(f"vision_encoder.model.{name}", "pythia")].float() for name in encoder.state_dict()}
    )
    return encoder.eval().requires_grad_(False)


def distracting(seed: int, stream: str, count: int) -> str:
    """`count` words of the scenes' vocabulary, which say nothing about the picture; a token each."""
    dice = Dice(seed, stream, _DISTRACTING)
    return "".join(f" {dice.one(VOCABULARY)}" for _ in range(count))


def prompting_of(setting: PictureSetting, stream: str, size: int | None = None) -> Prompting:
    """How this setting's questions are asked: ids behind the leading image, or of the whole prompt.

    size: pixels of the pictures; those that are trained on by default.
    """
    recipe = setting.how
    image = prefix_ids((size or setting.image_size) // PATCH).tolist()
    leads = setting.layout in IMAGE_LEADS

    def turns(request: Request, seed: int) -> tuple[str, ...]:
        between = distracting(seed, stream, setting.distractors * len(image))
        whole = lay_out_turns(request, setting.layout, between)
        return whole[1:] if leads else whole

    return Prompting(turns, image, recipe.tasks, 2 * (_LONGEST + len(image)) + setting.distractors * len(image))


def training_set(setting: PictureSetting, folder: Folder) -> TrainingSet:
    """The pictures and questions of a setting, prepared where that has not been done."""
    training, grid = setting.training, setting.image_size // PATCH
    place = _place(setting, folder, setting.image_size, setting.sampling)
    name = f"lessons-{setting.layout}-{setting.distractors}.npz"
    with folder.lock(place.name):
        if not (place / "features" / "features.npy").exists():
            prepare_features(encoder_of(setting, folder, setting.image_size), place, training, CPU)
            shutil.rmtree(place / "pictures")
        if not (place / name).exists():
            store = PictureStore(place / "pictures", training.pictures)
            seeds = [seed for index in range(store.count) for seed in store.seeds(index)]
            prompting = prompting_of(setting, "training")
            lessons = encoded_questions.make_lessons(seeds, grid, prompting, setting.sampling)
            encoded_questions.save(lessons, place / name)
    lessons = encoded_questions.read(place / name)
    stored, arrays = stored_features(place / "features")
    leads, image, shares = setting.layout in IMAGE_LEADS, len(prefix_ids(grid)), setting.layout not in QUERY_LEADS
    inside = {"image_first": 0, "image_twice": 1}.get(setting.layout, 1) + setting.distractors
    return TrainingSet(lessons, stored, arrays, setting.seed, image_leads=leads, beside=inside * image, shares=shares)


def questions(setting: PictureSetting, folder: Folder) -> Questions:
    """The held-out questions in a setting's layout; features are encoded where that has not been done."""
    size = setting.asked_size
    path = _place(setting, folder, size, setting.asked_sampling) / "held-out.npy"
    with folder.lock(path.parent.name):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial, partial.open("wb") as file:
                np.save(file, _encoded(encoder_of(setting, folder, size), setting))
    prompting, encode = prompting_of(setting, "evaluation", size), encoded_questions.encoder()
    samples: list[Sample] = []
    prompts, pictures = [], []
    for place, (scene, asked) in enumerate(held_out(setting, 64)):
        for sample in asked:
            turns = prompting.turns(encoded_questions.request_of(sample), scene.seed)
            prompts.append(np.array(prompt_ids(turns, encode, prompting.image), np.int64))
            pictures.append(place)
            samples.append(sample)
    return Questions(samples, prompts, np.array(pictures), np.load(path))


def held_out(setting: PictureSetting, pixels: int) -> Iterator[tuple[Scene, list[Sample]]]:
    """The held-out scenes, drawn at `pixels`, with the questions about each."""
    recipe = setting.how
    for seed in recipe.seeds:
        yield from evaluation_scenes(recipe.scenes, seed, pixels, recipe.tasks, setting.asked_sampling)


@torch.no_grad()
def _encoded(encoder: SceneEncoder, setting: PictureSetting) -> np.ndarray:
    """Features (pictures, P, C) of all held-out scenes."""
    size, parts = setting.asked_size, []
    for scene, _ in held_out(setting, _DRAWN):
        pixels = np.asarray(scene.image.resize((size, size), Image.Resampling.BILINEAR), np.uint8)
        parts.append(encoder(torch.from_numpy(normalised(pixels[None]))).half().numpy())
    return np.concatenate(parts)
