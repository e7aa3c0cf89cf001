"""Two sides, one stream: each at its own pace, a failure on one side only, stops within a token, nothing mixed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from ui_fakes import until

from vlcompare import comparison as module
from vlcompare.comparison import Event, compare
from vlcompare.errors import CheckpointError, DeviceMemoryError, RequestError
from vlcompare.runtime import faults
from vlcompare.types import Answer, Prompt, Request, Side, Step

REQUEST = Request("captioning")
SIDES = {"left": Side("fast"), "right": Side("slow")}


class Panic(BaseException):
    """As libraries in Rust raise it: no Exception."""


DEFECTS = {"broken": ZeroDivisionError, "panicking": Panic}


class FakeModel:
    most_threads = 1

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.checkpoint = name
        self.device = torch.device(device)

    def notices_for(self, request: Request) -> tuple[str, ...]:
        return ("Not trained in this order.",) if request.prompt_order == "instruction_first" else ()


class FakePool:
    """Models by name; "missing" cannot be loaded."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.models: dict[str, FakeModel] = {}
        self.in_use = 0

    def check_together(self, keys) -> dict[str, str]:
        assert all(key.checkpoint for key in keys)
        return {}

    def missing(self, key) -> bool:
        return False

    @contextmanager
    def acquire(self, key, say, waiting, idle) -> Iterator[FakeModel]:
        say(f"Loading {key.checkpoint}")
        if key.checkpoint == "missing":
            raise CheckpointError("This checkpoint is missing.")
        self.in_use += 1
        try:
            yield self.models.setdefault(key.checkpoint, FakeModel(key.checkpoint, self.device))
        finally:
            self.in_use -= 1


class FakeEngine:
    """Five tokens an answer; "slow" takes its time; notes who was at work at the same moment."""

    def __init__(self) -> None:
        self.at_work: set[str] = set()
        self.together = False
        self.start = threading.Barrier(1)
        self.asked: list[tuple[str, Request, str]] = []
        self.warmed: list[str] = []  # by a few positions, on a CPU
        self.pause: Callable[[str, int], object] = lambda name, index: time.sleep(0.03 if name == "slow" else 0.001)

    def __call__(
        self, model, image, request, *, cancel=None, mode="single", **other
    ) -> Iterator[Prompt | Step | Answer]:
        self.asked.append((model.checkpoint, request, mode))
        self.at_work.add(model.checkpoint)
        try:
            self.start.wait(timeout=60)
            yield Prompt(("<image>", "x"), (-200, 1), "image_first")
            reason = "limit"
            for index in range(min(5, request.max_new_tokens or 5)):
                self.together |= len(self.at_work) > 1
                self.pause(model.checkpoint, index)
                if model.checkpoint in DEFECTS and index == 2:
                    raise DEFECTS[model.checkpoint]("a defect")
                yield Step(index, index, f"{model.checkpoint}{index} ", -0.1, (), 0.01)
                if cancel is not None and cancel.is_set():
                    reason = "cancelled"
                    break
            yield Answer(text=model.checkpoint, stop_reason=reason, checkpoint=model.checkpoint)
        finally:
            self.at_work.discard(model.checkpoint)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr("vlcompare.runtime.engine.stream_request", fake)
    monkeypatch.setattr("vlcompare.runtime.warm_up._read_a_few", lambda model: fake.warmed.append(model.checkpoint))
    return fake


def answers(events: list[Event]) -> dict[str, Answer]:
    found = [event for event in events if event.kind == "answer"]
    assert len(found) == len({event.side for event in found}), "one answer a side"
    return {event.side: event.value for event in found}


def test_a_race_lets_the_fast_side_finish_first(engine: FakeEngine) -> None:
    engine.start = threading.Barrier(2)  # passes only if both sides are at work at the same time
    first = threading.Event()
    engine.pause = lambda name, index: name == "slow" and first.wait(60)  # slow ends once the other answer is here
    order = []
    for event in compare("x", REQUEST, SIDES, mode="race", pool=FakePool()):
        if event.kind == "answer":
            order.append(event.side)
            first.set()
    assert order == ["left", "right"]
    assert engine.together
    assert {mode for _, _, mode in engine.asked} == {"race"}


