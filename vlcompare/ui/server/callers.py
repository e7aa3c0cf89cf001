"""Runs gradio's functions in slots of `concurrency`, and knows whether the client of a call is still connected.

gradio marks a queued event when its event stream breaks off. A direct call has an id in a header, which `middleware`
adds and keeps open while the client is connected. An MCP tool call passes its headers on to the queue, through a client
inside this server, so the same id identifies it there.
"""

from __future__ import annotations

import functools
import inspect
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from vlcompare.ui.server.concurrency import Slots

HEADER = "x-vlcompare-call"
_open: set[str] = set()  # calls whose client is connected


def open_call() -> str:
    """A new call's id."""
    call = secrets.token_urlsafe(16)
    _open.add(call)
    return call


def close_call(call: str) -> None:
    _open.discard(call)


def is_open(call: str) -> bool:
    return call in _open


class GradioCaller:
    """The client of the function call that gradio is making."""

    def __init__(self) -> None:
        blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
        request = LocalContext.request.get(None)
        self.direct = event_id is None
        self._queue = blocks._queue if blocks else None
        self._event = blocks._queue.event_ids_to_events.get(event_id) if blocks and event_id else None
        headers = getattr(request, "headers", None)
        self._call = headers.get(HEADER) if headers else None

    def disconnected(self) -> bool:
        if self._event is not None and not self._event.alive:
            return True
        return self._call is not None and self._call not in _open

    def count(self, change: int) -> None:
        """gradio counts the events at work, and has one to start where these are fewer than its limit."""
        if self._event is not None and self._queue is not None:
            self._queue.event_queue_per_concurrency_id[self._event.concurrency_id].current_concurrency += change


def limit_concurrency(page: gr.Blocks, models: Slots, others: Slots) -> None:
    """Run the page's queued functions in slots, however they are called: `models` for those that run models."""
    for served in page.fns.values():
        if served.queue and served.fn is not None:
            served.fn = in_slot(models if served.concurrency_id == "models" else others, served.fn)


def in_slot(slots: Slots, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function or generator function, run in a slot and stopped when its client disconnects."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        async def items(*values: Any) -> AsyncIterator[Any]:
            async with aclosing(slots.items(GradioCaller(), function, *values)) as own:  # type: ignore[type-var]
                async for item in own:
                    yield item

        return items

    @functools.wraps(function)
    async def value(*values: Any) -> Any:
        return await slots.value(GradioCaller(), function, *values)

    return value
