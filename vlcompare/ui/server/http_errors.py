"""ASGI middleware that answers errors with a sentence: for text that is not Unicode, unreadable bodies, and
for errors in the application, for which FastAPI, gradio or the MCP server would send pydantic's message, the path that
was asked for, or a bare 500.

JSON allows lone surrogates, which UTF-8 cannot encode in a response: they are replaced in the request. NUL, which no
file name and no tokenizer takes, is removed. Session hashes that can be guessed are renamed (see `session_names`).
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlcompare.runtime.faults import report
from vlcompare.ui.server.allowed_hosts import API
from vlcompare.ui.server.call_errors import REFUSED_CALL, UNREADABLE
from vlcompare.ui.server.redact import UNEXPECTED
from vlcompare.ui.server.session_names import own_body, own_scope
from vlcompare.ui.server.session_states import CLIENT
from vlcompare.ui.server.uploads import REFUSED

MAX_NESTED = 60
NESTED = "This request is nested too deeply."
NO_JSON = "This request's body is not JSON."
NO_ADDRESS = "This address holds a character that no address here has."
NO_MCP = "This is no request of the Model Context Protocol."
FILE = re.compile(rf"{API}/file[=/]")
MCP = re.compile(rf"{API}/mcp(/|$)")
_SUSPECT = re.compile(rb"\\u(?:d[89a-f]|0000)", re.IGNORECASE)
_LONE = re.compile("[\ud800-\udfff]")


def well_formed(value: Any, depth: int = 0) -> Any:
    """A JSON value with no lone surrogate and no NUL in any of its texts. Raises ValueError where it is too deep."""
    if isinstance(value, str):
        return _LONE.sub("\N{REPLACEMENT CHARACTER}", value).replace("\x00", "")
    if isinstance(value, (dict, list)) and depth > MAX_NESTED:
        raise ValueError(NESTED)
    if isinstance(value, dict):
        return {well_formed(key): well_formed(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list):
        return [well_formed(one, depth + 1) for one in value]
    return value


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


class ErrorMiddleware:
    """Runs `app` and answers its errors with a sentence. Reads whole JSON bodies, so it belongs behind their limit."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if b"%00" in (scope.get("raw_path") or b"") or b"%00" in scope.get("query_string", b""):
            await error_response(400, NO_ADDRESS)(scope, receive, send)
            return
        scope = own_scope(scope, CLIENT.get())
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if scope["method"] in ("POST", "PUT", "PATCH") and kind.endswith(b"json"):
            try:
                body = await self._body(receive)
            except ValueError as error:
                await error_response(400, str(error))(scope, receive, send)
                return
            if body is None:  # the client disconnected
                return
            size = str(len(body)).encode()
            kept = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
            scope = {**scope, "headers": [*kept, (b"content-length", size)]}
            receive = _replayed(body, receive)
        await self._run(scope, receive, send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body, its texts well formed; None if the client disconnected. Raises ValueError with a sentence."""
        parts: list[bytes] = []
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(parts)
        if not body:
            return body
        if b"\0" in body or not _is_utf8(body):  # UTF-16, or surrogates as bytes: `_SUSPECT` would miss them
            raise ValueError(NO_JSON)
        suspect = _SUSPECT.search(body) is not None
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError(NO_JSON) from None
        cleaned = well_formed(value)
        renamed = own_body(cleaned, CLIENT.get())
        return json.dumps(cleaned).encode() if suspect or renamed else body

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; its responses with 422, or with 500 and no sentence, are replaced."""
        refused: list[bool] = []
        token = REFUSED_CALL.set(refused)
        state = {"begun": False, "replaced": False}
        route, method = scope["path"].removeprefix(scope["root_path"]), scope["method"]  # routing changes the scope

        async def fail(status: int) -> None:
            # errors in a function have a sentence by `call_errors`, so here a call's own form is wrong
            unread = status == 422 or _calls(scope)
            response = error_response(400 if unread else 500, UNREADABLE if unread else UNEXPECTED)
            await response(scope, receive, send)

        async def checked(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["begun"] = True
                status = message["status"]
                if status == 500 and refused:  # the client's error
                    message = {**message, "status": 400}
                elif status in (422, 500) and not _has_sentence(scope, message):
                    state["replaced"] = True
                    await fail(status)
                elif response := _own_response(route, method, status):
                    state["replaced"] = True
                    await response(scope, receive, send)
            if not state["replaced"]:
                await send(message)

        try:
            await self.app(scope, receive, checked)
        except Exception as error:
            # the body was refused, or the client's error was found after the response had begun: a stream of no session
            if not isinstance(error, MultiPartException) and not isinstance(error.__cause__, HTTPException):
                report(error)
            if not state["begun"]:
                await fail(500)
            elif not state["replaced"]:
                with suppress(Exception):  # it may have ended before it failed
                    await send({"type": "http.response.body", "body": b""})
        finally:
            REFUSED_CALL.reset(token)


def _own_response(route: str, method: str, status: int) -> Response | None:
    """The response in place of one that would repeat what the client sent, or tell files that exist from others."""
    if FILE.match(route) and status in (403, 404):
        return error_response(403, REFUSED)
    if MCP.match(route) and status == 400 and method == "POST":
        error = {"code": -32600, "message": NO_MCP}  # JSON-RPC's number of an invalid request
        return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, 400)
    return None


def _has_sentence(scope: Scope, message: Message) -> bool:
    """Whether a 500 is gradio's response to a call, which holds the sentence of `call_errors`."""
    kinds = [value for name, value in message.get("headers", []) if name.lower() == b"content-type"]
    return message["status"] == 500 and _calls(scope) and kinds[:1] == [b"application/json"]


def _calls(scope: Scope) -> bool:
    """Whether the request calls a function of the page."""
    return any(part in scope["path"] for part in ("/run/", "/api/", "/call/", "/queue/"))


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body as one message, then the client's further messages."""
    replayed = False

    async def again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def error_response(status: int, sentence: str) -> JSONResponse:
    """A response with one sentence, in the forms that gradio's clients and FastAPI's read."""
    return JSONResponse({"error": sentence, "detail": sentence}, status)
