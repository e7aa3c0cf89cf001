"""How many comparisons run at once, whichever way they are asked for, and that they end when nobody waits for them.

gradio's queue has a limit of its own, but a direct POST (/run/...) passes the queue by: so the limit is inside the
functions that are served. Whoever waits for a turn holds no thread. Events of the queue go first, since they have
waited there; of direct calls only so many may wait. Knows asyncio and threads; knows nothing of gradio or models.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from vlcompare.errors import RequestError

T = TypeVar("T")
LOOK = 0.25  # seconds between two looks whether the caller is still there


class Stop:
    """Stops the work of one call: whoever works in it adds the event that ends this work."""

    def __init__(self) -> None:
        self._events: list[threading.Event] = []
        self._set = False

    def add(self, event: threading.Event) -> None:
        self._events.append(event)
        if self._set:
            event.set()

    def set(self) -> None:
        self._set = True
        for event in self._events:
            event.set()


CALL: contextvars.ContextVar[Stop | None] = contextvars.ContextVar("call", default=None)  # the call at work


class Caller(Protocol):
    """Who waits for an answer."""

    direct: bool  # past the queue

    def left(self) -> bool: ...


class CallerLeft(Exception):
    """Nobody waits for the answer any more."""


class Turns:
    """`limit` turns at once; at most `waiting` direct calls may wait for one. All use is from one event loop."""

    def __init__(self, limit: int, waiting: int) -> None:
        self.limit = limit
        self.waiting = waiting
        self.taken = 0
        self._queued: deque[asyncio.Future[None]] = deque()
        self._direct: deque[asyncio.Future[None]] = deque()
        self._threads = ThreadPoolExecutor(limit, thread_name_prefix="vlcompare-turn")

    @asynccontextmanager
    async def turn(self, caller: Caller) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Raises RequestError where too many wait, CallerLeft where the caller left."""
        await self._take(caller)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, caller: Caller) -> None:
        if self.taken < self.limit:
            self.taken += 1
            return
        line = self._direct if caller.direct else self._queued
        if caller.direct and len(line) >= self.waiting:
            raise RequestError(f"The server is busy: {self.waiting} calls wait for it already. Try again in a while.")
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(mine)
        try:
            while not mine.done():
                await asyncio.wait({mine}, timeout=LOOK)
                if caller.left():
                    raise CallerLeft
        except BaseException:
            if mine.done():
                self._give_back()
            else:
                line.remove(mine)
            raise

    def _give_back(self) -> None:
        """To whoever waits longest, of the queue's events first."""
        for line in (self._queued, self._direct):
            if line:
                line.popleft().set_result(None)
                return
        self.taken -= 1

    async def _run(
        self, context: contextvars.Context, caller: Caller, stop: Stop, function: Callable[..., T], *values: Any
    ) -> T:
        """The function's value, from a thread; it is stopped where the caller leaves meanwhile, or is cancelled."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, context.run, function, *values)
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=LOOK)
                if not work.done() and caller.left():
                    stop.set()
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({work})
            raise
        return work.result()

    async def value(self, caller: Caller, function: Callable[..., T], *values: Any) -> T:
        """Call the function in a turn, in a thread; it finds in CALL what is set when its caller leaves."""
        async with self.turn(caller):
            context, stop = _context()
            return await self._run(context, caller, stop, function, *values)

    async def items(self, caller: Caller, function: Callable[..., Iterator[T]], *values: Any) -> AsyncIterator[T]:
        """The items of a generator in a turn, as `value` calls a function; it is closed with this one."""
        async with self.turn(caller):
            context, stop = _context()
            items = function(*values)
            try:
                while (item := await self._run(context, caller, stop, next, items, _END)) is not _END:
                    yield item  # type: ignore[misc]
            finally:
                # in a thread: a comparison is given some seconds to end
                close = items.close  # type: ignore[attr-defined]
                await asyncio.get_running_loop().run_in_executor(self._threads, context.run, close)


_END: Any = object()


def _context() -> tuple[contextvars.Context, Stop]:
    """A copy of the context that is the call's own, and what stops the call."""
    context, stop = contextvars.copy_context(), Stop()
    context.run(CALL.set, stop)
    return context, stop
