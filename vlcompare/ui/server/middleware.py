"""ASGI middleware in front of gradio's application: host and origin checks, rate limit, and bounded bodies.

It passes a request on as the browser sent it: with the public host and scheme in place of the proxy's, with the prefix
in its path, and without the headers from which gradio guesses these. gradio's own CORS middleware comes later and
echoes any Origin, so the Origin of a cross-site request is removed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from gradio.routes import App, ORJSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlcompare.ui.server import callers
from vlcompare.ui.server.allowed_hosts import API, AllowedHosts, PublicAddress
from vlcompare.ui.server.http_errors import ErrorMiddleware
from vlcompare.ui.server.rate_limit import RateLimiter, client_of
from vlcompare.ui.server.refusal import Refused, respond
from vlcompare.ui.server.request_body import FORM_BYTES, UPLOAD, Body, declared, too_large
from vlcompare.ui.server.result_streams import STREAM, serve_stream
from vlcompare.ui.server.session_states import CLIENT, FairStates

PREFIX: ContextVar[str] = ContextVar("prefix", default="")
PROXY_HEADERS = {  # their values are in the scope
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-forwarded-prefix",
    b"x-gradio-server",
}
CALL = callers.HEADER.encode()
# direct calls: the response is the function's value, so the connection stays open while it runs
CALLING = re.compile(rf"{API}/(run|api)/|{API}/mcp(/http)?/?$")


@dataclass(frozen=True)
class Rules:
    """What every request is checked against. file_bytes: of an uploaded file; json_bytes: of any other body."""

    hosts: AllowedHosts
    limiter: RateLimiter
    file_bytes: int
    json_bytes: int
    behind_proxy: bool = False  # every request comes through one

    def max_bytes(self, scope: Scope) -> int:
        """Bytes of this request's body at most."""
        upload = scope["path"].removeprefix(scope["root_path"]) == UPLOAD
        return self.file_bytes + FORM_BYTES if upload else self.json_bytes

    def client(self, scope: Scope) -> str:
        """The client's address, as the rate limit counts it."""
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return client_of((scope.get("client") or ("", 0))[0], forwarded, self.behind_proxy)


class RulesMiddleware:
    """Passes the requests that keep to the rules on to `app`, and refuses the others."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page opens no web socket
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            address = self.rules.hosts.check(scope["method"], scope["path"], scope["headers"], scope["scheme"])
        except Refused as refused:
            await respond(refused, scope, receive, send)
            return
        token = PREFIX.set(address.prefix)
        try:
            await self._limited(rewritten(scope, address), receive, send)
        except Refused as refused:
            await respond(refused, scope, receive, send)
        finally:
            PREFIX.reset(token)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Within the client's rate limit, and with a bounded body. Raises Refused before anything is sent."""
        client, limiter = self.rules.client(scope), self.rules.limiter
        max_bytes = self.rules.max_bytes(scope)
        if declared(scope["headers"]) > max_bytes:
            raise too_large(max_bytes)
        limiter.open(client)
        token = CLIENT.set(client)
        body = Body(scope, receive, send, client, limiter, max_bytes)
        try:
            await self._watched(scope, body.receive, body.send)
        except Exception:
            if body.refused is None:
                raise
            await body.respond()
        finally:
            CLIENT.reset(token)
            limiter.close(client)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A direct call has an id while its client is connected (see `callers`); for streams see `result_streams`."""
        path = scope["path"].removeprefix(scope["root_path"])
        if path == STREAM:
            await serve_stream(self.app, scope, receive, send)
            return
        if scope["method"] != "POST" or not CALLING.match(path):
            await self.app(scope, receive, send)
            return
        call = callers.open_call()
        scope["headers"].append((CALL, call.encode()))
        try:
            async with watched(receive, lambda: callers.close_call(call)) as own:
                await self.app(scope, own, send)
        finally:
            callers.close_call(call)


def rewritten(scope: Scope, address: PublicAddress) -> Scope:
    """The scope as if the browser had sent the request to this server directly."""
    dropped = PROXY_HEADERS | {b"host"} | ({b"origin"} if address.cross_site else set())
    headers = [
        (name, value)
        for name, value in scope["headers"]
        if name not in dropped and (name != CALL or callers.is_open(value.decode("latin-1")))
    ]
    headers.append((b"host", str(address.host).encode()))
    new = {**scope, "headers": headers, "scheme": address.scheme, "root_path": address.prefix}
    if address.prefix and not f"{scope['path']}/".startswith(f"{address.prefix}/"):  # the proxy strips it
        new["path"] = address.prefix + scope["path"]
        new["raw_path"] = address.prefix.encode() + (scope.get("raw_path") or b"")
    return new


@asynccontextmanager
async def watched(receive: Receive, disconnected: Callable[[], None]) -> AsyncIterator[Receive]:
    """`receive` that calls `disconnected` as soon as the client disconnects, even if nothing awaits it."""
    gone: asyncio.Task[Message] | None = None

    async def wait() -> Message:
        message = await receive()
        disconnected()
        return message

    async def own() -> Message:
        nonlocal gone
        if gone is not None:
            return await asyncio.shield(gone)
        message = await receive()
        if message["type"] != "http.request":
            disconnected()
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


class CheckedApp(App):
    """gradio's application with RulesMiddleware outside of all other middleware, and errors as sentences."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(default_response_class=ORJSONResponse)
        self.state_holder = FairStates()
        self.rules = rules

    def build_middleware_stack(self) -> Any:
        return RulesMiddleware(ErrorMiddleware(super().build_middleware_stack()), self.rules)

    @property
    def root_path(self) -> str:
        """The prefix of the current request: each may come through another proxy, or through none."""
        return PREFIX.get()

    @root_path.setter
    def root_path(self, value: str) -> None:
        """Ignore the one prefix that FastAPI and gradio set for all requests."""
