"""The end of a session's stream of results, without a browser: what waits until it is read, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from vlcompare.ui.server import result_streams
from vlcompare.ui.server.result_streams import end_is_read, serve_stream
from vlcompare.ui.server.session_names import own_name
from vlcompare.ui.server.session_states import CLIENT


def message(name: str) -> dict[str, Any]:
    body = f'data: {{"msg":"{name}","event_id":null}}\n\n'.encode()
    return {"type": "http.response.body", "body": body, "more_body": True}


class Stream:
    """One stream of a session: the test sends its messages, and closes the connection."""

    def __init__(self, session: str = "right-here") -> None:
        self.sent: list[dict[str, Any]] = []
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._closed, self.reads = asyncio.Event(), asyncio.Event()
        self.reads.set()
        scope = {"type": "http", "query_string": f"session_hash={session}".encode()}
        self.task = asyncio.ensure_future(serve_stream(self._app, scope, self._receive, self._send))

    async def say(self, *messages: dict[str, Any]) -> None:
        for one in messages:
            self._messages.put_nowait(one)
        await turns()

    def close(self) -> None:
        self._closed.set()

    async def _app(self, scope: Any, receive: Any, send: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        more = True
        while more:
            one = await self._messages.get()
            await send(one)
            more = one["more_body"]

    async def _receive(self) -> dict[str, Any]:
        await self._closed.wait()
        return {"type": "http.disconnect"}

    async def _send(self, one: dict[str, Any]) -> None:
        await self.reads.wait()  # the server holds back what would fill the connection
        self.sent.append(one)


LAST = {"type": "http.response.body", "body": b"", "more_body": False}


async def turns() -> None:
    """Let everything go on that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_next_events_reply_waits_until_the_client_has_closed_the_ended_stream() -> None:
    async def play() -> None:
        stream = Stream()
        await stream.say(message("process_generating"), message("process_completed"))
        await asyncio.wait_for(end_is_read("right-here"), 60)  # it goes on: the next event's results come through it
        await stream.say(message("close_stream"))
        assert b"close_stream" in stream.sent[-1]["body"]
        reply, other = asyncio.ensure_future(end_is_read("right-here")), asyncio.ensure_future(end_is_read("elsewhere"))
        await stream.say(LAST)
        assert other.done() and not reply.done() and not stream.task.done()
        stream.close()
        await asyncio.wait_for(asyncio.gather(reply, stream.task), 60)
        await asyncio.wait_for(end_is_read("right-here"), 60)

    asyncio.run(play())
    assert not result_streams._unread


@pytest.mark.parametrize("how", ["the connection stays", "the server ends", "it breaks off"])
def test_a_reply_waits_no_longer_than_the_stream(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_streams, "READ_SECONDS", 600.0)

    async def play() -> None:
        stream = Stream()
        await stream.say(message("close_stream"))
        reply = asyncio.ensure_future(end_is_read("right-here"))
        await turns()
        assert not reply.done()
        if how == "the connection stays":
            monkeypatch.setattr(result_streams, "READ_SECONDS", 0.01)
            await stream.say(LAST)
        elif how == "the server ends":
            await stream.say(LAST)
            stream.task.cancel()
        else:
            stream.task.cancel()
        await asyncio.wait_for(reply, 60)
        await asyncio.wait({stream.task})
        assert stream.task.cancelled() == (how != "the connection stays")

    asyncio.run(play())
    assert not result_streams._unread


def test_a_reply_does_not_wait_for_a_client_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_streams, "READ_SECONDS", 0.01)

    async def play() -> None:
        stream = Stream()
        stream.reads.clear()
        await stream.say(message("close_stream"))
        await asyncio.wait_for(end_is_read("right-here"), 60)
        assert not stream.sent and not stream.task.done()
        stream.reads.set()
        await stream.say(LAST)
        await asyncio.wait_for(stream.task, 60)

    asyncio.run(play())
    assert not result_streams._unread


def test_the_stream_of_a_short_name_is_that_of_the_session_which_the_queue_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(result_streams, "READ_SECONDS", 600.0)

    async def play() -> None:
        stream = Stream("x")
        await stream.say(message("close_stream"), LAST)
        reply = asyncio.ensure_future(end_is_read(own_name("x", CLIENT.get())))
        await turns()
        assert not reply.done()
        stream.close()
        await asyncio.wait_for(asyncio.gather(reply, stream.task), 60)

    asyncio.run(play())
