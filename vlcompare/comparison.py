"""One question, several sides: a stream of events, and one answer a side, whatever happens on the others.

"measure" runs the sides one after the other, warmed, alone on the device: its times are figures. "race" runs them at
the same time: a show, whose times are contended and marked so; on a GPU its sides are warmed, too, before they start.
Each side works in a thread of its own, so a slow side never holds back a fast one, and a side that fails says why while
the other goes on.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

from vlcompare.errors import RequestError, VLCompareError
from vlcompare.runtime.faults import report
from vlcompare.types import Answer, Mode, Prompt, Request, Side, Step

if TYPE_CHECKING:
    from vlcompare.runtime.engine import Session
    from vlcompare.runtime.loading.model_pool import ModelPool

FollowUp = Literal["continue", "anew"]

_WARM_TOKENS = 3
_warmed: WeakKeyDictionary[Any, set[tuple[Any, ...]]] = WeakKeyDictionary()  # what each loaded model has run before


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


class _Stopped(Exception):
    """The consumer left; unwinds a side's thread."""


class _Turns:
    """Who has the device: one comparison at a time, all of its sides; others wait, and can be stopped while they do."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: object = None
        self._users = 0

    @contextmanager
    def turn(self, holder: object, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the device for `holder`. `waiting` is called again and again while another has it; it may raise."""
        with self._changed:
            while self._holder is not None and self._holder is not holder:
                waiting()
                self._changed.wait(0.1)
            self._holder = holder
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if self._users == 0:
                    self._holder = None
                    self._changed.notify_all()


class _Latch:
    """Opens when everybody has arrived; whoever arrives again changes nothing."""

    def __init__(self, awaited: Iterable[str]) -> None:
        self._changed = threading.Condition()
        self._awaited = set(awaited)

    def arrive(self, name: str) -> None:
        with self._changed:
            self._awaited.discard(name)
            self._changed.notify_all()

    def wait(self, waiting: Callable[[], None]) -> None:
        with self._changed:
            while self._awaited:
                waiting()
                self._changed.wait(0.1)


