"""Train and measure one row on pictures: the embedded pair's own trainer, resumable, evaluated on held-out scenes.

One thread a row. Both families of a pair see the same pictures, questions and order: a batch follows from step and
seed. Nothing random happens after the first moment, so a row that goes on from a saved state ends in the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlcompare.errors import CheckpointError
from vlcompare.evaluate.scoring import metric_of
from vlcompare.evaluate.summary import evaluate
from vlcompare.study.pictures.data import Questions, questions, training_set
from vlcompare.study.pictures.grids import KIND
from vlcompare.study.pictures.settings import VERSION, PictureSetting
from vlcompare.study.rows import Folder
from vlcompare.study.train import one_thread
from vlcompare.synth.train.held_out_probe import greedy, text_of
from vlcompare.synth.train.language import LanguageTraining, train_step
from vlcompare.tasks.layouts import IMAGE_LEADS
from vlcompare.tasks.prompts import SPECS
from vlcompare.training.progress import load_state, save_state, unbroken

Steps = Callable[[int, float, float], None]  # steps done, seconds, the answers' loss
_AT_ONCE = 50  # prompts that are answered together


def train_picture_row(
    setting: PictureSetting, folder: Folder, device: torch.device, report: Steps = lambda steps, seconds, loss: None
) -> dict[str, Any]:
    """Train a row from nothing, or from its saved state; the row is in the folder afterwards.

    After a kill the state of some steps before is there; a Ctrl-C saves that of the last step.
    """
    recipe, state_path = setting.how, folder.state_path(setting)
    training_recipe = recipe.training(setting.scale, setting.seed)
    with one_thread():
        corpus = training_set(setting, folder)
        training = LanguageTraining.fresh(setting.family, training_recipe, corpus.width, device)
        curve = _restored(training, state_path) if state_path.exists() else []
        clock = time.process_time if device.type == "cpu" else time.monotonic
        begun = clock() - training.seconds
        losses: list[float] = []

        def save() -> None:
            save_state(state_path, {"version": VERSION, "curve": curve, **training.state()})

        try:
            while training.step < recipe.steps:
                with unbroken():  # training cannot resume from the state of half a step
                    found = train_step(training, corpus, training_recipe, recipe.steps, device)
                    losses.append(found["answer"].item())
                    training.seconds = clock() - begun
                if training.step % recipe.save_every == 0 or training.step == recipe.steps:
                    curve.append([training.step, round(losses[-1], 4)])
                    losses.clear()
                    save()
                    report(training.step, training.seconds, curve[-1][1])
        except KeyboardInterrupt:
            save()
            raise
        row = {
            "kind": KIND,
            **asdict(setting),
            "parameters": training.learner.shipped_parameters(),
            "steps": training.step,
            "questions": recipe.asked,
            "tasks": answered(training, questions(setting, folder), setting, device),
            "curve": curve,
            "seconds": round(clock() - begun, 1),
            "device": device.type,
            "version": VERSION,
        }
        folder.append(row)
    state_path.unlink(missing_ok=True)
    return row


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
    training: LanguageTraining, asked: Questions, setting: PictureSetting, device: torch.device
) -> dict[str, dict[str, Any]]:
    """Answer and score the held-out questions; per task what `paired` figures need of every question, compactly.

    {"metric", "right": a 0 or 1 for each question, in order, "per_picture": how many of them each picture has, in
    base 36, "types": the type of each question as a letter, "names": of the types}
    """
    texts: dict[str, str] = {}
    leads = setting.layout in IMAGE_LEADS
    order = np.argsort([len(prompt) for prompt in asked.prompts], kind="stable")
    for group in np.array_split(order, max(1, len(order) // _AT_ONCE)):
        features = torch.from_numpy(asked.features[asked.pictures[group]]).float().to(device)
        found = greedy(training.learner, features, [asked.prompts[i] for i in group], image_leads=leads)
        texts |= {asked.samples[i].id: text_of(ids) for i, ids in zip(group, found, strict=True)}
    rows = {"own": {name: {"id": name, "text": text} for name, text in texts.items()}}
    out = {}
    for result in evaluate(asked.samples, rows):
        scores = result.scores["own"]
        least = metric_of(result.task, scores.main).right_at
        right = scores.values[scores.main] >= least - 1e-9
        kinds = [str(sample.tags.get("type")) for sample in result.samples]
        names = sorted(set(kinds))
        out[result.task] = {
            "group": SPECS[result.task].group,
            "metric": scores.main,
            "right": "".join(map(str, right.astype(int).tolist())),
            "per_picture": "".join(np.base_repr(len(list(run)), 36) for _, run in groupby(result.clusters.tolist())),
            "types": "".join(chr(ord("a") + names.index(kind)) for kind in kinds),
            "names": names,
        }
    return out
