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
from vlcompare.study.grid import AnyGrid, AnySetting, grid_of, missing
from vlcompare.study.pictures.folder import PictureFolder
from vlcompare.study.pictures.grids import PictureGrid
from vlcompare.study.pictures.training import train_picture_row
from vlcompare.study.progress import RowProgress
from vlcompare.study.rows import Folder, Setting
from vlcompare.study.train import train_row
from vlcompare.training.progress import writing_to
from vlcompare.types import Notify

_PATIENCE = 2.0  # seconds between two reads of what other processes have finished
_TERMINAL = 2.0  # seconds for a process that a terminal's Ctrl-C has reached to end by itself
_SAVING = 60.0  # seconds that a process has for ending its step and saving its row


def _say(text: str) -> None:
    terminal.status("")
    print(text, file=sys.stderr, flush=True)


def run_grid(grid: AnyGrid, out: Path, *, device: str = "cpu", jobs: int = 1, say: Notify = _say) -> int:
    """Train all rows that are not finished; returns how many the folder now holds of this grid.

    With `jobs` > 1 that many processes share the work, as do all that are started on the same folder. Raises
    RequestError for a device that is not there, SampleError for a folder of another version or with damaged rows,
    CheckpointError for one that cannot be written to.
    """
    target = device_of(device)
    if jobs < 1:
        raise RequestError(f"jobs is a whole number above 0, not {jobs}.")
    with writing_to(out):
        folder = folder_of(grid, out)
        folder.begin(grid.as_json())
        if jobs == 1:
            work_off(grid, folder, target, say)
        else:
            _share(grid, out, device, jobs)
    return len(grid.entries) - len(unfinished(grid, out))


def unfinished(grid: AnyGrid, out: Path) -> list[AnySetting]:
    """The rows of a grid that a folder does not hold. Raises SampleError where it holds damaged rows."""
    return missing(grid, folder_of(grid, out).finished() if (out / "rows.jsonl").is_file() else {})


def folder_of(grid: AnyGrid, out: Path) -> Folder:
    """The folder in which rows of this grid's kind are gathered."""
    return PictureFolder(out) if isinstance(grid, PictureGrid) else Folder(out)


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


def work_off(grid: AnyGrid, folder: Folder, device: torch.device, say: Notify = _say) -> None:
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


def _claim(setting: AnySetting, grid: AnyGrid, folder: Folder, device: torch.device, say: Notify) -> bool:
    """Train a row, unless another process trains it or has just finished it."""
    try:
        with folder.lock(setting.id).acquire(timeout=0):
            finished = folder.finished()
            if setting.id not in finished:
                # on a terminal a line on the row that is trained replaces the one before
                passing = terminal.status if say is _say and sys.stderr.isatty() else say
                progress = RowProgress(grid, finished, say, passing)
                if isinstance(setting, Setting):
                    row = train_row(setting, folder, device, progress.sequences)
                else:
                    row = train_picture_row(setting, folder, device, progress.pictures)
                progress.done(setting, row)
            return True
    except Timeout:
        return False


def _share(grid: AnyGrid, out: Path, device: str, jobs: int) -> None:
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
        asked = grid_of(grid)
        with writing_to(Path(out)):
            work_off(asked, folder_of(asked, Path(out)), device_of(device))
    except VLCompareError as error:
        _say(f"vlcompare: {error}")
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
