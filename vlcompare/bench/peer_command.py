"""Any other program as a contestant: it is run once in each round, and says itself how long it took."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
from pathlib import Path

from vlcompare.errors import RequestError, reason

_SECONDS = 600  # that one run may take


class PeerCommand:
    """A program that times one prompt and its answer at a shape and precision.

    template: a command line without a shell; {shape}, {precision}, {prompt}, {tokens} and {threads} are replaced. The
    last line that it prints must be JSON with `prefill_ms` and `token_ms`. Raises RequestError for a template that is
    no command line or has another placeholder.
    """

    def __init__(self, template: str, **values: str | int) -> None:
        try:
            self.command = [part.format(**values) for part in shlex.split(template)]
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            raise RequestError(
                "--peer-command cannot be read: it is a command line in which {shape}, {precision}, "
                "{prompt}, {tokens} and {threads} are replaced."
            ) from error
        if not self.command:
            raise RequestError("--peer-command is empty: give the program to run.")
        named = self.command[0]
        if Path(named).name.startswith("python") and len(self.command) > 1 and not self.command[1].startswith("-"):
            named = self.command[1]  # the script tells more than its interpreter
        self.name = f"command {Path(named).name}"

    def measure(self) -> tuple[float, float]:
        """(prefill, token) in milliseconds, of one run. Raises RequestError where it fails or prints something else."""
        try:
            done = subprocess.run(self.command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RequestError(f"The {self.name} cannot be run ({reason(error)}).") from error
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        if done.returncode:
            last = ([line for line in done.stderr.splitlines() if line.strip()] or [""])[-1][:160]
            raise RequestError(f"The {self.name} ended with exit status {done.returncode}: {last}")
        try:
            found = json.loads(lines[-1])
            times = float(found["prefill_ms"]), float(found["token_ms"])
        except (IndexError, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"The {self.name} must print a last line of JSON with prefill_ms and token_ms; it printed "
                f"{(lines or ['nothing'])[-1][:80]!r}."
            ) from error
        if not all(math.isfinite(value) and value >= 0 for value in times):
            raise RequestError(f"The {self.name} printed times that are no milliseconds: {lines[-1][:80]!r}.")
        return times
