"""ASGI middleware that keeps every HTTP answer a sentence: for text that is no Unicode, bodies that cannot be read, and
errors inside of the application, of which FastAPI would tell the client in pydantic's words or with a bare 500.

JSON allows what UTF-8 does not: lone surrogates, which no answer could be encoded with. They are replaced on the way
in, and NUL, which no file name and no tokenizer takes, is left out. Knows HTTP and nothing of the page's functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.formparsers import MultiPartException

from vlcompare.runtime.faults import report
from vlcompare.ui.server.call_errors import REFUSED, UNREADABLE
from vlcompare.ui.server.redact import UNEXPECTED

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MOST_NESTED = 60
NESTED = "This request is nested too deeply."
NO_JSON = "This request's body is no JSON."
NO_ADDRESS = "This address holds a character that no address here has."
_SUSPECT = re.compile(rb"\\u(?:d[89a-f]|0000)", re.IGNORECASE)
_LONE = re.compile("[\ud800-\udfff]")


def well_formed(value: Any, depth: int = 0) -> Any:
    """A JSON value with no lone surrogate and no NUL in any of its texts. Raises ValueError where it is too deep."""
    if isinstance(value, str):
        return _LONE.sub("\N{REPLACEMENT CHARACTER}", value).replace("\x00", "")
    if isinstance(value, (dict, list)) and depth > MOST_NESTED:
        raise ValueError(NESTED)
    if isinstance(value, dict):
        return {well_formed(key): well_formed(one, depth + 1) for key, one in value.items()}
    if isinstance(value, list):
        return [well_formed(one, depth + 1) for one in value]
    return value


class Sentences:
    """`app`, whose failures are told in a sentence. Bodies are bounded before they come here."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if b"%00" in (scope.get("raw_path") or b"") or b"%00" in scope.get("query_string", b""):
            await answer(send, 400, NO_ADDRESS)
            return
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if scope["method"] in ("POST", "PUT", "PATCH") and kind.endswith(b"json"):
            try:
                body = await self._body(receive)
            except ValueError as error:
                await answer(send, 400, str(error))
                return
            if body is None:  # the client left
                return
            size = str(len(body)).encode()
            kept = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
            scope = {**scope, "headers": [*kept, (b"content-length", size)]}
            receive = _replayed(body, receive)
        await self._run(scope, receive, send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body, its texts well formed. Raises ValueError with a sentence."""
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
        if len(body) < 2**20 or _SUSPECT.search(body):
            try:
                value = json.loads(body)
            except (ValueError, RecursionError):
                raise ValueError(NO_JSON) from None
            cleaned = well_formed(value)
            return json.dumps(cleaned).encode() if _SUSPECT.search(body) else body
        return body

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; what it answers with 422, or with 500 and no sentence of its own, is replaced."""
        told: list[bool] = []
        token = REFUSED.set(told)
        state = {"begun": False, "replaced": False}

        async def fail(status: int) -> None:
            # what goes wrong in a function is told by `speak`: before it, a call's form is at fault
            unread = status == 422 or _calls(scope)
            await answer(send, 400 if unread else 500, UNREADABLE if unread else UNEXPECTED)

        async def checked(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["begun"] = True
                status = message["status"]
                if status == 500 and told:  # refused in a sentence: the client's fault
                    message = {**message, "status": 400}
                elif status in (422, 500) and not _spoken(scope, message):
                    state["replaced"] = True
                    await fail(status)
            if not state["replaced"]:
                await send(message)

        try:
            await self.app(scope, receive, checked)
        except Exception as error:
            if not isinstance(error, MultiPartException):  # a body that was refused on its way in
                report(error)
            if not state["begun"]:
                await fail(500)
            elif not state["replaced"]:
                with suppress(Exception):  # it may have ended before it failed
                    await send({"type": "http.response.body", "body": b""})
        finally:
            REFUSED.reset(token)


def _spoken(scope: Scope, message: Message) -> bool:
    """Whether a 500 is gradio's answer to a call, which holds the sentence that `speak` gave it."""
    kinds = [value for name, value in message.get("headers", []) if name.lower() == b"content-type"]
    return message["status"] == 500 and _calls(scope) and kinds[:1] == [b"application/json"]


def _calls(scope: Scope) -> bool:
    """Whether the request calls a function of the page."""
    return any(part in scope["path"] for part in ("/run/", "/api/", "/call/", "/queue/"))


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body as one piece, then what really comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def answer(send: Send, status: int, sentence: str) -> None:
    """A whole HTTP answer with one sentence, in the form that gradio's clients and FastAPI's read."""
    body = json.dumps({"error": sentence, "detail": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
