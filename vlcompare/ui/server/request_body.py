"""Limits of a request's body, whatever its headers declare: bytes, values, time, and the client's rate limit.

Past a limit, the application's read fails, and its response is replaced by the refusal. The read raises the exception
of a malformed form, because gradio then deletes the files that it has begun to write.
"""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.formparsers import MultiPartException
from starlette.types import Message, Receive, Scope, Send

from vlcompare.ui.server.allowed_hosts import API
from vlcompare.ui.server.rate_limit import RateLimiter
from vlcompare.ui.server.refusal import Refused, respond

UPLOAD = f"{API}/upload"
MAX_VALUES = 200_000  # lists, objects and commas of JSON, which take about 60 bytes of memory each
FIELD_BYTES = 64 * 2**10  # of an upload's fields other than files, which are kept in memory
FORM_BYTES = 2**20  # of an upload, in addition to its files
SILENCE = 30.0  # seconds without a byte
SLOWEST = 20_000  # least bytes a second, on average, after the first minute
TOO_SLOW = "The request took too long to arrive."


class Body:
    """One request's body. The application gets `receive` and `send` in place of the server's own."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, client: str, limiter: RateLimiter, max_bytes: int
    ) -> None:
        self.refused: Refused | None = None
        self._scope, self._receive, self._send = scope, receive, send
        self._client, self._limiter, self._max_bytes = client, limiter, max_bytes
        self._form = FormCounter(scope["headers"]) if scope["path"].removeprefix(scope["root_path"]) == UPLOAD else None
        self._size = self._values = 0
        self._complete = self._started = self._replaced = False
        self._begun = time.monotonic()

    async def receive(self) -> Message:
        """The application's next message. Raises MultiPartException if the body is refused or the upload is cut off."""
        if self._complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), SILENCE)
            self._complete = message["type"] != "http.request" or not message.get("more_body")
            if message["type"] == "http.request":
                self._check(message.get("body", b""))
        except TimeoutError:
            self._refuse(Refused(408, TOO_SLOW))
        except Refused as refused:
            self._refuse(refused)
        if message["type"] != "http.request" and self._form is not None:
            raise MultiPartException("The upload was cut off.")
        return message

    async def send(self, message: Message) -> None:
        """Send the application's response, or the refusal in its place."""
        if self._started or self.refused is None:
            self._started = True
            await self._send(message)
        else:
            await self.respond()

    async def respond(self) -> None:
        """Send the refusal, unless a response has been started."""
        if self.refused is not None and not self._started and not self._replaced:
            self._replaced = True
            await respond(self.refused, self._scope, self._receive, self._send)

    def _check(self, data: bytes) -> None:
        """Count a part of the body. Raises Refused."""
        self._size += len(data)
        if self._size > self._max_bytes:
            raise too_large(self._max_bytes)
        if time.monotonic() - self._begun > 60 + self._size / SLOWEST:
            raise Refused(408, TOO_SLOW)
        files = 0
        if self._form is not None:
            files = self._form.feed(data)
            if self._form.field_bytes > FIELD_BYTES:
                raise Refused(413, "The form's fields are too long: send files as files.")
        else:
            self._values += data.count(b",") + data.count(b"[") + data.count(b"{")
            if self._values > MAX_VALUES:
                raise Refused(413, "The request holds too many values.")
        self._limiter.add(self._client, files, len(data), upload=self._form is not None)

    def _refuse(self, refused: Refused) -> NoReturn:
        self.refused = refused
        self._complete = True
        raise MultiPartException(refused.sentence)


class FormCounter:
    """Counts the files of a form (multipart/form-data), and the bytes outside of files. Never fails."""

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.files = self.field_bytes = 0
        self._field = self._value = b""
        self._in_file = False
        _, options = parse_options_header(dict(headers).get(b"content-type", b""))
        boundary = options.get(b"boundary")
        calls = {
            "on_part_begin": self._part,
            "on_part_data": self._data,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
        }
        self._parser = MultipartParser(boundary, calls) if boundary else None  # type: ignore[arg-type]

    def feed(self, data: bytes) -> int:
        """Parse the next part of the form; returns how many files begin in it."""
        before = self.files
        try:
            if self._parser is not None:
                self._parser.write(data)
        except Exception:  # gradio's own parser reports the error
            self._parser = None
        return self.files - before

    def _part(self) -> None:
        self._in_file = False

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._in_file:
            self.field_bytes += end - start

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition" and b"filename" in parse_options_header(self._value)[1]:
            self._in_file = True
            self.files += 1
        self._field = self._value = b""


def declared(headers: list[tuple[bytes, bytes]]) -> int:
    """The Content-Length; 0 without the header."""
    value = dict(headers).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


def too_large(max_bytes: int) -> Refused:
    """The refusal of a body of more than `max_bytes`."""
    return Refused(413, f"The request is larger than the {max_bytes // 2**20} MiB that this server accepts.")