@pytest.mark.parametrize("other", ["slow", "missing", "broken"])
def test_a_race_on_a_gpu_is_warmed_one_side_at_a_time_before_it_starts(engine: FakeEngine, other: str) -> None:
    """What a GPU does once (compiling, capturing) is neither in anybody's race nor spoilt by the other side's work."""
    before: list[tuple[str, ...]] = []  # who was at work whenever a side was warmed
    loaded: list[int] = []
    pool = FakePool("cuda")

    def pause(name: str, index: int) -> None:
        if engine.asked[-1][2] == "single":
            before.append(tuple(engine.at_work))
            loaded.append(pool.in_use)
        time.sleep(0.01)

    engine.pause = pause
    sides = {"left": Side("fast"), "right": Side(other)}
    found = answers(list(compare("x", REQUEST, sides, mode="race", pool=pool)))
    assert found["left"].text == "fast"
    assert bool(found["right"].error) is (other != "slow")
    modes = [mode for _, _, mode in engine.asked]
    assert modes == sorted(modes, key=["single", "race"].index)
    assert before and all(len(names) == 1 for names in before)
    if other == "slow":
        assert set(loaded) == {2}  # both are loaded by then


def test_a_side_is_told_what_its_model_was_not_trained_for(engine: FakeEngine) -> None:
    sides = {"left": Side("fast", prompt_order="instruction_first"), "right": Side("slow")}
    events = list(compare("x", REQUEST, sides, pool=FakePool()))
    told = [(event.side, event.value) for event in events if event.kind == "notice"]
    assert told == [("left", "Not trained in this order.")]


def test_a_measure_has_the_device_alone_and_warm(engine: FakeEngine) -> None:
    events = list(compare("x", REQUEST, SIDES, mode="measure", pool=FakePool()))
    assert not engine.together
    assert [answer.text for answer in answers(events).values()] == ["fast", "slow"]
    assert [name for name, _, _ in engine.asked] == engine.warmed == ["fast", "slow"], "warmed, but asked once"
    steps = [event.value.index for event in events if event.kind == "step" and event.side == "left"]
    assert steps == [0, 1, 2, 3, 4]


def test_a_model_is_warmed_once(engine: FakeEngine) -> None:
    pool = FakePool()
    for _ in range(2):
        list(compare("x", REQUEST, {"left": Side("fast")}, pool=pool))
    assert (engine.warmed, len(engine.asked)) == (["fast"], 2)


@pytest.mark.parametrize("mode", ["measure", "race"])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [("missing", "This checkpoint is missing."), ("broken", "(ZeroDivisionError)"), ("panicking", "(Panic)")],
)
def test_one_side_fails_and_the_other_goes_on(engine: FakeEngine, mode: str, name: str, sentence: str) -> None:
    pool = FakePool()
    sides = {"left": Side(name), "right": Side("fast")}
    found = answers(list(compare("x", REQUEST, sides, mode=mode, pool=pool)))
    assert sentence in (found["left"].error or "")
    assert found["left"].checkpoint == name
    assert found["right"].error is None
    assert found["right"].text == "fast"
    assert pool.in_use == 0


@pytest.mark.parametrize("mode", ["measure", "race"])
def test_closing_the_stream_stops_all_sides(engine: FakeEngine, mode: str) -> None:
    pool = FakePool()
    events = compare("x", REQUEST, SIDES, mode=mode, pool=pool)
    for event in events:
        if event.kind == "step":
            break
    events.close()
    assert pool.in_use == 0
    assert not engine.at_work
    assert answers(list(compare("x", REQUEST, SIDES, mode=mode, pool=pool))).keys() == {"left", "right"}


def test_cancel_gives_every_side_an_answer(engine: FakeEngine) -> None:
    cancel = threading.Event()
    engine.pause = lambda name, index: index and cancel.wait(60)  # neither gets beyond its first token before
    events = []
    for event in compare("x", REQUEST, SIDES, mode="race", pool=FakePool(), cancel=cancel):
        events.append(event)
        if event.kind == "step":
            cancel.set()
    assert {answer.stop_reason for answer in answers(events).values()} == {"cancelled"}


def test_ticks_come_while_nothing_happens_and_closing_then_does_not_wait(engine: FakeEngine) -> None:
    free = threading.Event()
    engine.pause = lambda name, index: index and free.wait(60)
    events = compare("x", REQUEST, {"left": Side("fast")}, pool=FakePool(), tick=0.01)
    for event in events:
        if event is None and engine.at_work:
            break
    events.close()
    assert engine.at_work  # its side takes no notice yet
    free.set()
    assert until(lambda: not engine.at_work)


