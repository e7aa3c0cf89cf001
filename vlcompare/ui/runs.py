"""One comparison as the page keeps it, and one visitor's session: values and their bounds.

Knows neither gradio nor models. A session belongs to one visitor; nothing here is shared between two.
"""

from __future__ import annotations

import io
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlcompare.types import Answer, Box, Prompt, Request, Step
from vlcompare.ui.settings import Limits

if TYPE_CHECKING:
    from PIL import Image

    from vlcompare.compare import Side

SHOWN_SIDE = 896  # longest side of the copy that the page shows
KEPT_BYTES = 4 * 2**20  # pictures up to this size are kept as they came


@dataclass(frozen=True, slots=True)
class Picture:
    """The visitor's picture: the bytes as they came (or a reduced copy, said so), and an upright copy to show."""

    data: bytes
    shown: bytes  # WebP, upright, at most SHOWN_SIDE
    width: int  # of the original, upright
    height: int
    reduced: bool = False  # `data` is a reduced copy

    @classmethod
    def of(cls, opened: Image.Image, data: bytes) -> Picture:
        """From an opened picture (RGB, upright) and the bytes it came from."""
        keep = data if len(data) <= KEPT_BYTES else _encoded(opened, 1600, 92)
        return cls(keep, _encoded(opened, SHOWN_SIDE, 88), opened.width, opened.height, keep is not data)


@dataclass
class SideRun:
    """What has come in on one side so far."""

    settings: Side
    status: str = "Queued"
    steps: list[Step] = field(default_factory=list)
    prompt: Prompt | None = None
    answer: Answer | None = None

    @property
    def text(self) -> str:
        return self.answer.text if self.answer and not self.steps else "".join(step.text for step in self.steps)


@dataclass
class Run:
    """One question on one picture, with what both sides said."""

    request: Request
    picture: Picture
    sides: dict[str, SideRun]
    mode: str = "measure"
    truth: tuple[Box, ...] = ()
    references: tuple[str, ...] = ()
    example: str | None = None
    blind: bool = False  # names are hidden until the vote
    voted: str | None = None
    follow_up: str | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    created: float = field(default_factory=time.time)

    @property
    def done(self) -> bool:
        return all(side.answer is not None for side in self.sides.values())

    @property
    def hidden(self) -> bool:
        """Whether names and figures, which give a model away, must not be shown yet."""
        return self.blind and self.voted is None

    def answer(self, side: str) -> Answer | None:
        return self.sides[side].answer

    def size(self) -> int:
        """About how many bytes it holds."""
        tokens = sum(len(side.answer.tokens) for side in self.sides.values() if side.answer)
        return len(self.picture.data) + len(self.picture.shown) + 600 * tokens + 4096


class Session:
    """One visitor's state: what is running, what was run, what can be followed up.

    Made afresh wherever it is copied: gradio copies a state's first value for every visitor.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.history: list[Run] = []
        self.current: Run | None = None
        self.cancel: threading.Event | None = None
        self.engines: dict[str, Any] = {}  # side -> engine session, for follow-ups
        self.asked: str | None = None  # id of the run whose caches `engines` hold
        self.corner: tuple[float, float] | None = None  # first corner of a region being marked
        self.finished = threading.Event()
        self.finished.set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return Session(self.limits)

    def start(self, run: Run) -> threading.Event:
        """Make `run` the current one; returns the event that stops it."""
        self.stop()
        self.current, self.cancel = run, threading.Event()
        self.finished.clear()
        return self.cancel

    def finish(self, run: Run) -> None:
        """The current run has ended, one way or another."""
        if self.current is run:
            self.cancel = None
            self.finished.set()

    def stop(self) -> bool:
        """Ask the running comparison to end; True when there was one."""
        if self.cancel is None:
            return False
        self.cancel.set()
        return True

    def remember(self, run: Run) -> None:
        """Add to the history; the oldest leave when there are too many or they are too large."""
        self.history = [run, *(old for old in self.history if old.id != run.id)][: self.limits.history_runs]
        while len(self.history) > 1 and sum(old.size() for old in self.history) > self.limits.history_bytes:
            self.history.pop()

    def find(self, run_id: str) -> Run | None:
        return next((run for run in self.history if run.id == run_id), None)

    def forget_follow_ups(self) -> None:
        """Let go of the kept caches and states."""
        for engine in self.engines.values():
            engine.close()
        self.engines, self.asked = {}, None

    def close(self) -> None:
        """The visitor left: stop, and let go of everything."""
        self.stop()
        self.forget_follow_ups()
        self.history, self.current = [], None


def _encoded(picture: Image.Image, side: int, quality: int) -> bytes:
    small = picture.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()
