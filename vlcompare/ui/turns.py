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

# what stops the work of the function at hand; set for each call
CANCEL: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("cancel", default=None)


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

    async def run(self, function: Callable[..., T], *values: Any, caller: Caller, stop: Callable[[], Any]) -> T:
        """The function's value, from a thread. `stop` is called where the caller leaves meanwhile, or is cancelled."""
        context = contextvars.copy_context()
        work = asyncio.get_running_loop().run_in_executor(self._threads, context.run, function, *values)
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=LOOK)
                if not work.done() and caller.left():
                    stop()
        except asyncio.CancelledError:
            stop()
            await asyncio.wait({work})
            raise
        return work.result()

    async def value(self, caller: Caller, function: Callable[..., T], *values: Any) -> T:
        """Call the function in a turn; it finds in CANCEL what is set when its caller leaves."""
        async with self.turn(caller):
            cancel = threading.Event()
            CANCEL.set(cancel)
            return await self.run(function, *values, caller=caller, stop=cancel.set)

    async def items(
        self, caller: Caller, function: Callable[..., Iterator[T]], *values: Any, stop: Callable[[], Any]
    ) -> AsyncIterator[T]:
        """The items of a generator in a turn, each made in a thread; it is closed with this one."""
        async with self.turn(caller):
            items = function(*values)
            try:
                while (item := await self.run(next, items, _END, caller=caller, stop=stop)) is not _END:
                    yield item  # type: ignore[misc]
            finally:
                # in a thread: a comparison is given some seconds to end
                await asyncio.get_running_loop().run_in_executor(self._threads, items.close)  # type: ignore[attr-defined]


_END: Any = object()
