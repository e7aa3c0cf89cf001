"""A limit on concurrent calls, however they arrive, which also stops a call whose client disconnects.

gradio's queue has a limit of its own, but a direct POST (/run/...) bypasses the queue, so this limit is inside the
served functions. A waiting call holds no thread. Queued events go first, since they have waited in the queue; the
number of direct calls that wait is bounded.
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
POLL = 0.25  # seconds between two checks that the client is still connected


class StopSignal:
    """Stops the work of one call: its parts add the events that end them."""

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


CURRENT_CALL: contextvars.ContextVar[StopSignal | None] = contextvars.ContextVar("call", default=None)


class Caller(Protocol):
    """The client of one call."""

    direct: bool  # the call bypasses gradio's queue

    def disconnected(self) -> bool: ...


class Disconnected(RequestError):
    """The client of a call has disconnected."""


class Slots:
    """`limit` calls at once; at most `waiting` direct calls may wait. Used from one event loop."""

    def __init__(self, limit: int, waiting: int) -> None:
        self.limit = limit
        self.waiting = waiting
        self.taken = 0
        self._queued: deque[asyncio.Future[None]] = deque()
        self._direct: deque[asyncio.Future[None]] = deque()
        self._threads = ThreadPoolExecutor(limit, thread_name_prefix="vlcompare-call")

    @asynccontextmanager
    async def slot(self, caller: Caller) -> AsyncIterator[None]:
        """Wait for a slot and hold it. Raises RequestError if too many calls wait, or Disconnected."""
        await self._acquire(caller)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, caller: Caller) -> None:
        if self.taken < self.limit:
            self.taken += 1
            return
        waiting = self._direct if caller.direct else self._queued
        if caller.direct and len(waiting) >= self.waiting:
            raise RequestError(f"The server is busy: {self.waiting} calls wait for it already. Try again in a while.")
        own: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(own)
        try:
            while not own.done():
                await asyncio.wait({own}, timeout=POLL)
                if caller.disconnected():
                    raise Disconnected("The client disconnected.")
        except BaseException:
            if own.done():
                self._release()
            else:
                waiting.remove(own)
            raise

    def _release(self) -> None:
        """Give the slot to the call that has waited longest, queued events first."""
        for waiting in (self._queued, self._direct):
            if waiting:
                waiting.popleft().set_result(None)
                return
        self.taken -= 1

    async def _run(
        self, context: contextvars.Context, caller: Caller, stop: StopSignal, function: Callable[..., T], *values: Any
    ) -> T:
        """Run the function in a thread; it is stopped if the client disconnects or the task is cancelled."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, context.run, function, *values)
        try:
            while not work.done():
                await asyncio.wait({work}, timeout=POLL)
                if not work.done() and caller.disconnected():
                    stop.set()
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({work})
            raise
        return work.result()

    async def value(self, caller: Caller, function: Callable[..., T], *values: Any) -> T:
        """Call the function in a slot, in a thread; CURRENT_CALL holds its stop signal."""
        async with self.slot(caller):
            context, stop = _context()
            return await self._run(context, caller, stop, function, *values)

    async def items(self, caller: Caller, function: Callable[..., Iterator[T]], *values: Any) -> AsyncIterator[T]:
        """The items of a generator function in a slot, as `value` does; both generators are closed together."""
        async with self.slot(caller):
            context, stop = _context()
            items = function(*values)
            try:
                while (item := await self._run(context, caller, stop, next, items, _END)) is not _END:
                    yield item  # type: ignore[misc]
            finally:
                # in a thread: a comparison may take some seconds to end
                close = items.close  # type: ignore[attr-defined]
                await asyncio.get_running_loop().run_in_executor(self._threads, context.run, close)


_END: Any = object()


def _context() -> tuple[contextvars.Context, StopSignal]:
    """A copy of the context for one call, and its stop signal."""
    context, stop = contextvars.copy_context(), StopSignal()
    context.run(CURRENT_CALL.set, stop)
    return context, stop
