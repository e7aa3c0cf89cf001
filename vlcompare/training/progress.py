"""What a training run writes while it runs: lines of JSON, and states that replace each other whole."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from vlcompare import terminal
from vlcompare.errors import CheckpointError
from vlcompare.runtime.bounded_files import open_regular
from vlcompare.whole_files import whole_file, write_whole

LARGEST_STATE = 8 << 30  # bytes; the embedded pair's have some 100 MB
STOPPING = (signal.SIGINT, signal.SIGTERM)


class Log:
    """Appends one JSON object a line to a file, and prints it in words behind the file's name: what is trained."""

    def __init__(self, path: Path, *, quiet: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.quiet = path, quiet

    def write(self, **values: Any) -> None:
        """Keep a line, and print it."""
        self._write(values, passing=False)

    def write_passing(self, **values: Any) -> None:
        """As `write`, but on a terminal the next line takes this one's place."""
        self._write(values, passing=True)

    def _write(self, values: dict[str, Any], *, passing: bool) -> None:
        plain = {key: round(value, 5) if isinstance(value, float) else value for key, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")
        if not self.quiet:
            figures = " · ".join(f"{key.replace('_', ' ')} {_figure(value)}" for key, value in plain.items())
            said = f"{self.path.stem}: {figures}"
            if passing and sys.stderr.isatty():
                terminal.status(said)
            else:
                terminal.status("")
                print(terminal.wrapped(said, "  "), flush=True)

    def say(self, sentence: str) -> None:
        """Print a sentence about this training, which is not kept."""
        if not self.quiet:
            print(f"{self.path.stem}: {sentence}", flush=True)

    def forget_after(self, step: int) -> None:
        """Drop the lines of later steps: the run goes on from an earlier state."""
        rows = [row for row in read_log(self.path) if row.get("step", 0) <= step]
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in rows))


def _figure(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines of a log; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """A block that writes files to a folder. Raises CheckpointError, with one sentence, where that cannot be done."""
    try:
        yield
    except BrokenPipeError:  # of a terminal that went away
        raise
    except OSError as error:
        reason, full = error.strerror or error, error.errno in (errno.ENOSPC, errno.EDQUOT)
        todo = "free some space, and the same command goes on" if full else "give another --out"
        raise CheckpointError(f"{folder} cannot be written to ({reason}); {todo}.") from error


@contextmanager
def whole_tensors(path: Path) -> Iterator[Path]:
    """As `whole_file`, for a block that writes with safetensors, whose errors of the system become OSErrors again."""
    try:
        with whole_file(path) as partial:
            yield partial
    except SafetensorError as error:
        told = re.search(r"os error (\d+)", str(error))
        raise OSError(*((int(told[1]), os.strerror(int(told[1]))) if told else (errno.EIO, str(error)))) from error


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state as a `whole_file`: an interruption leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    serialized = io.BytesIO()  # given a file, torch hides that the disk is full
    torch.save(state, serialized)
    with whole_file(path) as partial:
        partial.write_bytes(serialized.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Load a state. Raises CheckpointError if the file is missing, damaged, or larger than `LARGEST_STATE` bytes."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: there is no saved state to resume.")
    try:
        with open_regular(path) as file, io.BufferedReader(file) as stream:  # type: ignore[type-var]
            with zipfile.ZipFile(stream) as parts:  # torch would unpack them, whatever size they claim
                claimed = sum(part.file_size for part in parts.infolist())
            if max(claimed, os.fstat(stream.fileno()).st_size) > LARGEST_STATE:
                raise CheckpointError(f"{path} takes over {LARGEST_STATE >> 30} GiB: it is not a state of a training.")
            stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a whole state of a training; put back a copy, or delete it.") from error


class Resumable(Protocol):
    """A training that a saved state can be put into."""

    step: int

    def restore(self, state: dict[str, Any]) -> None: ...


def refuse_begun(path: Path) -> None:
    """Raise CheckpointError where `path` holds the state of a training: hours of work would be replaced."""
    if path.exists():
        raise CheckpointError(f"{path} holds the state of a training: go on with --resume, or give another --out.")


def begin_or_resume(training: Resumable, path: Path, log: Log, resume: bool) -> None:
    """Restore the state in `path` where there is one and `resume` asks for it; the log then ends at its step.

    Raises CheckpointError where a state exists and is not to be resumed, or does not fit the training's modules.
    """
    if not resume:
        refuse_begun(path)
    if not path.exists():
        log.path.unlink(missing_ok=True)
        log.say("begins.")
        return
    state = load_state(path)
    try:
        training.restore(state)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} was made with another recipe: go on with that one (recipe.json beside it), or give another --out."
        ) from error
    log.forget_after(training.step)  # what was done after the state was saved is done again
    log.say(f"goes on from step {training.step:,}.")


@contextmanager
def unbroken() -> Iterator[None]:
    """Defers SIGINT and SIGTERM to the end of the block, so that what is done inside is done whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deferred: list[tuple[int, Any]] = []
    handlers = {number: handler for number in STOPPING if callable(handler := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, lambda number, frame: deferred.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if deferred:
        first, frame = deferred[0]
        handlers[signal.Signals(first)](first, frame)  # raises


class TimeBudget:
    """Seconds of work over all runs, and whether this run's budget is spent."""

    def __init__(self, before: float = 0.0, budget_seconds: float | None = None) -> None:
        self._before, self._start, self._budget = before, time.monotonic(), budget_seconds

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    @property
    def spent(self) -> bool:
        return self._budget is not None and time.monotonic() - self._start > self._budget
