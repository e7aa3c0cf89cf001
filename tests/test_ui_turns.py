"""The limit inside the functions that are served: how many at once, who goes first, and who left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ui_fakes import FakeCompare

from vlcompare.errors import RequestError
from vlcompare.ui.server.concurrency import CURRENT_CALL, Disconnected, Slots


@dataclass
class Someone:
    direct: bool = True
    gone: bool = False
    counted: int = 1

    def disconnected(self) -> bool:
        return self.gone

    def count(self, change: int) -> None:
        self.counted += change


class Work:
    """Counts what is at work at once; each call goes on until `go` is set, or its caller has left."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.lock = threading.Lock()
        self.running = self.most = self.stopped = 0
        self.order: list[Any] = []

    def __call__(self, name: Any = None) -> Any:
        cancel, call = threading.Event(), CURRENT_CALL.get()
        if call is not None:
            call.add(cancel)
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.order.append(name)
        try:
            while not self.go.wait(0.01):
                if cancel.is_set():
                    self.stopped += 1
                    return "stopped"
            return name
        finally:
            with self.lock:
                self.running -= 1


async def at_work(work: Work, count: int) -> None:
    while work.running != count:
        await asyncio.sleep(0.01)


def test_no_more_than_the_limit_work_at_once_and_all_are_answered() -> None:
    work, slots = Work(), Slots(2, 30)

    async def play() -> list[Any]:
        tasks = [asyncio.create_task(slots.value(Someone(), work, number)) for number in range(20)]
        await at_work(work, 2)
        work.go.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(play()) == list(range(20))
    assert work.most == 2 and slots.taken == 0 and work.order == sorted(work.order)


def test_events_of_the_queue_go_before_direct_calls() -> None:
    work, slots = Work(), Slots(1, 30)

    async def play() -> None:
        tasks = [asyncio.create_task(slots.value(Someone(), work, f"direct{number}")) for number in range(4)]
        await at_work(work, 1)
        tasks.append(asyncio.create_task(slots.value(Someone(direct=False), work, "queued")))
        await asyncio.sleep(0)
        work.go.set()
        await asyncio.gather(*tasks)

    asyncio.run(play())
    assert work.order == ["direct0", "queued", "direct1", "direct2", "direct3"]


def test_of_direct_calls_only_so_many_wait() -> None:
    work, slots = Work(), Slots(1, 2)

    async def play() -> list[Any]:
        tasks = [asyncio.create_task(slots.value(Someone(), work, number)) for number in range(5)]
        await at_work(work, 1)
        work.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(play())
    assert found[:3] == [0, 1, 2] and all(isinstance(one, RequestError) for one in found[3:])
    assert "busy" in str(found[3])


def test_who_leaves_stops_its_work_and_waits_no_longer() -> None:
    work, slots = Work(), Slots(1, 30)
    first, second, third = Someone(), Someone(), Someone()

    async def play() -> list[Any]:
        tasks = [asyncio.create_task(slots.value(one, work, name)) for name, one in enumerate((first, second, third))]
        await at_work(work, 1)
        first.gone = second.gone = True
        await asyncio.wait(tasks[:2])
        await at_work(work, 1)
        work.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(play())
    assert found[0] == "stopped" and isinstance(found[1], Disconnected) and found[2] == 2
    assert work.order == [0, 2] and slots.taken == 0


@pytest.mark.parametrize("how", ["closed", "cancelled", "left", "ended", "failed"])
def test_a_generator_holds_its_turn_until_it_is_over(how: str) -> None:
    slots, closed, stop = Slots(1, 5), threading.Event(), threading.Event()
    caller = Someone()

    def count() -> Iterator[int]:
        call = CURRENT_CALL.get()
        assert call is not None
        call.add(stop)
        try:
            yield 1
            if how == "failed":
                raise RequestError("no")
            if how in ("cancelled", "left"):
                assert stop.wait(120)
            yield 2
        finally:
            closed.set()

    async def play() -> None:
        items = slots.items(caller, count)
        assert await anext(items) == 1 and slots.taken == 1
        if how == "closed":
            await items.aclose()
            return
        rest = asyncio.create_task(anext(items))
        await asyncio.sleep(0.02)
        if how == "cancelled":
            rest.cancel()
            with pytest.raises(asyncio.CancelledError):
                await rest
        elif how == "failed":
            with pytest.raises(RequestError):
                await rest
        else:
            caller.gone = how == "left"
            assert await rest == 2 and slots.taken == 1
            assert [item async for item in items] == []

    asyncio.run(play())
    assert closed.is_set() and slots.taken == 0


def test_a_turn_is_given_back_where_its_work_fails() -> None:
    slots = Slots(1, 5)

    def fail() -> None:
        raise RequestError("no")

    for _ in range(3):
        with pytest.raises(RequestError):
            asyncio.run(slots.value(Someone(), fail))
    assert slots.taken == 0


def during(slots: Slots, caller: Someone, inside: threading.Event, after: threading.Event, say: list[str]) -> Any:
    """Work whose middle part computes nothing: it sets `inside`, and goes on once `after` is set."""

    def work() -> str:
        call = CURRENT_CALL.get()
        assert call is not None
        stop = threading.Event()
        call.add(stop)
        with call.idle():
            inside.set()
            while not after.wait(0.01) and not stop.is_set():
                pass
        say.append("stopped" if stop.is_set() else "went on")
        return say[-1]

    return slots.value(caller, work)


