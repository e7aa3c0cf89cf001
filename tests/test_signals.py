"""Real signals to the first process of a command that has others: all end, states are kept, one line is said."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from vlcompare.study import run as study_run
from vlcompare.study.grid import open_grid
from vlcompare.synth.train import pictures

ROOT = Path(__file__).parents[1]
COMMANDS: dict[str, tuple[list[str], list[str], list[str]]] = {  # arguments, files to wait for, states that stay
    "encoder": (["train", "--recipe", "smoke"], ["encoder.jsonl"], ["encoder.pt"]),
    "models": (["train", "--recipe", "smoke"], ["pythia.jsonl", "mamba.jsonl"], ["pythia.pt", "mamba.pt"]),
    "study": (["study", "run", "quick", "--jobs", "2"], ["states/*pythia*.pt"], ["states/*pythia*.pt"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", COMMANDS)
def test_processes_end_with_their_parent_and_keep_their_states(name: str, number: int, tmp_path: Path) -> None:
    arguments, awaited, kept = COMMANDS[name]
    log, out = tmp_path / "log", tmp_path / "out"
    with open(log, "wb") as file:
        parent = subprocess.Popen(
            [sys.executable, "-m", "vlcompare", *arguments, "--out", str(out)],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # no terminal, whose Ctrl-C would reach all of them
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    deadline = time.monotonic() + 300
    while not all(list(out.glob(pattern)) for pattern in awaited) and time.monotonic() < deadline:
        assert parent.poll() is None, log.read_text()
        time.sleep(0.05)
    started = psutil.Process(parent.pid).children(recursive=True)
    os.kill(parent.pid, number)
    try:
        assert parent.wait(150) == 130
        _, left = psutil.wait_procs(started, 60)
    finally:
        parent.kill()
        for process in started:
            if process.is_running():
                process.kill()
    assert not left
    assert all(list(out.glob(pattern)) for pattern in kept)
    said = log.read_text()
    assert "Traceback" not in said and said.splitlines().count("vlcompare: stopped.") >= 1


def test_a_stopped_run_does_not_wait_for_what_its_workers_draw() -> None:
    others = multiprocessing.active_children()
    with pytest.raises(KeyboardInterrupt), pictures.workers(1) as pool:
        pool.submit(os.getpid).result()  # the worker has started
        pool.submit(time.sleep, 3600)
        raise KeyboardInterrupt
    assert [process for process in multiprocessing.active_children() if process not in others] == []


def test_an_interrupted_grid_ends_its_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A terminal's Ctrl-C has reached them; where another's signal has not, they are asked to end, then made to."""
    done: list[str] = []

    class Stubborn:
        exitcode = None

        def __init__(self, **started: Any) -> None:
            self.alive, self.joined = True, 0

        def start(self) -> None:
            done.append("start")

        def join(self, timeout: float | None = None) -> None:
            self.joined += 1
            if timeout is None:
                raise KeyboardInterrupt

        def is_alive(self) -> bool:
            return self.alive

        def terminate(self) -> None:
            done.append("terminate")

        def kill(self) -> None:
            done.append("kill")
            self.alive = False

    class Context:
        Process = Stubborn

    monkeypatch.setattr(study_run.multiprocessing, "get_context", lambda kind: Context)
    with pytest.raises(KeyboardInterrupt):
        study_run._share(open_grid("quick"), tmp_path, "cpu", 2)
    assert done == ["start"] * 2 + ["terminate"] * 2 + ["kill"] * 2
