"""One question, several sides: a stream of events, and one answer a side, whatever happens on the others.

"measure" runs the sides one after the other, warmed up, alone on the device: its times are figures. "race" runs them
at the same time, each in its own thread; the times are contended and marked as such; on a GPU its sides are
warmed up before they start. A side that fails says why while the other goes on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from vlcompare.errors import DeviceMemoryError, RequestError, VLCompareError
from vlcompare.machine.device_lock import hold_device
from vlcompare.runtime.faults import report
from vlcompare.types import Answer, FollowUp, Mode, ModelSpec, Prompt, Request, Side, Step
from vlcompare.units import milliseconds

if TYPE_CHECKING:
    from vlcompare.runtime.loading.model_pool import ModelPool
    from vlcompare.runtime.picture_cache import PictureCache
    from vlcompare.runtime.session import Session


_POLL = 0.1  # seconds between two checks of whether a waiting side was cancelled
_NEWS = 0.25  # seconds between two sentences on how far vision and prefill are
_warm: WeakKeyDictionary[Any, set[tuple[Any, ...]]] = WeakKeyDictionary()  # model -> shapes of requests it has run


class Event(NamedTuple):
    """Something that happened on one side.

    kind "status": a sentence (loading, waiting); "notice": a sentence on how the model was loaded that belongs beside
    its answer; "prompt": the Prompt; "step": a Step; "answer": the Answer, once a side, last, with `error` set when the
    side failed.
    """

    side: str
    kind: Literal["status", "notice", "prompt", "step", "answer"]
    value: str | Prompt | Step | Answer


Put = Callable[[Event], None]
_KINDS: dict[type, Literal["prompt", "step", "answer"]] = {Prompt: "prompt", Step: "step", Answer: "answer"}


class _Cancelled(Exception):
    """The comparison was cancelled; ends the work of a side."""


def compare(
    image: Any,
    request: Request,
    sides: Mapping[str, Side],
    *,
    mode: Mode = "measure",
    pool: ModelPool | None = None,
    cancel: threading.Event | None = None,
    deadline: float | None = None,
    sessions: Mapping[str, Session] | None = None,
    follow_up: FollowUp | None = None,
    tick: float | None = None,
    pictures: PictureCache | None = None,
    idle: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Event]:
    """Ask every side the same question about the same picture; yields events as they happen on either side.

    image: path, bytes or PIL (opened once per side, so that each side's time includes it). sides: names to settings,
    in the order in which they are measured. cancel: ends all sides within a token. sessions and follow_up: as in
    `vlcompare.runtime.engine`, one session a side. tick: seconds after which None is yielded while nothing happens, for
    a reader with more to do than to wait. pictures: what one user keeps of pictures; without one, the sides share what
    their encoders make of this picture where these are equal. idle: entered while nothing is computed and no model
    is held: for downloads, and while another comparison loads. Closing the iterator cancels all sides; without a tick,
    it waits for them. Raises RequestError at once for a request that no side could be asked.
    """
    from vlcompare.runtime.loading.model_pool import ModelPool
    from vlcompare.runtime.picture_cache import PictureCache
    from vlcompare.tasks.prompts import validate

    if not sides:
        raise RequestError("There is no side to ask: give at least one checkpoint.")
    request = validate(request)
    run = _Comparison(
        image, request, dict(sides), mode, pool or ModelPool(), cancel or threading.Event(), deadline, sessions or {},
        follow_up, tick, pictures or PictureCache(prefixes=False), idle,
    )  # fmt: skip
    return run.events()


@dataclass(eq=False)
class _Comparison:
    image: Any
    request: Request
    sides: dict[str, Side]
    mode: Mode
    pool: ModelPool
    cancel: threading.Event
    deadline: float | None
    sessions: Mapping[str, Session]
    follow_up: FollowUp | None
    tick: float | None
    pictures: PictureCache
    idle: Callable[[], AbstractContextManager[None]]

    def __post_init__(self) -> None:
        self._requests = {name: side.request(self.request) for name, side in self.sides.items()}
        self._notices: dict[str, set[str]] = {name: set() for name in self.sides}  # sent so far
        self._ready = {name: threading.Event() for name in self.sides}  # in a race; set where a side failed, too
        self._warming = threading.Lock()
        self._begun: set[str] = set()  # sides of whose answers a token was told
        self.pictures.begin_question()

    def events(self) -> Iterator[Event]:
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        thread = threading.Thread(target=self._work, args=(inbox.put,), daemon=True, name="vlcompare-side")
        thread.start()
        unanswered = set(self.sides)
        try:
            while unanswered:
                try:
                    event = inbox.get(timeout=self.tick)
                except queue.Empty:
                    yield None  # type: ignore[misc]  # only for readers that ask for ticks
                    continue
                if event.kind == "answer":
                    unanswered.discard(event.side)
                yield event
        finally:
            if unanswered:
                self.cancel.set()
            if self.tick is None or not unanswered:
                thread.join()

    def _work(self, put: Put) -> None:
        """Fetch and load every side first, then ask them: one after the other, each warmed up, or all at once."""
        models: dict[str, Any] = {}

        def load(name: str) -> None:
            # not idle while a model is held: others cannot evict it, and would find no room for theirs
            models[name] = self._load(name, put, loaded, nullcontext if models else self.idle)
            if len(self.sides) > 1:
                put(Event(name, "status", "Waiting for the other side"))

        with ExitStack() as loaded:
            for name in self._fetch(put):
                self._guarded(name, put, partial(load, name))
            if self.mode == "race":
                self._race(models, put)
                return
            for name, model in models.items():
                self._guarded(name, put, partial(self._answer, name, model, put, warm_up=True))

    def _fetch(self, put: Put) -> list[str]:
        """Fetch what is missing of all sides, once they are known to fit together; returns the sides that can go on.

        Nothing is computed meanwhile.
        """
        from vlcompare.tasks.prompts import check_decoding

        def check(name: str) -> None:
            self._raise_if_cancelled()
            check_decoding(self._requests[name])  # before gigabytes are read for what cannot be asked
            if self.pool.missing(self.sides[name].model):
                missing.append(name)

        def fetch(name: str) -> None:
            if name in missing:
                self.pool.fetch(models[name], partial(self._say, name, put), self._raise_if_cancelled)

        def together(name: str) -> None:
            self._raise_if_cancelled()
            if not failed:
                failed.append(self.pool.check_together(list(models.values()), partial(self._say, name, put)))
            if (error := failed[0].get(models[name])) is not None:
                raise error

        missing: list[str] = []
        failed: list[dict[ModelSpec, VLCompareError]] = []
        names = [name for name in self.sides if self._guarded(name, put, partial(check, name))]
        models = {name: self.sides[name].model for name in names}
        if not missing:
            return names
        with self.idle():
            for name in names if len(names) > 1 else ():
                put(Event(name, "status", "Waiting for the other side"))
            for work in (together, fetch):
                names = [name for name in names if self._guarded(name, put, partial(work, name))]
        return names

    def _race(self, models: Mapping[str, Any], put: Put) -> None:
        """Start all sides together, once every side is ready or has failed."""

        def run(name: str, model: Any) -> None:
            try:
                if model.device.type == "cuda":
                    # kernels are compiled and graphs are captured by one side at a time, with nothing else running on
                    # the device: a capture can be spoilt by what another thread does for the first time meanwhile
                    with hold_device(self, self._raise_if_cancelled), self._warming:
                        self._warm_up(name, model, put)
            finally:
                self._ready[name].set()
            put(Event(name, "status", "Waiting for the other side"))
            for other in models:
                while not self._ready[other].wait(_POLL):
                    self._raise_if_cancelled()
            self._answer(name, model, put, warm_up=False)

        threads = [
            threading.Thread(
                target=self._guarded, args=(name, put, partial(run, name, model)), daemon=True, name="vlcompare-side"
            )
            for name, model in models.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _guarded(self, name: str, put: Put, work: Callable[[], None]) -> bool:
        """Do one side's work; whatever goes wrong becomes this side's answer, and only this side's: returns False."""
        side = self.sides[name]
        failed = Answer(checkpoint=side.checkpoint, quantization=side.quantization, stop_reason="error")
        try:
            work()
            return True
        except _Cancelled:
            answer = replace(failed, stop_reason="cancelled")
        except VLCompareError as error:
            answer = replace(failed, error=str(error))
        # a defect of this package, or a panic of a library in Rust, not an Exception, must neither fail the other
        # side nor leave the consumer waiting for an answer
        except BaseException as error:
            from vlcompare.models.kernels.fallback import is_lost, reason_of

            report(error)
            sentence = f"This side failed unexpectedly ({type(error).__name__}); the other is not affected."
            if is_lost(error):
                sentence = f"The GPU reported an error that this process cannot recover from ({reason_of(error)})."
            answer = replace(failed, error=sentence)
        put(Event(name, "answer", answer))
        return False

    def _say(self, name: str, put: Put, sentence: str) -> None:
        """Tell a side's status, unless the comparison was cancelled: this ends downloads and loads."""
        self._raise_if_cancelled()
        put(Event(name, "status", sentence))

    def _load(self, name: str, put: Put, loaded: ExitStack, idle: Callable[[], AbstractContextManager[None]]) -> Any:
        self._raise_if_cancelled()
        how = self.sides[name].model, partial(self._say, name, put), self._raise_if_cancelled, idle
        model = loaded.enter_context(self.pool.acquire(*how))
        self._put_notices(name, model, put)
        return model

    def _put_notices(self, name: str, model: Any, put: Put) -> None:
        """The model's notices on this request that were not sent yet."""
        for sentence in model.notices_for(self._requests[name]):
            if sentence not in self._notices[name]:
                self._notices[name].add(sentence)
                put(Event(name, "notice", sentence))

    def _warm_up(self, name: str, model: Any, put: Put) -> None:
        """Work that brings first-call costs (kernels, caches) out of all figures."""
        from vlcompare.runtime.warm_up import warm_up

        self._raise_if_cancelled()
        request = self._requests[name]
        # all that decides which kernels are compiled and which graphs are captured
        how = request.task, request.prompt_order, request.max_new_tokens, self.pictures.prefixes
        shape = how if model.device.type == "cuda" else ()
        if self.follow_up is not None or shape in _warm.setdefault(model, set()):
            return
        put(Event(name, "status", "Warming up"))
        asked = partial(warm_up, model, self.image, request, self.cancel, in_parts=self.pictures.prefixes)
        self._with_room(name, model, put, asked)
        if not self.cancel.is_set():
            _warm[model].add(shape)

    def _answer(self, name: str, model: Any, put: Put, *, warm_up: bool) -> None:
        """Ask one side, with the device held."""
        put(Event(name, "status", "Waiting for the device"))
        with hold_device(self, self._raise_if_cancelled):
            if warm_up:
                self._warm_up(name, model, put)
            self._raise_if_cancelled()
            put(Event(name, "status", "Answering"))
            self._with_room(name, model, put, partial(self._tell_all, name, model, put))

    def _with_room(self, name: str, model: Any, put: Put, work: Callable[[], None]) -> None:
        """Do the work; once more, where memory suffices only without what is idle, and no token was told yet."""
        try:
            return work()
        except DeviceMemoryError:
            evict: Callable[[str], Any] = getattr(self.pool, "evict_idle", lambda device: [])
            if name in self._begun or not evict(str(model.device)):
                raise
        put(Event(name, "status", "Out of memory: models that were not in use are evicted; trying once more"))
        work()

    def _tell_all(self, name: str, model: Any, put: Put) -> None:
        from vlcompare.runtime.engine import stream_request

        items = stream_request(
            model, self.image, self._requests[name], cancel=self.cancel, deadline=self.deadline,
            session=self.sessions.get(name), follow_up=self.follow_up, mode=self.mode, pictures=self.pictures,
            progress=_told_at_intervals(name, put),
        )  # fmt: skip
        for item in items:
            if isinstance(item, Answer):
                self._put_notices(name, model, put)  # an accelerator may have failed meanwhile
            elif isinstance(item, Step):
                self._begun.add(name)
            put(Event(name, _KINDS[type(item)], item))

    def _raise_if_cancelled(self) -> None:
        if self.cancel.is_set():
            raise _Cancelled


def _told_at_intervals(
    name: str, put: Put, clock: Callable[[], float] = time.monotonic
) -> Callable[[str, int, int], None]:
    """Makes of a side's progress through the layers a sentence now and then, with the time that is left."""
    last, began = clock(), dict[str, float]()

    def progress(what: str, done: int, layers: int) -> None:
        nonlocal last
        now = clock()
        seconds = now - began.setdefault(what, now)
        if now - last <= _NEWS:
            return
        last = now
        left = ""
        if done and seconds > 1:
            left = f", {milliseconds(max(1e3, 1e3 * seconds * (layers - done) / done))} left"
        put(Event(name, "status", f"{what} {100 * done // max(1, layers)} %{left}"))

    return progress
