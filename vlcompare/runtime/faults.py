"""Errors that nobody raised on purpose: one line for the operator about each, which holds nothing of what was asked.

Standard library only, until something else has imported torch.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

LOST = 70  # exit status of a server whose GPU is lost
MAX_FAULTS = 200  # different faults that are reported in the life of the process
_ROOT = Path(__file__).resolve().parents[1]
_told: set[str] = set()
_lock = threading.Lock()


def place(error: BaseException) -> str:
    """Where it happened, and the last line of this package on the way there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(_ROOT)]
    shown = [frames[-1], *own[-1:]] if frames else []
    return ", called from ".join(dict.fromkeys(f"{Path(f.filename).name}:{f.lineno} ({f.name})" for f in shown))


_on_lost: list[Callable[[], object]] = []


def when_device_is_lost(do: Callable[[], object]) -> None:
    """Call `do` once a GPU cannot be used any more by this process; a server ends, so that its host starts it again."""
    _on_lost.append(do)


def report(error: BaseException, say: Callable[[str], object] | None = None) -> None:
    """Tell the operator of a fault, once for each kind and place; the error's own words, which may quote what a client
    sent, are left out. say: where the line goes, by default to standard error."""
    if "torch" in sys.modules:
        from vlcompare.models.kernels.fallback import is_lost

        while is_lost(error) and _on_lost:
            _on_lost.pop()()
    line = f"vlcompare: unexpected {type(error).__name__} at {place(error)}"
    with _lock:
        if line in _told or len(_told) >= MAX_FAULTS:
            return
        _told.add(line)
    if say is not None:
        say(line)
    else:
        print(line, file=sys.stderr, flush=True)
