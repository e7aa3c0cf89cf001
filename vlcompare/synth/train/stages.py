"""The stages of a training run in order, each of which can be run alone, stopped at any moment, and gone on with.

encoder    draw pictures, train the scene encoder on dense truth      -> encoder.pt, encoder.jsonl
features   freeze it: cache its features, ask and encode questions    -> features/
pythia     train a language model and its connector on them           -> pythia.pt, pythia.jsonl
mamba      the same batches, the same number of steps                 -> mamba.pt, mamba.jsonl
export     checkpoint folders in the published layout, with curves    -> OUT/checkpoints (or where asked)
report     held-out scores with their floors, and the model cards      -> scores.json, README.md beside the weights
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vlcompare.errors import CheckpointError, VLCompareError
from vlcompare.machine import threads
from vlcompare.synth.train import recipe as recipes
from vlcompare.synth.train.corpus import prepare_features, prepare_lessons
from vlcompare.synth.train.curves import plot_curves
from vlcompare.synth.train.encoder import EncoderTraining, train_encoder
from vlcompare.synth.train.export import export
from vlcompare.synth.train.language import train_language
from vlcompare.synth.train.recipe import Recipe
from vlcompare.synth.train.scores import write_scores
from vlcompare.training.progress import load_state, refuse_begun, writing_to
from vlcompare.types import FAMILIES
from vlcompare.whole_files import write_whole

STAGES = ("encoder", "features", "pythia", "mamba", "export", "report")
TRAINING = STAGES[:4]  # stages that follow a recipe; the others publish what was trained
LEAST_BUDGET = 0.06  # seconds: less is 0.000 minutes
SAVING = 60  # seconds that a stopped process has for saving its state
PATIENCE = 2  # seconds that a process which a terminal's Ctrl-C has reached is given to end by itself


@dataclass(frozen=True)
class TrainingSettings:
    """One call of the training command."""

    out: Path
    recipe: Recipe
    device: str = "cpu"
    resume: bool = False
    budget_seconds: float | None = None
    threads: int = 1
    checkpoints: Path | None = None  # where export writes; None: OUT/checkpoints


def run_stage(stage: str, settings: TrainingSettings) -> bool:
    """Run one stage. Returns whether it is finished; False means that the budget ran out and `resume` goes on."""
    torch.set_num_threads(min(settings.threads, threads.budget()))
    if stage not in TRAINING:
        return _RUN[stage](stage, settings)
    with _following(settings, [stage]):
        return _RUN[stage](stage, settings)


def run_all(settings: TrainingSettings) -> bool:
    """Every stage; the language models side by side where there is more than one processor core and no GPU.

    With `resume`, stages that are finished are left as they are. Returns whether all is done.
    """
    with _following(settings, TRAINING):
        return _run_all(settings)


def _run_all(settings: TrainingSettings) -> bool:
    deadline = None if settings.budget_seconds is None else time.monotonic() + settings.budget_seconds
    for stage in ("encoder", "features"):
        if not (settings.resume and _finished(stage, settings)) and not run_stage(stage, _left(settings, deadline)):
            return False
    if settings.device == "cpu" and threads.budget() > 1:
        done = _side_by_side(_left(settings, deadline))
    else:
        done = all([run_stage(family, _left(settings, deadline)) for family in FAMILIES])
    return done and run_stage("export", settings) and run_stage("report", settings)


def begun(out: Path) -> bool:
    """Whether a training was begun in this folder: its recipe or a state is there."""
    return (out / "recipe.json").is_file() or any((out / f"{stage}.pt").is_file() for stage in TRAINING)


@contextmanager
def _following(settings: TrainingSettings, stages: Sequence[str]) -> Iterator[None]:
    """Write the recipe that these stages follow. Where one is refused before any state is written, the folder keeps the
    recipe that it had."""
    if not settings.resume:
        for stage in stages:
            refuse_begun(settings.out / f"{stage}.pt")
    path = settings.out / "recipe.json"
    before, states = path.read_bytes() if path.is_file() else None, _state_times(settings.out)
    with writing_to(settings.out):
        settings.out.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(recipes.to_dict(settings.recipe), indent=2))
    try:
        yield
    except VLCompareError:
        if before is not None and _state_times(settings.out) == states:
            write_whole(path, before.decode())
        raise


def _state_times(out: Path) -> list[int]:
    return [path.stat().st_mtime_ns for stage in TRAINING if (path := out / f"{stage}.pt").exists()]


def _left(settings: TrainingSettings, deadline: float | None) -> TrainingSettings:
    return settings if deadline is None else replace(settings, budget_seconds=max(0.0, deadline - time.monotonic()))


def _finished(stage: str, settings: TrainingSettings) -> bool:
    path = settings.out / "encoder.pt"
    if stage == "features":  # those of an encoder that was trained on since are another's
        features = settings.out / "features" / "features.npy"
        return features.exists() and path.exists() and features.stat().st_mtime >= path.stat().st_mtime
    return path.exists() and load_state(path)["step"] >= settings.recipe.encoder.steps


def _side_by_side(settings: TrainingSettings) -> bool:
    """Both families at once, a process each: faster in sum than one after the other on two threads."""
    if settings.budget_seconds is not None and settings.budget_seconds < LEAST_BUDGET:
        return False
    recipe_file = settings.out / "recipe.json"
    command = [sys.executable, "-m", "vlcompare", "train", "--out", str(settings.out), "--recipe", str(recipe_file)]
    each = max(1, min(settings.threads, threads.budget() // len(FAMILIES)))
    command += ["--threads", str(each), *(["--resume"] if settings.resume else [])]
    if settings.budget_seconds is not None:
        command += ["--budget", f"{settings.budget_seconds / 60:.3f}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(each)}
    runs = [subprocess.Popen([*command, "--stage", family], env=environment) for family in FAMILIES]
    try:
        statuses = [run.wait() for run in runs]
    except BaseException:
        _stop(runs)
        raise
    if any(status not in (0, 3) for status in statuses):
        raise CheckpointError(f"A language model's training failed: see above, and its log in {settings.out}.")
    return all(status == 0 for status in statuses)


def _stop(runs: list[subprocess.Popen[bytes]]) -> None:
    """End the processes, each with its state saved: a terminal's Ctrl-C has reached them, another's signal has not."""
    # where this process was started in the background of a script, Ctrl-C is ignored here and there
    stop = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT
    try:
        for patience, send in ((PATIENCE, stop), (SAVING, signal.SIGTERM)):
            for run in runs:
                try:
                    run.wait(patience)
                except subprocess.TimeoutExpired:
                    run.send_signal(send)
    finally:
        for run in runs:
            run.kill()


def _encoder(stage: str, settings: TrainingSettings) -> bool:
    return train_encoder(settings.recipe, settings.out, **_how(settings))


def _features(stage: str, settings: TrainingSettings) -> bool:
    device = torch.device(settings.device)
    training = EncoderTraining.fresh(settings.recipe, device)
    path = settings.out / "encoder.pt"
    if not path.exists():
        raise CheckpointError(f"There is no trained encoder in {settings.out}; run the stage `encoder` first.")
    training.encoder.load_state_dict(load_state(path)["encoder"])
    count = settings.recipe.language.kept_pictures
    prepare_lessons(settings.out, settings.recipe, count)
    prepare_features(training.encoder, settings.out, settings.recipe, device, count)
    return True


def _language(stage: str, settings: TrainingSettings) -> bool:
    return train_language(stage, settings.recipe, settings.out, **_how(settings))


def _how(settings: TrainingSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("device", "resume", "budget_seconds")}


def _export(stage: str, settings: TrainingSettings) -> bool:
    folder = settings.checkpoints or settings.out / "checkpoints"
    trained = [family for family in FAMILIES if (settings.out / f"{family}.pt").exists()]
    if not trained:
        raise CheckpointError(f"There is no trained language model in {settings.out}; run its stage first.")
    for family in trained:
        target = export(family, settings.recipe, settings.out, folder)
        print(f"{family}: written to {target}")
    plot_curves(settings.out, [folder])
    return True


def _report(stage: str, settings: TrainingSettings) -> bool:
    write_scores(settings.checkpoints or settings.out / "checkpoints", settings.out / "report")
    return True


_RUN: dict[str, Callable[[str, TrainingSettings], bool]] = {
    "encoder": _encoder,
    "features": _features,
    "pythia": _language,
    "mamba": _language,
    "export": _export,
    "report": _report,
}
