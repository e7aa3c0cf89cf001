"""What a training run leaves behind while it runs: lines of JSON, and states that replace each other whole.

Knows nothing of what is trained.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch


class Log:
    """Appends one JSON object a line to a file, and says the same on the terminal."""

    def __init__(self, path: Path, *, quiet: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.quiet = path, quiet

    def write(self, **values: Any) -> None:
        plain = {key: round(value, 5) if isinstance(value, float) else value for key, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")
        if not self.quiet:
            print(" ".join(f"{key}={value}" for key, value in plain.items()), flush=True)

    def forget_after(self, step: int) -> None:
        """Drop the lines of later steps: the run goes on from an earlier state."""
        rows = [row for row in read_log(self.path) if row.get("step", 0) <= step]
        self.path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines of a log; a last line that was cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state beside `path`, then put it in its place: an interruption leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_state(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


class Clock:
    """Seconds of work over all runs, and whether this run's budget is spent."""

    def __init__(self, before: float = 0.0, budget_seconds: float | None = None) -> None:
        self._before, self._start, self._budget = before, time.monotonic(), budget_seconds

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    @property
    def spent(self) -> bool:
        return self._budget is not None and time.monotonic() - self._start > self._budget
