"""One comparison as the page keeps it, and one browser tab's session: values and their bounds.

A session belongs to one tab; sessions share nothing but `Caches`, which bounds what they hold on the device.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
import weakref
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlcompare.types import SIDES, Answer, Box, Prompt, Request, Step
from vlcompare.ui import webp
from vlcompare.ui.compare.forms import question_of
from vlcompare.ui.compare.stored import Stored, continued
from vlcompare.ui.settings import Limits

if TYPE_CHECKING:
    from PIL import Image

    from vlcompare.evidence import EvidenceMap
    from vlcompare.repeats import Repeats
    from vlcompare.types import Side

SHOWN_SIDE = 896  # longest side of the copy that the page shows
MAX_SHOWN = 256  # questions of a session whose answers were shown with names
KEPT_BYTES = 4 * 2**20  # pictures up to this size are kept as they came


@dataclass(frozen=True, slots=True)
class Picture:
    """The uploaded picture: its bytes, or a reduced copy of them, and an upright copy to show."""

    data: bytes
    shown: bytes  # WebP, upright, at most SHOWN_SIDE
    width: int  # of the original, upright
    height: int
    reduced: bool = False  # `data` is a reduced copy
    hashes: frozenset[str] = frozenset()  # SHA-256 of the bytes it came from, and of `data`

    @classmethod
    def of(cls, opened: Image.Image, data: bytes) -> Picture:
        """From an opened picture (RGB, upright) and the bytes it came from."""
        keep = data if len(data) <= KEPT_BYTES else webp.encode(opened, 1600, 92)
        hashes = frozenset(hashlib.sha256(own).hexdigest() for own in (data, keep))
        return cls(keep, webp.encode(opened, SHOWN_SIDE, 82), opened.width, opened.height, keep is not data, hashes)


@dataclass
class SideRun:
    """One side's settings and what it has answered so far."""

    settings: Side
    status: str = "Queued"
    steps: list[Step] = field(default_factory=list)
    prompt: Prompt | None = None
    answer: Answer | None = None
    notices: tuple[str, ...] = ()  # how the model was loaded, where that matters to the answer
    id: str = field(default_factory=lambda: secrets.token_hex(8), compare=False)  # stays its own when sides are swapped

    @property
    def text(self) -> str:
        return self.answer.text if self.answer and not self.steps else "".join(step.text for step in self.steps)


@dataclass
class Run:
    """One question on one picture, with both sides' answers."""

    request: Request
    picture: Picture
    sides: dict[str, SideRun]
    mode: str = "measure"
    truth: tuple[Box, ...] = ()
    references: tuple[str, ...] = ()
    objects: tuple[dict[str, Any], ...] = ()  # of a rendered scene, which captions are judged by
    example: str | None = None
    blind: bool = False  # names are hidden until the vote
    voted: str | None = None
    voted_blind: bool = False  # before anything told the models; such a vote stays
    follow_up: str | None = None
    imported: bool = False  # from a file: its checkpoints and limits are whatever the file says
    group: str | None = None  # shared by questions that were asked together
    repeats: Repeats | None = None  # the rounds, where it was repeated
    evidence: dict[str, EvidenceMap] = field(default_factory=dict)  # side -> what its answer rests on, where measured
    stored: Stored | None = None  # the sample of an evaluation that it is from
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    created: float = field(default_factory=time.time)

    @property
    def done(self) -> bool:
        return all(side.answer is not None for side in self.sides.values())

    @property
    def hidden(self) -> bool:
        """Whether a blind vote is still to come: nothing that gives a model away, or that says which answer is right,
        is shown. An error names its model, and leaves nothing to choose between."""
        return self.blind and self.voted is None and not self.failed

    @property
    def failed(self) -> bool:
        return any(side.answer is not None and side.answer.error for side in self.sides.values())

    @property
    def stopped(self) -> bool:
        return any(side.answer is not None and side.answer.stop_reason == "cancelled" for side in self.sides.values())

    @property
    def recorded(self) -> bool:
        """Whether its answers came with an example: nothing was run here."""
        return all(side.answer is not None and side.answer.stop_reason == "recorded" for side in self.sides.values())

    @property
    def made_here(self) -> bool:
        """Whether it can be made again: its settings were checked here."""
        return not (self.recorded or self.imported)

    @property
    def settings(self) -> dict[str, Side]:
        return {side: part.settings for side, part in self.sides.items()}

    def answer(self, side: str) -> Answer | None:
        return self.sides[side].answer

    def place(self, part: SideRun) -> str:
        """The side on which this part is now: after the sides were swapped, not the one on which it began."""
        return next(side for side, own in self.sides.items() if own is part)

    def swap(self) -> None:
        """Exchange the sides with all that they hold; a vote for one of them goes along."""
        self.sides = {side: self.sides[other] for side, other in zip(SIDES, reversed(SIDES), strict=True)}
        self.voted = {"left": "right", "right": "left"}.get(self.voted or "", self.voted)
        self.stored = self.stored.swapped() if self.stored else None
        exchanged = dict(zip(SIDES, reversed(SIDES), strict=True))
        self.evidence = {exchanged[side]: found for side, found in self.evidence.items()}
        if self.repeats is not None:
            self.repeats = self.repeats.renamed(exchanged)

    def size(self) -> int:
        """About how many bytes it holds."""
        tokens = sum(len(side.answer.tokens) for side in self.sides.values() if side.answer)
        return len(self.picture.data) + len(self.picture.shown) + 600 * tokens + 4096


