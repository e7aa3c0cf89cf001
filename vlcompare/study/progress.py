"""What is said while a grid is trained: how far a row is, and how long the rest may take, on a CPU in its own time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch

from vlcompare.study import estimate
from vlcompare.study.grid import AnyGrid, AnySetting, missing
from vlcompare.study.pictures.settings import PictureSetting, picture_setting_of
from vlcompare.study.pictures.work import picture_work, preparation_work
from vlcompare.study.rows import Setting, setting_of
from vlcompare.study.train import Training
from vlcompare.types import Notify
from vlcompare.units import how_many

_SELDOM = 5.0  # seconds between two lines of progress


def whole_work(setting: AnySetting) -> float:
    """The cost of a row that uses its budget up, in floating-point operations of a Transformer that takes as long."""
    return estimate.work(setting, setting.budget) if isinstance(setting, Setting) else picture_work(setting)


def estimated_seconds(settings: Iterable[AnySetting], device: torch.device) -> float:
    """A rough guess at the seconds one process takes for whole budgets, from the pace of a product measured now."""
    settings = list(settings)
    shared = preparation_work([setting for setting in settings if isinstance(setting, PictureSetting)])
    return (sum(map(whole_work, settings)) + shared) / estimate.pace(device)


class RowProgress:
    """One line now and then: `passing` is told of the row that is trained, `say` of those that are finished."""

    def __init__(self, grid: AnyGrid, finished: dict[str, dict[str, Any]], say: Notify, passing: Notify) -> None:
        self._grid, self._finished, self._say, self._passing = grid, finished, say, passing
        self._last = 0.0
        self._begun: tuple[int, float] | None = None

    def sequences(self, training: Training) -> None:
        """How far a training on sequences is."""
        begun = self._begun = self._begun or (training.examples, training.seconds)
        if time.monotonic() - self._last < _SELDOM and not training.finished:
            return
        self._last = time.monotonic()
        examples, seconds = training.examples - begun[0], training.seconds - begun[1]
        pace = f", {examples / seconds:,.0f} a second" if examples and seconds else ""
        self._passing(f"  {training.examples:,} examples, accuracy {training.curve[-1][1]:.3f}{pace}")

    def pictures(self, steps: int, seconds: float, loss: float) -> None:
        """How far a training on pictures is."""
        begun = self._begun = self._begun or (steps, seconds)
        if time.monotonic() - self._last < _SELDOM:
            return
        self._last = time.monotonic()
        pace = f", {(seconds - begun[1]) / (steps - begun[0]):.2f} s a step" if steps > begun[0] else ""
        self._passing(f"  {steps:,} steps, loss {loss:.3f}{pace}")

    def done(self, setting: AnySetting, row: dict[str, Any]) -> None:
        """Report a finished row, and the time left if all others take their whole budgets at the pace so far."""
        self._finished[setting.id] = row
        known = [(_work_done(done), done["seconds"]) for done in self._finished.values()]
        pace = sum(seconds for _, seconds in known) / sum(amount for amount, _ in known)
        left = missing(self._grid, self._finished)
        rest = f"; the rest takes at most {duration(pace * sum(map(whole_work, left)))} of one {row['device']}"
        count = len(self._grid.entries)
        self._say(f"[{count - len(left)}/{count}] {setting}: {_result(row)}{rest if left else ''}")


def _work_done(row: dict[str, Any]) -> float:
    if "examples" in row:
        return estimate.work(setting_of(row), row["examples"])
    return picture_work(picture_setting_of(row))


def _result(row: dict[str, Any]) -> str:
    if "tasks" in row:
        shares = {task: found["right"].count("1") / len(found["right"]) for task, found in row["tasks"].items()}
        return ", ".join(f"{task} {share:.2f}" for task, share in shares.items())
    reached = "not reached" if row["reached"] is None else f".95 after {row['reached']:,}"
    return f"{reached} (accuracy {row['accuracy']:.3f})"


def duration(seconds: float) -> str:
    """A rough span of time in words."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return how_many(max(1, round(seconds)), "second")