_turns = _Turns()


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
) -> Iterator[Event]:
    """Ask every side the same question about the same picture; yields events as they happen on either side.

    image: path, bytes or PIL (opened once per side, so that each side's time includes it). sides: names to settings,
    in the order in which they are measured. cancel: ends all sides within a token. sessions and follow_up: as in
    `vlcompare.runtime.engine`, one session a side. tick: seconds after which None is yielded while nothing happens, for
    a reader with more to do than to wait. Closing the iterator cancels all sides; without a tick, it waits for them.
    Raises RequestError at once for a request that no side could be asked.
    """
    from vlcompare.runtime.loading.model_pool import ModelPool
    from vlcompare.tasks.prompts import validate

    if not sides:
        raise RequestError("There is no side to ask: give at least one checkpoint.")
    request = validate(request)
    run = _Comparison(
        image,
        request,
        dict(sides),
        mode,
        pool or ModelPool(),
        cancel or threading.Event(),
        deadline,
        sessions or {},
        follow_up,
        tick,
    )
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

    def __post_init__(self) -> None:
        self._loaded, self._at_the_line = _Latch(self.sides), _Latch(self.sides)
        self._warming = threading.Lock()
        self._told: dict[str, set[str]] = {name: set() for name in self.sides}

    def events(self) -> Iterator[Event]:
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        if self.mode == "race":
            works: list[Callable[[], None]] = [lambda n=name: self._race(n, inbox.put) for name in self.sides]  # type: ignore[misc]
        else:
            works = [lambda: self._measure(inbox.put)]
        threads = [threading.Thread(target=work, daemon=True, name="vlcompare-side") for work in works]
        for thread in threads:
            thread.start()
        waiting = set(self.sides)
        try:
            while waiting:
                try:
                    event = inbox.get(timeout=self.tick)
                except queue.Empty:
                    yield None  # type: ignore[misc]  # only for readers that ask for ticks
                    continue
                if event.kind == "answer":
                    waiting.discard(event.side)
                yield event
        finally:
            if waiting:
                self.cancel.set()
            if self.tick is None or not waiting:
                for thread in threads:
                    thread.join()

    def _measure(self, put: Put) -> None:
        """Load every side first, then ask one after the other, each warmed, with the device held."""
        with ExitStack() as loaded:
            models = {}
            for name in self.sides:
                self._guarded(name, put, lambda n=name: models.update({n: self._load(n, put, loaded)}))  # type: ignore[misc]
            for name, model in models.items():
                self._guarded(name, put, partial(self._take_turn, name, model, put, warm=True))

    def _race(self, name: str, put: Put) -> None:
        """Load, wait at the line until every side is ready or has failed, and start together."""

        def run(loaded: ExitStack) -> None:
            try:
                model = self._load(name, put, loaded)
                self._loaded.arrive(name)
                if _on_gpu(model):
                    # kernels are compiled and graphs are captured by one side at a time, with nobody else at work on
                    # the device: a capture can be spoilt by what another thread does for the first time meanwhile
                    self._loaded.wait(self._stop_if_cancelled)
                    with _turns.turn(self, self._stop_if_cancelled), self._warming:
                        self._warm(name, model, put)
            finally:
                self._loaded.arrive(name)
                self._at_the_line.arrive(name)
            put(Event(name, "status", "Waiting for the other side"))
            self._at_the_line.wait(self._stop_if_cancelled)
            self._take_turn(name, model, put, warm=False)

        with ExitStack() as loaded:
            self._guarded(name, put, partial(run, loaded))

    def _take_turn(self, name: str, model: Any, put: Put, *, warm: bool) -> None:
        put(Event(name, "status", "Waiting for the device"))
        with _turns.turn(self, self._stop_if_cancelled):
            if warm:
                self._warm(name, model, put)
            self._ask(name, model, put)

    def _guarded(self, name: str, put: Put, work: Callable[[], None]) -> None:
        """Do one side's work; whatever goes wrong becomes this side's answer, and only this side's."""
        side = self.sides[name]
        failed = Answer(checkpoint=side.checkpoint, quantization=side.quantization, stop_reason="error")
        try:
            work()
            return
        except _Stopped:
            answer = replace(failed, stop_reason="cancelled")
        except VLCompareError as error:
            answer = replace(failed, error=str(error))
        # a defect of ours, or a panic of a library in Rust, which is no Exception, must neither take the other side
        # along nor leave the consumer waiting for an answer
        except BaseException as error:
            report(error)
            sentence = f"This side failed unexpectedly ({type(error).__name__}); the other is not affected."
            answer = replace(failed, error=sentence)
        put(Event(name, "answer", answer))

    def _load(self, name: str, put: Put, loaded: ExitStack) -> Any:
        from vlcompare.tasks.prompts import check_decoding

        def say(sentence: str) -> None:
            self._stop_if_cancelled()
            put(Event(name, "status", sentence))

        self._stop_if_cancelled()
        side = self.sides[name]
        check_decoding(side.decoding)  # before gigabytes are read for what cannot be asked
        model = loaded.enter_context(self.pool.acquire(side.model, say, self._stop_if_cancelled))
        self._tell(name, model, put)
        return model

    def _tell(self, name: str, model: Any, put: Put) -> None:
        """What belongs beside the answer and has not been said of this side yet."""
        for sentence in model.notices_for(self.sides[name].request(self.request)):
            if sentence not in self._told[name]:
                self._told[name].add(sentence)
                put(Event(name, "notice", sentence))

    def _warm(self, name: str, model: Any, put: Put) -> None:
        """A short run of the same shape, so that first-call costs (kernels, caches) are in nobody's figures."""
        from vlcompare.runtime.engine import stream_request

        request = self.sides[name].request(self.request)
        shape = (request.task, request.prompt_order)
        if self.follow_up is not None or shape in _warmed.setdefault(model, set()):
            return
        put(Event(name, "status", "Warming up"))
        short = replace(request, max_new_tokens=_WARM_TOKENS, stop_at_end=False)
        for _ in stream_request(model, self.image, short, cancel=self.cancel):
            pass
        if not self.cancel.is_set():
            _warmed[model].add(shape)

    def _ask(self, name: str, model: Any, put: Put) -> None:
        from vlcompare.runtime.engine import stream_request

        self._stop_if_cancelled()
        put(Event(name, "status", "Answering"))
        answers = stream_request(
            model,
            self.image,
            self.sides[name].request(self.request),
            cancel=self.cancel,
            deadline=self.deadline,
            session=self.sessions.get(name),
            follow_up=self.follow_up,
            mode=self.mode,
        )
        for item in answers:
            if isinstance(item, Prompt):
                put(Event(name, "prompt", item))
            else:
                if isinstance(item, Answer):
                    self._tell(name, model, put)  # an accelerator may have failed meanwhile
                put(Event(name, "answer" if isinstance(item, Answer) else "step", item))

    def _stop_if_cancelled(self) -> None:
        if self.cancel.is_set():
            raise _Stopped


def _on_gpu(model: Any) -> bool:
    return bool(model.device.type == "cuda")