def test_a_call_that_computes_nothing_leaves_its_slot_to_others_and_is_the_next_afterwards() -> None:
    slots, work, caller = Slots(1, 5), Work(), Someone(direct=False)
    inside, after, said = threading.Event(), threading.Event(), list[str]()

    async def play() -> None:
        idle = asyncio.create_task(during(slots, caller, inside, after, said))
        while not inside.is_set():
            await asyncio.sleep(0.01)
        assert (slots.taken, slots.idle, caller.counted) == (0, 1, 0)
        others = [asyncio.create_task(slots.value(Someone(direct=False), work, number)) for number in range(2)]
        await at_work(work, 1)
        after.set()
        while slots.idle:
            await asyncio.sleep(0.01)
        assert caller.counted == 1 and said == [0], "it waits for a slot"
        work.go.set()
        assert await idle == "went on"
        await asyncio.gather(*others)

    work.order = said  # type: ignore[assignment]
    asyncio.run(play())
    assert said == [0, "went on", 1] and slots.taken == 0 and caller.counted == 1  # type: ignore[comparison-overlap]


@pytest.mark.parametrize("how", ["while it is idle", "while it waits for a slot"])
def test_a_call_that_is_left_without_a_slot_ends_without_one(how: str) -> None:
    slots, work, caller = Slots(1, 5), Work(), Someone()
    inside, after, said = threading.Event(), threading.Event(), list[str]()

    async def play() -> None:
        idle = asyncio.create_task(during(slots, caller, inside, after, said))
        while not inside.is_set():
            await asyncio.sleep(0.01)
        other = asyncio.create_task(slots.value(Someone(), work, "other"))
        await at_work(work, 1)
        if how != "while it is idle":
            after.set()
            while slots.idle:
                await asyncio.sleep(0.01)
        caller.gone = True
        assert await idle == "stopped"
        assert slots.taken == 1 and caller.counted == 1
        work.go.set()
        assert await other == "other"

    asyncio.run(play())
    assert slots.taken == slots.idle == 0


def test_a_call_that_keeps_its_slot_leaves_it_once_another_goes_on() -> None:
    """Where the first one holds what the second one waits for, both would else wait for each other for good."""
    slots, inside, after = Slots(1, 5, most_idle=1), [threading.Event() for _ in range(2)], threading.Event()
    callers = [Someone(direct=False) for _ in range(2)]

    async def play() -> None:
        done = threading.Event()  # the first call is over, for which the second one waits
        first = asyncio.create_task(during(slots, callers[0], inside[0], after, []))
        while not inside[0].is_set():
            await asyncio.sleep(0.01)
        second = asyncio.create_task(during(slots, callers[1], inside[1], done, []))
        while not inside[1].is_set():
            await asyncio.sleep(0.01)
        assert (slots.taken, slots.idle) == (1, 1)
        after.set()
        assert await asyncio.wait_for(first, 30) == "went on"
        done.set()
        assert await asyncio.wait_for(second, 30) == "went on"

    asyncio.run(play())
    assert slots.taken == slots.idle == 0 and not slots.keeping
    assert [caller.counted for caller in callers] == [1, 1]


def test_more_idle_calls_than_there_may_be_keep_their_slots() -> None:
    slots, after = Slots(2, 5, most_idle=1), threading.Event()

    async def play() -> None:
        inside = [threading.Event(), threading.Event()]
        tasks = [asyncio.create_task(during(slots, Someone(), one, after, [])) for one in inside]
        while not all(one.is_set() for one in inside):
            await asyncio.sleep(0.01)
        assert (slots.taken, slots.idle) == (1, 1)
        after.set()
        assert await asyncio.gather(*tasks) == ["went on"] * 2

    asyncio.run(play())
    assert slots.taken == slots.idle == 0


def test_what_runs_ends_as_the_next_one_enters_the_queue(tmp_path: Path) -> None:
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.compare.session import CompareSession
    from vlcompare.ui.page import build_page
    from vlcompare.ui.server.session_states import FairStates
    from vlcompare.ui.settings import AppSettings

    settings = AppSettings(data=tmp_path)
    page = build_page(settings, Handlers(settings, FakeCompare(), None))
    states = FairStates()
    states.set_blocks(page)
    (own,) = [key for key, block in page.blocks.items() if isinstance(getattr(block, "value", None), CompareSession)]
    called = {served.api_name: number for number, served in page.fns.items()}
    entered: list[bool] = []

    async def push(body: Any, **_: Any) -> tuple[bool, str, str]:
        entered.append(session.cancel.is_set())
        return True, "event", "success"

    page._queue.push.__self__._push = push
    session = states["here"][own]
    running = [(name, "here", True) for name in ("ask", "follow", "three", "begin")]
    for name, where, ends in (*running, ("upload", "here", False), ("ask", "elsewhere", False)):
        session.cancel = threading.Event()
        asyncio.run(page._queue.push(SimpleNamespace(session_hash=where, fn_index=called[name]), None, None))
        assert entered[-1] == ends, (name, where)
    assert len(entered) == 6 and session.asked == len(running)