def _same_models(one: Run, other: Run) -> bool:
    """Whether both runs have the same two sides, whichever is left."""
    first, second = one.settings.values(), other.settings.values()
    return all(side in second for side in first) and all(side in first for side in second)


def _answer_keys(run: Run) -> set[tuple[Any, ...]]:
    """What tells each side's answer: the picture, by each of its hashes, the question, and the model."""
    models = [(side.checkpoint, side.quantization) for side in run.settings.values()]
    return {(digest, question_of(run.request), model) for digest in run.picture.hashes for model in models}


class CompareSession:
    """One browser tab's state: what is running, what was run, what can be followed up.

    A copy is a new session: gradio copies a State's initial value for every tab.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.id = secrets.token_hex(4)
        self.history: list[Run] = []
        self.current: Run | None = None  # the comparison that was started last
        self.shown: Run | None = None  # the comparison on the page
        self.shown_with_names: deque[set[tuple[Any, ...]]] = deque(maxlen=MAX_SHOWN)  # answers, as `_answer_keys`
        self.voting = threading.RLock()  # held while a vote is cast or the sides are exchanged
        self.blind_votes: Counter[Side | str] = Counter()  # the better side's settings, "tie" or "both_bad" -> votes
        self.stored: set[str] = set()  # runs on which a vote is stored
        self.changes = 0  # of what is shown, by anything but the comparison that is running; never fewer
        self.cancel: threading.Event | None = None
        self.asked = 0  # how many comparisons have entered the queue
        self.asked_at_stop = 0  # of them, those before Stop was pressed
        self.engines: dict[str, Any] = {}  # side -> engine session, for follow-ups
        self.pictures: Any = None  # what is kept of its pictures for later questions: its own, never another session's
        self.kept: Run | None = None  # the run whose picture and conversation `engines` hold
        self.checked: tuple[str, str | None, str] | None = None  # the chosen file's path, and what was found of it
        self.finished = threading.Event()
        self.finished.set()

    def __deepcopy__(self, memo: dict[int, Any]) -> CompareSession:
        return CompareSession(self.limits)

    def counted(self, run: Run, choice: str) -> tuple[str, bool]:
        """(the choice that counts if this one is made now, whether it is blind): a vote that was cast blind stays."""
        if run.voted is not None and run.voted_blind:
            return run.voted, True
        return choice, run.hidden and not self.recognizable(run)

    def vote(self, run: Run, choice: str) -> None:
        """Note a vote. It tells the names of a blind run's models."""
        hidden, again = run.hidden, run.voted_blind
        run.voted, run.voted_blind = self.counted(run, choice)
        if run.voted_blind and not again:
            self.blind_votes[run.sides[choice].settings if choice in run.sides else choice] += 1
        if hidden:
            self.reveal(run)

    def reveal(self, run: Run) -> None:
        """The names of a blind run's models are told, and so are those of the runs that follow it up, or that it
        follows."""
        self._note_shown(run)
        for other in self._with_same_sides(run):
            other.blind = False
            self._note_shown(other)

    def recognizable(self, run: Run) -> bool:
        """Whether the models of a hidden run can be told by an answer that was shown with its model's name: to its
        question, or to another one that the same sides were asked. One of two tells the other."""
        hidden = set().union(*(_answer_keys(one) for one in (run, *self._with_same_sides(run))))
        return any(hidden & shown for shown in self.shown_with_names)

    def _with_same_sides(self, run: Run) -> list[Run]:
        """The other runs with this one's picture and models: their sides are the same."""
        others = {id(one): one for one in (*self.history, self.current) if one is not None and one is not run}
        return [one for one in others.values() if one.picture is run.picture and _same_models(one, run)]

    def _note_shown(self, run: Run) -> None:
        if not run.hidden and any(part.steps or part.answer for part in run.sides.values()):
            keys = _answer_keys(run)
            if keys not in self.shown_with_names:  # what is shown again does not count again
                self.shown_with_names.append(keys)

    def start(self, run: Run) -> threading.Event:
        """Make `run` the current one; returns the event that stops it."""
        self.stop()
        self.finished.set()  # nothing waits for the older run any more
        self.current, self.cancel, self.finished = run, threading.Event(), threading.Event()
        run.stored = run.stored or continued(self.shown, run)
        self.show(run)
        return self.cancel

    def show(self, run: Run) -> None:
        """Make `run` the one that the page shows."""
        self.shown = run
        self._note_shown(run)
        self.changes += 1

    def swap(self) -> None:
        """Exchange the sides of what is shown, with the caches that are kept of them."""
        if self.shown is None:
            return
        with self.voting:
            self.shown.swap()
        if self.kept is self.shown:
            self.engines = {side: self.engines[other] for side, other in zip(SIDES, reversed(SIDES), strict=True)}
        self.changes += 1

    def shows(self, run: Run) -> bool:
        """Whether the page shows `run`: no newer run has begun, and no older one was chosen."""
        return self.current is run and self.shown is run

    def finish(self, run: Run) -> None:
        """Mark the current run as ended, however it ended."""
        if self.current is run:
            self.cancel = None
            self.finished.set()

    def stop(self) -> bool:
        """Ask the running comparison to end; True when there was one."""
        if self.cancel is None:
            return False
        self.cancel.set()
        return True

    def next_asked(self) -> None:
        """A new comparison has entered the queue: the running one ends."""
        self.asked += 1
        self.stop()

    def stop_pressed(self) -> None:
        """End the running comparison, and note that what is asked from now on is not meant."""
        self.asked_at_stop = self.asked
        self.stop()

    def remember(self, run: Run) -> None:
        """Add to the history; the oldest runs are dropped when there are too many or they are too large."""
        self._note_shown(run)
        self.history = [run, *(old for old in self.history if old.id != run.id)][: self.limits.history_runs]
        while len(self.history) > 1 and sum(old.size() for old in self.history) > self.limits.history_bytes:
            self.history.pop()

    def find(self, run_id: str) -> Run | None:
        return next((run for run in self.history if run.id == run_id), None)

    def group(self, run: Run) -> list[Run]:
        """The runs that were asked together with `run`, in their order; empty if it was asked alone."""
        if run.group is None:
            return []
        others = [old for old in self.history if old.group == run.group and old.id != run.id]
        return sorted([*others, run], key=lambda one: one.created)

    def forget_follow_ups(self) -> None:
        """Free the kept caches and states."""
        for engine in self.engines.values():
            engine.close()
        self.engines, self.kept = {}, None

    def free(self) -> None:
        """Free all that is on the device."""
        self.forget_follow_ups()
        if self.pictures is not None:
            self.pictures.clear()

    def close(self) -> None:
        """Free the session's tensors and history, unless a comparison is still running in it."""
        if self.cancel is not None:
            return
        self.free()
        self.history, self.current, self.shown = [], None, None


class Caches:
    """Bounds the sessions that hold caches on the device: the oldest that are not in use are freed first.

    What is kept of pictures also counts in the model pool's budget.
    """

    def __init__(self) -> None:
        self._holders: list[weakref.ref[CompareSession]] = []
        self._lock = threading.Lock()

    def keep(self, session: CompareSession, most: int) -> None:
        """Note that `session` holds the newest cache, and free all but the `most` newest."""
        with self._lock:
            alive = [ref for ref in self._holders if (held := ref()) is not None and held.engines]
            self._holders = [ref for ref in alive if ref() is not session] + [weakref.ref(session)]
            for ref in self._holders[: max(0, len(self._holders) - most)]:
                held = ref()
                if held is not None and held.cancel is None:  # not in the middle of a follow-up
                    held.free()
