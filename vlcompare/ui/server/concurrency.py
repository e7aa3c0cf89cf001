"""A limit on concurrent calls, however they arrive, which also stops a call whose client disconnects.

gradio's queue has a limit of its own, but a direct POST (/run/...) bypasses the queue, so this limit is inside the
served functions. A waiting call holds no thread. Queued events go first, since they have waited in the queue; the
number of direct calls that wait is bounded. A call that computes nothing for a while, because it downloads or waits for
another call's load, gives its slot back meanwhile and is the next to get one afterwards.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

from vlcompare.errors import RequestError

T = TypeVar("T")
POLL = 0.25  # seconds between two checks that the client is still connected
MAX_IDLE = 16  # calls whose slot others have meanwhile; more keep theirs until one of these goes on


class Caller(Protocol):
    """The client of one call."""

    direct: bool  # the call bypasses gradio's queue

    def disconnected(self) -> bool: ...

    def count(self, change: int) -> None:
        """Correct the number of calls at work by which gradio starts the next event of its queue: -1 or +1."""


class Disconnected(RequestError):
    """The client of a call has disconnected, or its work was stopped."""


class Call:
    """One call that has a slot: stops its work, and gives the slot to others while it computes nothing."""

    def __init__(self, slots: Slots, caller: Caller) -> None:
        self._slots, self._caller, self._loop = slots, caller, asyncio.get_running_loop()
        self._events: list[threading.Event] = []
        self._set = self._over = False
        self._has_slot, self._counted = True, True
        self._is_idle = False  # others have its slot

    def add(self, event: threading.Event) -> None:
        """`event` ends a part of the work: it is set when the call is stopped."""
        self._events.append(event)
        if self._set:
            event.set()

    def stop(self) -> None:
        self._set = True
        for event in self._events:
            event.set()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Without the slot, for a part of the work that computes nothing; afterwards the call waits for one again.

        For the call's worker threads, one at a time. Work that was stopped meanwhile goes on to its end without a slot.
        """
        gave = self._in_loop(self._give_back())
        try:
            yield
        finally:
            if gave:
                self._in_loop(self._take_back())

    def end(self) -> None:
        """Give the slot back for good."""
        self._over = True
        if self in self._slots.keeping:
            self._slots.keeping.remove(self)
        if self._has_slot:
            self._slots.release()
        self._has_slot = False
        self._count()

    def _stopped(self) -> bool:
        return self._over or self._set or any(event.is_set() for event in self._events)

    def _in_loop(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Run it in the server's event loop, and wait for it; False if the loop ends meanwhile."""
        try:
            found = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # it is closed
            work.close()
            return False
        while not self._loop.is_closed():
            try:
                return found.result(timeout=1)
            except TimeoutError:
                continue
        return False

    async def _give_back(self) -> bool:
        """False where there is no slot to give back. Where too many calls are idle, it is given back later."""
        if not self._has_slot:
            return False
        self._slots.keeping.append(self)
        self._slots.begin_idle()
        return True

    def leave_slot(self) -> None:
        """Let others have the slot until the call goes on."""
        self._is_idle, self._has_slot, self._counted = True, False, False
        self._slots.release()
        self._caller.count(-1)

    async def _take_back(self) -> bool:
        if not self._is_idle:  # it kept its slot all the time, or is over
            if self in self._slots.keeping:
                self._slots.keeping.remove(self)
            return self._has_slot
        self._is_idle = False
        self._slots.idle -= 1
        self._slots.begin_idle()
        if self._over:
            return False
        self._count()
        found = await self._slots.acquire_again(self._stopped)
        if found and self._over:  # it was granted just before the end
            self._slots.release()
            return False
        self._has_slot = found
        return found

    def _count(self) -> None:
        """Count it as at work again: where it ends, gradio counts down."""
        if not self._counted:
            self._counted = True
            self._caller.count(+1)


CURRENT_CALL: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


def idle_of_call() -> Callable[[], AbstractContextManager[None]]:
    """The current call's `idle`, also for other threads of its work; does nothing outside of calls."""
    call = CURRENT_CALL.get()
    return nullcontext if call is None else call.idle


class Slots:
    """`limit` calls at once; at most `waiting` direct calls may wait. Used from one event loop.

    most_idle: calls that may be under way without a slot.
    """

    def __init__(self, limit: int, waiting: int, most_idle: int = MAX_IDLE) -> None:
        self.limit = limit
        self.waiting = waiting
        self.most_idle = most_idle
        self.taken = self.idle = 0
        self.keeping: deque[Call] = deque()  # calls that compute nothing, but keep their slots
        self._again: deque[asyncio.Future[None]] = deque()
        self._queued: deque[asyncio.Future[None]] = deque()
        self._direct: deque[asyncio.Future[None]] = deque()
        self._threads = ThreadPoolExecutor(limit + most_idle, thread_name_prefix="vlcompare-call")

    @asynccontextmanager
    async def slot(self, caller: Caller) -> AsyncIterator[Call]:
        """Wait for a slot and hold it. Raises RequestError if too many calls wait, or Disconnected."""
        waiting = self._direct if caller.direct else self._queued
        if caller.direct and self.taken >= self.limit and len(waiting) >= self.waiting:
            raise RequestError(f"The server is busy: {self.waiting} calls wait for it already. Try again in a while.")
        await self._acquire(waiting, caller.disconnected)
        call = Call(self, caller)
        try:
            yield call
        finally:
            call.end()

    def begin_idle(self) -> None:
        """Take the slots of calls that keep theirs, while more calls may be idle.

        One that is idle may wait for what a call holds that waits for a slot: none may keep its slot for good.
        """
        while self.keeping and self.idle < self.most_idle:
            self.idle += 1
            self.keeping.popleft().leave_slot()

    async def acquire_again(self, stopped: Callable[[], bool]) -> bool:
        """Wait for a slot before the calls that have not begun; False once `stopped()`."""
        try:
            await self._acquire(self._again, stopped)
        except Disconnected:
            return False
        return True

    async def _acquire(self, waiting: deque[asyncio.Future[None]], gone: Callable[[], bool]) -> None:
        if self.taken < self.limit:
            self.taken += 1
            return
        own: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(own)
        try:
            while not own.done():
                await asyncio.wait({own}, timeout=POLL)
                if gone():
                    raise Disconnected("The client disconnected.")
        except BaseException:
            if own.done():
                self.release()
            else:
                waiting.remove(own)
            raise

    def release(self) -> None:
        """Give the slot to the call that has waited longest: those that were idle first, then queued events."""
        for waiting in (self._again, self._queued, self._direct):
            if waiting:
                waiting.popleft().set_result(None)
                return
        self.taken -= 1

    async def _run(
        self, context: contextvars.Context, caller: Caller, call: Call, function: Callable[..., T], *values: Any
    ) -> T:
        """Run the function in a thread; it is stopped if the client disconnects or the task is cancelled."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, context.run, function, *values)
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=POLL)
                if not work.done() and caller.disconnected():
                    call.stop()
        except asyncio.CancelledError:
            call.stop()
            await asyncio.wait({work})
            raise
        return work.result()

    async def value(self, caller: Caller, function: Callable[..., T], *values: Any) -> T:
        """Call the function in a slot, in a thread; CURRENT_CALL holds the call."""
        async with self.slot(caller) as call:
            return await self._run(_context(call), caller, call, function, *values)

    async def items(self, caller: Caller, function: Callable[..., Iterator[T]], *values: Any) -> AsyncIterator[T]:
        """The items of a generator function in a slot, as `value` does; both generators are closed together."""
        async with self.slot(caller) as call:
            context = _context(call)
            items = function(*values)
            try:
                while (item := await self._run(context, caller, call, next, items, _END)) is not _END:
                    yield item  # type: ignore[misc]
            finally:
                # in a thread: a comparison may take some seconds to end
                close = items.close  # type: ignore[attr-defined]
                await asyncio.get_running_loop().run_in_executor(self._threads, context.run, close)


_END: Any = object()


def _context(call: Call) -> contextvars.Context:
    """A copy of the context, in which `call` is the current one."""
    context = contextvars.copy_context()
    context.run(CURRENT_CALL.set, call)
    return context
