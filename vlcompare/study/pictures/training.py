"""Train and measure one row on pictures: the embedded pair's own trainer, resumable, evaluated on held-out scenes.

A row that is tested on other pictures than it was trained on asks the model of the row that is tested as trained, where
the folder has it; else it trains the same model again.

One thread a row. Both families of a pair see the same pictures, questions and order: a batch follows from step and
seed. Nothing random happens after the first moment, so a row that goes on from a saved state ends in the same bits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model

from vlcompare.errors import CheckpointError
from vlcompare.evaluate.summary import evaluate
from vlcompare.study.pictures.data import Questions, questions, training_set
from vlcompare.study.pictures.floors import SIDE, floor_answers, right_digits
from vlcompare.study.pictures.grids import KIND
from vlcompare.study.pictures.settings import PictureSetting
from vlcompare.study.rows import VERSION, Folder
from vlcompare.study.train import one_thread
from vlcompare.synth.train.held_out_probe import greedy, text_of
from vlcompare.synth.train.language import LanguageTraining, train_step
from vlcompare.synth.train.learner import Learner
from vlcompare.tasks.layouts import IMAGE_LEADS
from vlcompare.tasks.prompts import SPECS
from vlcompare.training.progress import load_state, save_state, unbroken, whole_tensors

Steps = Callable[[int, float, float], None]  # steps done, seconds, the answers' loss
_AT_ONCE = 50  # prompts that are answered together


@dataclass(frozen=True)
class Model:
    """A trained language model with its connector, and how its training went."""

    learner: Learner
    steps: int
    curve: list[list[float]]  # steps, the answers' loss


def train_picture_row(
    setting: PictureSetting, folder: Folder, device: torch.device, report: Steps = lambda steps, seconds, loss: None
) -> dict[str, Any]:
    """Train a row from nothing, or from its saved state; the row and its model are in the folder afterwards.

    After a kill the state of some steps before is there; a Ctrl-C saves that of the last step.
    """
    with one_thread():
        asked = questions(setting, folder)
        clock = time.process_time if device.type == "cpu" else time.monotonic
        begun = clock()
        weights, trained_before = folder.weights_path(setting.trained), 0.0
        if setting != setting.trained and weights.exists():
            model = load_picture_model(weights, setting, asked.features.shape[2], device)
        else:
            training, curve = _trained(setting, folder, device, report)
            begun, trained_before = clock(), training.seconds
            model = Model(training.learner, training.step, curve)
            save_picture_model(weights, model)
        row = {
            "kind": KIND,
            **asdict(setting),
            "parameters": model.learner.shipped_parameters(),
            "steps": model.steps,
            "questions": setting.how.asked,
            "tasks": answered(model.learner, asked, setting, device),
            "curve": model.curve,
            "seconds": round(trained_before + clock() - begun, 1),
            "device": device.type,
            "version": VERSION,
        }
        folder.append(row)
    folder.state_path(setting).unlink(missing_ok=True)
    return row


def _trained(
    setting: PictureSetting, folder: Folder, device: torch.device, report: Steps
) -> tuple[LanguageTraining, list[list[float]]]:
    """The whole training and its curve."""
    how, recipe, state_path = setting.how, setting.training, folder.state_path(setting)
    corpus = training_set(setting, folder)
    training = LanguageTraining.fresh(setting.family, recipe, corpus.width, device)
    curve = _restored(training, state_path) if state_path.exists() else []
    clock = time.process_time if device.type == "cpu" else time.monotonic
    begun = clock() - training.seconds
    losses: list[float] = []

    def save() -> None:
        save_state(state_path, {"version": VERSION, "curve": curve, **training.state()})

    try:
        while training.step < how.steps:
            with unbroken():  # training cannot resume from the state of half a step
                found = train_step(training, corpus, recipe, how.steps, device)
                losses.append(found["answer"].item())
                training.seconds = clock() - begun
            if training.step % how.save_every == 0 or training.step == how.steps:
                curve.append([training.step, round(losses[-1], 4)])
                losses.clear()
                save()
                report(training.step, training.seconds, curve[-1][1])
    except KeyboardInterrupt:
        save()
        raise
    return training, curve


def save_picture_model(path: Path, model: Model) -> None:
    """Write a finished row's model; its metadata say how the training went."""
    with whole_tensors(path) as partial:
        save_model(model.learner, str(partial), {"steps": str(model.steps), "curve": json.dumps(model.curve)})


def load_picture_model(path: Path, setting: PictureSetting, feature_width: int, device: torch.device) -> Model:
    """The model that `save_picture_model` wrote. Raises CheckpointError where the file is damaged or another's."""
    learner = Learner(setting.family, setting.training, feature_width)
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
        load_model(learner, path)
        return Model(learner.to(device), int(said["steps"]), json.loads(said["curve"]))
    except (SafetensorError, RuntimeError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not the model of this row; delete it, and the row trains its own.") from error


def _restored(training: LanguageTraining, path: Path) -> list[list[float]]:
    """Put a saved state into the training; returns its curve. Raises CheckpointError where it does not fit."""
    state = load_state(path)
    try:
        if state["version"] != VERSION:
            raise ValueError(f"of version {state['version']}")
        training.restore(state)
        return state["curve"]
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a state of this row; delete it, and the row begins anew.") from error


def answered(
    learner: Learner, asked: Questions, setting: PictureSetting, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Answer and score the held-out questions; per task what `paired` figures need of every question, compactly.

    {"metric", "right": a 0 or 1 for each question, in order, "floor": the same of the most frequent answers,
    "per_picture": how many questions each picture has, in base 36, "types": the type of each question as a letter,
    "names": of the types}
    """
    texts: dict[str, str] = {}
    leads = setting.layout in IMAGE_LEADS
    order = np.argsort([len(prompt) for prompt in asked.prompts], kind="stable")
    for group in np.array_split(order, max(1, len(order) // _AT_ONCE)):
        features = torch.from_numpy(asked.features[asked.pictures[group]]).float().to(device)
        found = greedy(learner, features, [asked.prompts[i] for i in group], image_leads=leads)
        texts |= {asked.samples[i].id: text_of(ids) for i, ids in zip(group, found, strict=True)}
    answers = {name: {"id": name, "text": text} for name, text in texts.items()}
    out = {}
    for result in evaluate(asked.samples, {"own": answers, SIDE: floor_answers(setting, asked.samples)}):
        kinds = [str(sample.tags.get("type")) for sample in result.samples]
        names = sorted(set(kinds))
        out[result.task] = {
            "group": SPECS[result.task].group,
            "metric": result.scores["own"].main,
            "right": right_digits(result, "own"),
            SIDE: right_digits(result, SIDE),
            "per_picture": "".join(np.base_repr(len(list(run)), 36) for _, run in groupby(result.clusters.tolist())),
            "types": "".join(chr(ord("a") + names.index(kind)) for kind in kinds),
            "names": names,
        }
    return out
