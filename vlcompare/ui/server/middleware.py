"""ASGI middleware in front of gradio's application: every request passes here first, whatever route it names.

Applies the rules of `access`. Knows HTTP and nothing of the page's functions. Behind it a request looks as the
visitor's browser sent it: the public host and scheme in place of the proxy's, the prefix in its path, no header left
from which gradio would guess them. gradio's own middleware for cross-origin requests is further in: it echoes every
origin that it sees, so it sees none that is foreign.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from gradio.routes import App, ORJSONResponse

from vlcompare.ui.server import callers
from vlcompare.ui.server.allowed_hosts import API, Access, Refusal, Seen
from vlcompare.ui.server.http_errors import Sentences
from vlcompare.ui.server.rate_limit import Ledger, TooMuch, client_of
from vlcompare.ui.server.request_body import FORM_BYTES, UPLOAD, Body, declared, refuse

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PREFIX: ContextVar[str] = ContextVar("prefix", default="")
PROXY_HEADERS = {  # what they say is in the scope by then
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-forwarded-prefix",
    b"x-gradio-server",
}
CALL = callers.HEADER.encode()
# answered by the function itself, whose caller is there for as long as the connection
CALLING = re.compile(rf"{API}/(run|api)/|{API}/mcp(/http)?/?$")


@dataclass(frozen=True)
class Rules:
    """What the guard holds. file_bytes: of an uploaded file; json_bytes: of the body of any other request."""

    access: Access
    ledger: Ledger
    file_bytes: int
    json_bytes: int
    behind_proxy: bool = False  # every request comes by one

    def most(self, scope: Scope) -> int:
        """Bytes of this request's body at most."""
        upload = scope["path"].removeprefix(scope["root_path"]) == UPLOAD
        return self.file_bytes + FORM_BYTES if upload else self.json_bytes

    def client(self, scope: Scope) -> str:
        """Who sends it, as the quotas count."""
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return client_of((scope.get("client") or ("", 0))[0], forwarded, self.behind_proxy)


class Guard:
    """`app` behind these rules."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], rules: Rules) -> None:
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no web socket
            await send({"type": "websocket.close", "code": 1008})
            return
        seen = self.rules.access.look(scope["method"], scope["path"], scope["headers"], scope["scheme"])
        if isinstance(seen, Refusal):
            await refuse(send, seen)
            return
        token = PREFIX.set(seen.prefix)
        try:
            await self._bounded(rewritten(scope, seen), receive, send)
        finally:
            PREFIX.reset(token)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Within the client's quotas, and with a body that is counted."""
        client, ledger = self.rules.client(scope), self.rules.ledger
        most = self.rules.most(scope)
        if declared(scope["headers"]) > most:
            await refuse(send, Refusal(413, f"The request is larger than the {most // 2**20} MB that are taken here."))
            return
        try:
            ledger.open(client)
        except TooMuch as error:
            await refuse(send, Refusal(error.status, str(error)))
            return
        body = Body(scope, receive, send, client, ledger, most)
        try:
            await self._answer(scope, body.receive, body.send)
        except Exception:
            if body.refusal is None:
                raise
            await body.answer()
        finally:
            ledger.close(client)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST" or not CALLING.match(scope["path"].removeprefix(scope["root_path"])):
            await self.app(scope, receive, send)
            return
        call = callers.open_call()
        scope["headers"].append((CALL, call.encode()))
        try:
            async with watched(receive, lambda: callers.close_call(call)) as own:
                await self.app(scope, own, send)
        finally:
            callers.close_call(call)


def rewritten(scope: Scope, seen: Seen) -> Scope:
    """The scope as if the visitor's browser had asked this server directly."""
    dropped = PROXY_HEADERS | {b"host"} | ({b"origin"} if seen.foreign else set())
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name not in dropped and (name != CALL or callers.is_open(value.decode("latin-1")))
    ]
    headers.append((b"host", str(seen.place).encode()))
    new = {**scope, "headers": headers, "scheme": seen.scheme, "root_path": seen.prefix}
    if seen.prefix and not f"{scope['path']}/".startswith(f"{seen.prefix}/"):  # a proxy that strips it
        new["path"] = seen.prefix + scope["path"]
        new["raw_path"] = seen.prefix.encode() + (scope.get("raw_path") or b"")
    return new


@asynccontextmanager
async def watched(receive: Receive, left: Callable[[], None]) -> AsyncIterator[Receive]:
    """`receive`, which calls `left` as soon as the client is gone, whether anybody asks for it or not."""
    gone: asyncio.Task[Message] | None = None

    async def wait() -> Message:
        message = await receive()
        left()
        return message

    async def own() -> Message:
        nonlocal gone
        if gone is not None:
            return await asyncio.shield(gone)
        message = await receive()
        if message["type"] != "http.request":
            left()
        elif not message.get("more_body"):
            gone = asyncio.create_task(wait())
        return message

    try:
        yield own
    finally:
        if gone is not None:
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone


class GuardedApp(App):
    """gradio's application with the guard outside of all its middleware, and every failure told in a sentence."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(default_response_class=ORJSONResponse)
        self.rules = rules

    def build_middleware_stack(self) -> Any:
        return Guard(Sentences(super().build_middleware_stack()), self.rules)

    @property
    def root_path(self) -> str:
        """The prefix of the request at work: each may come through another proxy, or through none."""
        return PREFIX.get()

    @root_path.setter
    def root_path(self, value: str) -> None:
        """FastAPI and gradio set one for all requests, which is not used."""
