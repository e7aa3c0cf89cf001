"""Train and measure one row: deterministic, evaluated at fixed counts of examples, resumable at any of its steps.

One thread a row, so that a row's numbers do not depend on what else runs. Nothing random happens after the first
moment: items come by their index. So a row that goes on from a saved state ends in the same bits.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlcompare.errors import CheckpointError
from vlcompare.study import models
from vlcompare.study.recipe import RECIPES
from vlcompare.study.rows import VERSION, Folder, Setting, row_of
from vlcompare.study.streams import Stream
from vlcompare.study.tasks import MAX_POSITIONS, Items, ItemSource
from vlcompare.study.weights import save_weights
from vlcompare.training.kernels import try_in_other_processes
from vlcompare.training.optim import set_rates
from vlcompare.training.progress import load_state, save_state, unbroken

ENOUGH = 0.95  # accuracy at which a training stops
FACTORS = (2, 4)  # extrapolation: to this many times the trained length
_AT_ONCE = 256  # items of an evaluation that go through the model together
_SEED = 0  # of the evaluation streams: all rows answer the same items

TrainingCallback = Callable[["Training"], None]


class Training:
    """All that is needed to go on with one row."""

    def __init__(self, setting: Setting, device: torch.device) -> None:
        self.setting, self.device = setting, device
        self.recipe = RECIPES[setting.recipe]
        self.source = setting.source
        torch.manual_seed(setting.seed)
        self.model = models.build(
            setting.family, self.source.tokens, setting.width, setting.layers, setting.state_size or 1, self.recipe
        )
        models.begin(self.model, setting.seed, self.recipe)
        self.model.to(device)
        try_in_other_processes(device)
        self.optimizers = models.optimizers(self.model, setting.learning_rate, self.recipe)
        self.steps, self.examples, self.seconds = 0, 0, 0.0
        self.curve: list[list[float]] = []
        self._measured = self.source.items(_SEED, Stream.EVALUATION, 0, self.recipe.evaluation)

    @property
    def reached(self) -> int | None:
        """Examples at which .95 was reached."""
        return self.examples if self.curve and self.curve[-1][1] >= ENOUGH else None

    @property
    def finished(self) -> bool:
        return self.reached is not None or self.examples >= self.setting.budget

    def step(self) -> None:
        """One optimiser step, and an evaluation where one is due."""
        recipe, before = self.recipe, self.examples
        count = min(recipe.batch, self.setting.budget - before)
        items = self.source.items(self.setting.seed, Stream.TRAINING, before, count)
        set_rates(self.optimizers, recipe.factor(self.steps))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = models.loss(self.model, items, self.device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps, self.examples = self.steps + 1, before + count
        due = self.examples // recipe.evaluate_every > before // recipe.evaluate_every
        if due or self.examples == self.setting.budget:
            right = self.right(self._measured)
            self.curve.append([self.examples, round(float(self._per_item(right).mean()), 4)])

    @torch.no_grad()
    def right(self, items: Items) -> np.ndarray:
        """(B, A): which answers are the likeliest token of all."""
        found = []
        for start in range(0, len(items.ids), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            chunk = Items(items.ids[part], items.columns, items.answers[part], items.places[part])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                logits, answers = models.scores(self.model, chunk, self.device)
            found.append((logits.argmax(-1) == answers).cpu().numpy())
        return np.concatenate(found)

    def _per_item(self, right: np.ndarray) -> np.ndarray:
        """What is counted: items right as a whole, or each answer."""
        return np.all(right, axis=1, keepdims=True) if self.source.row.whole else right

    def results(self) -> dict[str, Any]:
        """The measurements of a finished row, on items that did not decide when it stopped."""
        items = self.source.items(_SEED, Stream.EVALUATION, self.recipe.evaluation, self.recipe.final)
        counted = self._per_item(self.right(items))
        places = items.places[:, : counted.shape[1]]
        return {
            "parameters": models.parameters(self.model),
            "examples": self.examples,
            "reached": self.reached,
            "accuracy": round(float(counted.mean()), 4),
            "by_position": [
                round(float(counted[places == place].mean()), 4) if (places == place).any() else None
                for place in range(self.source.places)
            ],
            "extrapolation": {str(longer.length): self._accuracy(longer) for longer in longer_sources(self.source)},
            "curve": self.curve,
            "seconds": round(self.seconds, 1),
            "device": str(self.device.type),
        }

    def _accuracy(self, source: ItemSource) -> float:
        items = source.items(_SEED, Stream.EVALUATION, 0, self.recipe.evaluation)
        return round(float(self._per_item(self.right(items)).mean()), 4)

    def state(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "steps": self.steps,
            "examples": self.examples,
            "seconds": self.seconds,
            "curve": self.curve,
        }

    def restore(self, path: Path) -> None:
        """Go on from a saved state. Raises CheckpointError where it does not fit."""
        state = load_state(path)
        try:
            if state["version"] != VERSION:
                raise ValueError(f"of version {state['version']}")
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.steps, self.examples = state["steps"], state["examples"]
            self.seconds, self.curve = state["seconds"], state["curve"]
        except (RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path} is not a state of this row; delete it, and the row begins anew.") from error


def longer_sources(source: ItemSource) -> list[ItemSource]:
    """The same task at longer lengths, as far as its symbols and the models' positions go.

    Where answers are places, only those are asked about that were trained: no model can know the others' tokens.
    """
    out = []
    for length in (factor * source.length for factor in FACTORS):
        task = source.row
        if task.text(length) <= MAX_POSITIONS and source.vocabulary >= task.symbols(length):
            within = source.length if task.answers_are_places else 0
            out.append(ItemSource(source.task, source.order, length, source.vocabulary, within))
    return out


@contextmanager
def one_thread() -> Iterator[None]:
    """torch's operations inside use one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_row(
    setting: Setting, folder: Folder, device: torch.device, report: TrainingCallback = lambda training: None
) -> dict:
    """Train a row from nothing, or from its saved state; its weights and then the row are in the folder afterwards.

    After a kill the state of the last evaluation is there; a Ctrl-C saves that of the last step.
    """
    state_path = folder.state_path(setting)
    with one_thread():
        training = Training(setting, device)
        if state_path.exists():
            training.restore(state_path)
        # on a CPU the processor's own time: pauses and other processes say nothing about the row
        clock = time.process_time if device.type == "cpu" else time.monotonic
        begun = clock() - training.seconds
        try:
            while not training.finished:
                evaluations = len(training.curve)
                with unbroken():  # training cannot resume from the state of half a step
                    training.step()
                    training.seconds = clock() - begun
                if len(training.curve) > evaluations:
                    save_state(state_path, training.state())
                    report(training)
        except KeyboardInterrupt:
            save_state(state_path, training.state())
            raise
        row = row_of(setting, training.results())
        save_weights(training.model, folder.weights_path(setting), row)
        folder.append(row)
    state_path.unlink(missing_ok=True)
    return row
