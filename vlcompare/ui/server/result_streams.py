"""The end of a session's stream of results: the reply to the session's next event waits until the client has read it.

gradio ends the stream as the session's last queued event ends. A client that reads so after the reply to its next event
has opened no new stream for that event: the models run, and the page shows nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlcompare.ui.server.allowed_hosts import API
from vlcompare.ui.server.session_names import FIELD, own_name
from vlcompare.ui.server.session_states import CLIENT

STREAM = f"{API}/queue/data"
END = b'data: {"msg":"close_stream"'  # gradio's last message
READ_SECONDS = 2.0  # at most: a proxy may keep its connection to this server, although the client has closed its own

_unread: dict[str, asyncio.Event] = {}  # by session: its stream has ended; set once the client has read so


async def serve_stream(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a stream. After its last message wait until the client closes the connection: by then it has read it."""
    query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
    session = own_name(query.get(FIELD, ""), CLIENT.get())  # as the application and its queue have it
    read = asyncio.Event()

    async def sent(message: Message) -> None:
        if message.get("body", b"").startswith(END):
            _unread[session] = read
        elif _unread.get(session) is read and not message.get("more_body"):
            await _closed(receive)
        await send(message)

    try:
        await app(scope, receive, sent)
    finally:
        read.set()
        if _unread.get(session) is read:
            del _unread[session]


async def end_is_read(session: str | None) -> None:
    """Wait until the client has read the end of the session's last stream, if that has ended, or for READ_SECONDS: the
    stream itself waits for as long as the client reads nothing.
    """
    if session in _unread:
        with suppress(TimeoutError):
            async with asyncio.timeout(READ_SECONDS):
                await _unread[session].wait()


async def _closed(receive: Receive) -> None:
    """Wait until the connection is closed, or for READ_SECONDS."""
    with suppress(TimeoutError):
        async with asyncio.timeout(READ_SECONDS):
            while (await receive())["type"] != "http.disconnect":
                pass
