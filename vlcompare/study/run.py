"""Run a grid: claim a row, train it, go on with the next; any number of processes share a folder.

A row is claimed by a lock that dies with its process.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout

from vlcompare import terminal
from vlcompare.errors import RequestError, VLCompareError
from vlcompare.study.estimate import work
from vlcompare.study.grid import Grid, grid_of
from vlcompare.study.rows import Folder, Setting, setting_of
from vlcompare.study.train import Training, train_row
from vlcompare.types import Notify

_PATIENCE = 2.0  # seconds between two reads of what other processes have finished
_TERMINAL = 2.0  # seconds for a process that a terminal's Ctrl-C has reached to end by itself
_SAVING = 60.0  # seconds that a process has for ending its step and saving its row
_SELDOM = 5.0  # seconds between two lines of progress


def _say(text: str) -> None:
    terminal.status("")
    print(text, file=sys.stderr, flush=True)


def run_grid(grid: Grid, out: Path, *, device: str = "cpu", jobs: int = 1, say: Notify = _say) -> int:
    """Train all rows that are not finished; returns how many the folder now holds of this grid.

    With `jobs` > 1 that many processes share the work, as do all that are started on the same folder. Raises
    RequestError for a device that is not there, SampleError for a folder of another version or with damaged rows.
    """
    target = device_of(device)
    if jobs < 1:
        raise RequestError(f"jobs is a whole number above 0, not {jobs}.")
    folder = Folder(out)
    folder.begin(grid.as_json())
    if jobs == 1:
        work_off(grid, folder, target, say)
    else:
        _share(grid, out, device, jobs)
    finished = folder.finished()
    settings = [entry.setting(finished) for entry in grid.entries]
    return sum(setting is not None and setting.id in finished for setting in settings)


def device_of(wanted: str) -> torch.device:
    """The device; "cuda" is this process' own one under a launcher."""
    if wanted != "cpu" and not re.fullmatch(r"cuda(:\d+)?", wanted):
        raise RequestError(f"device is cpu, cuda, or cuda:N, not '{wanted}'.")
    if wanted == "cpu":
        return torch.device(wanted)
    if not torch.cuda.is_available():
        raise RequestError("There is no CUDA device here; use --device cpu.")
    if wanted == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK") or 0) % torch.cuda.device_count())
    device = torch.device(wanted)
    if device.index >= torch.cuda.device_count():
        raise RequestError(f"There is no {wanted} here; this machine has {torch.cuda.device_count()}.")
    return device


def work_off(grid: Grid, folder: Folder, device: torch.device, say: Notify = _say) -> None:
    """Train one free row after another until none is left, waiting for those that other processes train."""
    while True:
        held, finished = False, folder.finished()  # held: by another process, which may die
        for entry in grid.entries:
            setting = entry.setting(finished)
            if setting is None:
                held = True
            elif setting.id not in finished:
                trained = _claim(setting, grid, folder, device, say)
                held |= not trained
                if trained:
                    break
        else:
            if not held:
                return
            time.sleep(_PATIENCE)


def _claim(setting: Setting, grid: Grid, folder: Folder, device: torch.device, say: Notify) -> bool:
    """Train a row, unless another process trains it or has just finished it."""
    try:
        with folder.lock(setting.id).acquire(timeout=0):
            finished = folder.finished()
            if setting.id not in finished:
                progress = RowProgress(grid, finished, say)
                row = train_row(setting, folder, device, progress)
                progress.done(setting, row)
            return True
    except Timeout:
        return False


def _share(grid: Grid, out: Path, device: str, jobs: int) -> None:
    """Start `jobs` processes and wait for them. Where this one is interrupted, each saves its row and ends."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_worker, args=(grid.as_json(), str(out), device)) for _ in range(jobs)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for patience, end in ((_TERMINAL, "terminate"), (_SAVING, "kill")):
            for process in processes:
                process.join(patience)
                if process.is_alive():
                    getattr(process, end)()
        raise
    failed = [process.exitcode for process in processes if process.exitcode]
    if failed:
        raise RequestError(f"{len(failed)} of {jobs} processes ended early (see above); the same command goes on.")


def _worker(grid: dict[str, Any], out: str, device: str) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the parent's request to end
    try:
        work_off(grid_of(grid), Folder(Path(out)), device_of(device))
    except VLCompareError as error:
        _say(f"vlcompare: {error}")
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


class RowProgress:
    """One line now and then: how far a row is, and how long the rest may take, on a CPU in its own time."""

    def __init__(self, grid: Grid, finished: dict[str, dict[str, Any]], say: Notify) -> None:
        self._grid, self._finished, self._say = grid, finished, say
        # on a terminal a line on the row that is trained replaces the one before
        self._passing = terminal.status if say is _say and sys.stderr.isatty() else say
        self._last = 0.0
        self._begun: tuple[int, float] | None = None

    def __call__(self, training: Training) -> None:
        begun = self._begun = self._begun or (training.examples, training.seconds)
        if time.monotonic() - self._last < _SELDOM and not training.finished:
            return
        self._last = time.monotonic()
        examples, seconds = training.examples - begun[0], training.seconds - begun[1]
        pace = f", {examples / seconds:,.0f} a second" if examples and seconds else ""
        self._passing(f"  {training.examples:,} examples, accuracy {training.curve[-1][1]:.3f}{pace}")

    def done(self, setting: Setting, row: dict[str, Any]) -> None:
        """Report a finished row, and the time left if all others take their whole budgets at the pace so far."""
        self._finished[setting.id] = row
        known = [(work(setting_of(done), done["examples"]), done["seconds"]) for done in self._finished.values()]
        pace = sum(seconds for _, seconds in known) / sum(amount for amount, _ in known)
        left = [s for s in (entry.setting(self._finished) or entry.provisional for entry in self._grid.entries)
                 if s.id not in self._finished]  # fmt: skip
        rest = pace * sum(work(other, other.budget) for other in left)
        count = len(self._grid.entries)
        result = "not reached" if row["reached"] is None else f".95 after {row['reached']:,}"
        self._say(
            f"[{count - len(left)}/{count}] {setting}: {result} (accuracy {row['accuracy']:.3f}); the rest takes at "
            f"most {duration(rest)} of one {row['device']}"
        )


def duration(seconds: float) -> str:
    """A rough span of time in words."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
