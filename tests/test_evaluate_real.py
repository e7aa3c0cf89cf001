"""The runner with the real engine and tiny random checkpoints: batches, SIGKILL and resuming, processes.

Runs are made in children of a fork server that has everything imported, so that one more run takes about a second.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import write_checkpoint

from vlcompare.cli import main
from vlcompare.evaluate.processes import ALONE, started_alone

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered samples and one checkpoint of each family."""
    root = tmp_path_factory.mktemp("evaluate")
    assert main(["scenes", str(root / "data"), "--count", "3", "--seed", "3"]) == 0
    for family in ("pythia", "mamba"):
        (root / family).mkdir()
        write_checkpoint(root / family, family)
    return root


@pytest.fixture(scope="module")
def server() -> Any:
    context = multiprocessing.get_context("forkserver")
    names = ("cli.evaluate", "evaluate.score", "evaluate.run", "runtime.batch", "runtime.load", "models.vlm")
    context.set_forkserver_preload([f"vlcompare.{name}" for name in names])
    return context


def line(world: Path, out: str, *more: str) -> list[str]:
    given = ["--left", str(world / "pythia"), "--right", str(world / "mamba"), "--max-new-tokens", "6", "--no-progress"]
    return ["evaluate", str(world / "data" / "samples.jsonl"), *given, "--out", str(world / out), *more]


def answers(folder: Path) -> list[tuple[Any, ...]]:
    """Everything of each row but times and memory."""
    rows = map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())
    names = ("side", "id", "text", "boxes", "phrases", "parse", "stop_reason", "error", "tokens")
    return [tuple(row[name] for name in names) for row in rows]


def said(folder: Path) -> list[tuple[Any, ...]]:
    """The same with the tokens' ids alone."""
    return [(*row[:-1], [token["id"] for token in row[-1]]) for row in answers(folder)]


def assert_alike(folder: Path, other: Path) -> None:
    """The same answers token by token. Log-probabilities may differ in their last digits: a sum is rounded by the order
    in which it is taken, which depends on how rows share a batch and on the number of threads."""
    assert said(folder) == said(other)
    tokens = [[row[-1] for row in answers(one)] for one in (folder, other)]
    gaps = [abs(a["logprob"] - b["logprob"]) for x, y in zip(*tokens, strict=True) for a, b in zip(x, y, strict=True)]
    assert max(gaps) < 1e-3


@pytest.fixture(scope="module")
def whole(world: Path) -> Path:
    assert main(line(world, "whole", "--batch-size", "16")) == 0
    return world / "whole"


def test_batches_answer_as_one_by_one(world: Path, whole: Path) -> None:
    assert main(line(world, "single", "--batch-size", "1")) == 0
    assert_alike(world / "single", whole)
    rows = [json.loads(row) for row in (whole / "predictions.jsonl").read_text().splitlines()]
    assert {row["timings"]["mode"] for row in rows} == {"batch"}


def work(command: list[str], delay: float, ends: bool = True) -> None:
    """In a child: run the command slowly, so that it can be killed anywhere, if need be before its end."""
    from vlcompare.runtime import batch

    asked = batch.generate_batch
    if not ends:  # whoever kills it may be late on a busy machine
        importlib.import_module("vlcompare.evaluate.run")._finish = lambda *given: time.sleep(60)  # type: ignore

    def slowly(*args: Any, **options: Any) -> Any:
        time.sleep(delay)
        return asked(*args, **options)

    batch.generate_batch = slowly  # type: ignore[assignment]
    main(command)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_random_points_and_resumed_it_is_the_same_run(
    world: Path, whole: Path, server: Any, seed: int
) -> None:
    dice, out = random.Random(seed), f"killed-{seed}"
    command = line(world, out, "--batch-size", "16")
    target = len(answers(whole))
    for wanted in sorted(dice.sample(range(1, target), seed)):
        child = server.Process(target=work, args=(command, 0.05, False))
        child.start()
        path = world / out / "predictions.jsonl"
        while child.is_alive() and (not path.exists() or path.read_bytes().count(b"\n") < wanted):
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert not (world / out / "summary.json").exists()
        command = line(world, out, "--batch-size", "16", "--resume")
    if seed == 1:  # and a machine that dies within a line
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 7)
    child = server.Process(target=work, args=(command, 0.0))
    child.start()
    child.join()
    assert_alike(world / out, whole)
    assert (world / out / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()


@pytest.mark.slow
def test_two_processes_of_accelerate_are_one_run(world: Path, whole: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    launch += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "0", "-m", "vlcompare", *line(world, "two", "--batch-size", "16")]
    done = subprocess.run([*launch, "--device", "cpu"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_alike(world / "two", whole)
    assert (world / "two" / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
    record = json.loads((world / "two" / "run.json").read_text())
    assert record["sessions"][0]["processes"] == 2
    assert not list((world / "two").glob("predictions.rank-*"))


@pytest.mark.parametrize(
    ("environment", "alone"),
    [
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, True),  # --cpu --num_processes 2, no mpirun
        ({"ACCELERATE_USE_CPU": "True"}, False),  # one process was wanted
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "PMI_SIZE": "2"}, False),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, False),
        ({}, False),
    ],
)
def test_a_launcher_that_started_one_of_several_is_noticed(environment: dict[str, str], alone: bool) -> None:
    assert started_alone(environment) == alone
    assert "--multi_gpu" in ALONE
