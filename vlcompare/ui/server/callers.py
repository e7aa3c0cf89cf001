"""Who waits for the answer of a function that gradio serves, and whether they still do.

An event of the queue is marked by gradio when the stream of its answers breaks off. A direct call is a request that the
guard watches: it gives it an id, in a header, for as long as the client is there. A tool call by MCP passes its headers
on to the queue, by a client inside of this server, so it is known there by the same id.
"""

from __future__ import annotations

import functools
import inspect
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from vlcompare.errors import VLCompareError
from vlcompare.ui.server.concurrency import CallerLeft, Turns

HEADER = "x-vlcompare-call"
_open: set[str] = set()  # calls whose client is there


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
    """The caller of the function that gradio is calling at the moment."""

    def __init__(self) -> None:
        blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
        request = LocalContext.request.get(None)
        self.direct = event_id is None
        self._event = blocks._queue.event_ids_to_events.get(event_id) if blocks and event_id else None
        headers = getattr(request, "headers", None)
        self._call = headers.get(HEADER) if headers else None

    def left(self) -> bool:
        if self._event is not None and not self._event.alive:
            return True
        return self._call is not None and self._call not in _open


def serve_in_turns(page: gr.Blocks, models: Turns, others: Turns) -> None:
    """Have the page's queued functions run in turns, however they are called: `models` for those that run models."""
    for served in page.fns.values():
        if served.queue and served.fn is not None:
            served.fn = in_turn(models if served.concurrency_id == "models" else others, served.fn)


def in_turn(turns: Turns, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, plain or a generator, as gradio may serve it: in a turn, and stopped when its caller leaves."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        async def items(*values: Any) -> AsyncIterator[Any]:
            own = turns.items(GradioCaller(), function, *values)
            try:
                async for item in own:
                    yield item
            except (CallerLeft, VLCompareError) as error:
                raise _said(error) from None
            finally:
                await own.aclose()  # type: ignore[attr-defined]

        return items

    @functools.wraps(function)
    async def value(*values: Any) -> Any:
        try:
            return await turns.value(GradioCaller(), function, *values)
        except (CallerLeft, VLCompareError) as error:
            raise _said(error) from None

    return value


def _said(error: Exception) -> gr.Error:
    return gr.Error(str(error) or "The caller left.", print_exception=False)