def test_own_settings_of_a_side_win(engine: FakeEngine) -> None:
    side = Side("fast", prompt_order="instruction_first", seed=5, temperature=0.5, max_new_tokens=2)
    list(compare("x", REQUEST, {"left": side, "right": Side("slow")}, mode="race", pool=FakePool()))
    asked = {name: request for name, request, _ in engine.asked}
    assert (asked["fast"].prompt_order, asked["fast"].seed, asked["fast"].max_new_tokens) == ("instruction_first", 5, 2)
    assert asked["slow"] == module.Side("slow").request(asked["slow"])
    assert asked["slow"].prompt_order == "image_first"


def test_a_side_that_cannot_be_asked_so_is_told_before_it_is_loaded(engine: FakeEngine) -> None:
    sides = {"left": Side("fast"), "right": Side("missing", prompt_order="sideways")}  # type: ignore[arg-type]
    found = answers(list(compare("x", REQUEST, sides, pool=FakePool())))
    assert found["left"].error is None and "prompt order 'sideways' is unknown" in (found["right"].error or "")


def test_a_quantization_that_there_is_not_is_a_sentence() -> None:
    from vlcompare.runtime.loading.model_pool import ModelPool

    (event,) = (e for e in compare(b"", REQUEST, {"left": Side("tiny-mamba-vl", "int2")}, pool=ModelPool())
                if e.kind == "answer")  # fmt: skip
    assert event.value.error == "'int2' is not a quantization: use none, int8 or nf4."


def test_two_comparisons_take_turns(engine: FakeEngine) -> None:
    """Two visitors at once: each gets the answers to its own sides, and neither disturbs the other's figures."""
    pool, found = FakePool(), {}

    def visit(name: str) -> None:
        found[name] = answers(list(compare(name, REQUEST, {"left": Side(name)}, pool=pool)))

    threads = [threading.Thread(target=visit, args=(f"v{index}",)) for index in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: sides["left"].text for name, sides in found.items()} == {f"v{i}": f"v{i}" for i in range(5)}
    assert not engine.together


def test_a_request_that_nobody_could_be_asked_is_refused_at_once(engine: FakeEngine) -> None:
    with pytest.raises(RequestError):
        compare("x", Request("dancing"), SIDES, pool=FakePool())
    with pytest.raises(RequestError, match="no side"):
        compare("x", REQUEST, {}, pool=FakePool())
    assert not engine.asked


@pytest.mark.parametrize("idle", [True, False])
@pytest.mark.parametrize("at", ["single", "measure", "race"])  # the mode: a warm-up's is "single"
def test_memory_that_does_not_suffice_for_an_answer_evicts_what_is_idle(
    engine: FakeEngine, at: str, idle: bool
) -> None:
    pool, evicted = FakePool("cuda"), []
    pool.evict_idle = lambda device: evicted.append(device) or ["another"] * idle
    short = [True]

    def pause(name: str, index: int) -> None:
        if short and engine.asked[-1][2] == at:
            short.clear()
            raise DeviceMemoryError("The device ran out of memory.")

    engine.pause = pause
    mode = "race" if at == "race" else "measure"
    events = list(compare("x", REQUEST, {"left": Side("fast")}, mode=mode, pool=pool))
    answer = answers(events)["left"]
    assert len(evicted) == 1 and (answer.error is None) is idle
    assert any("trying once more" in str(event.value) for event in events) is idle


def test_a_lost_gpu_is_told_and_ends_a_server(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(faults, "_on_lost", [lambda: ended.append(1)])

    def pause(name: str, index: int) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later")

    engine.pause = pause
    found = answers(list(compare("x", REQUEST, SIDES, pool=FakePool())))
    assert all("cannot recover from (RuntimeError: CUDA error: device-side assert" in (answer.error or "")
               for answer in found.values())  # fmt: skip
    assert ended == [1]


def test_progress_through_the_layers_says_what_is_left() -> None:
    from vlcompare.comparison import _told_at_intervals

    said: list[Event] = []
    times = iter([0.0, 0.1, 0.6, 0.7, 2.1, 4.1])
    progress = _told_at_intervals("left", said.append, clock=lambda: next(times))
    for what, done in (("Picture", 0), ("Picture", 2), ("Picture", 3), ("Prompt", 0), ("Prompt", 5)):
        progress(what, done, 10)
    assert [event.value for event in said] == ["Picture 20 %", "Prompt 0 %", "Prompt 50 %, 2.0 s left"]
