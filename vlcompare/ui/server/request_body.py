"""A request's body on its way in: bounded in bytes, in values and in time, and counted, whatever its headers say.

Where a bound is passed, reading fails inside of the application, and whatever it answers to that is replaced by the
refusal. For uploads it fails as a broken form does, since gradio then removes the files that it has begun.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.formparsers import MultiPartException

from vlcompare.ui.server.allowed_hosts import API, Refusal
from vlcompare.ui.server.rate_limit import Ledger, TooMuch

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

UPLOAD = f"{API}/upload"
MOST_VALUES = 200_000  # lists, objects and commas of JSON: some 60 bytes of memory each
FIELD_BYTES = 64 * 2**10  # of an upload's fields that are no files, which are kept in memory
FORM_BYTES = 2**20  # of an upload beside its files
SILENCE = 30.0  # seconds without a byte
SLOWEST = 20_000  # bytes a second, beside a minute's grace


class Body:
    """One request's body. `receive` and `send` are to be given to the application."""

    def __init__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, client: str, ledger: Ledger, most: int
    ) -> None:
        self.refusal: Refusal | None = None
        self._receive, self._send = receive, send
        self._client, self._ledger, self._most = client, ledger, most
        self._form = Form(scope["headers"]) if scope["path"].removeprefix(scope["root_path"]) == UPLOAD else None
        self._size = self._values = 0
        self._complete = self._started = False
        self._begun = time.monotonic()

    async def receive(self) -> Message:
        """The application's next message. Raises MultiPartException where the body is refused or breaks off."""
        if self._complete:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), SILENCE)
        except TimeoutError:
            self._refuse(408, "The request did not come in within its time.")
        if message["type"] != "http.request":
            self._complete = True
            if self._form is not None:
                raise MultiPartException("The upload broke off.")
            return message
        self._complete = not message.get("more_body")
        self._check(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        """The application's answer, or the refusal in its place."""
        if self._started or self.refusal is None:
            self._started = True
            await self._send(message)
        elif message["type"] == "http.response.start":
            await self.answer()

    async def answer(self) -> None:
        """Send the refusal, if nothing has been sent."""
        if self.refusal is not None and not self._started:
            self._started, refusal = True, self.refusal
            self._send, send = _nowhere, self._send
            await refuse(send, refusal)

    def _check(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._most:
            self._refuse(413, f"The request is larger than the {self._most // 2**20} MB that are taken here.")
        if time.monotonic() - self._begun > 60 + self._size / SLOWEST:
            self._refuse(408, "The request did not come in within its time.")
        files = 0
        if self._form is not None:
            files = self._form.feed(data)
            if self._form.field_bytes > FIELD_BYTES:
                self._refuse(413, "The form's fields are too long: send files as files.")
        else:
            self._values += data.count(b",") + data.count(b"[") + data.count(b"{")
            if self._values > MOST_VALUES:
                self._refuse(413, "The request holds too many values.")
        try:
            self._ledger.add(self._client, files, len(data), upload=self._form is not None)
        except TooMuch as error:
            self._refuse(error.status, str(error))

    def _refuse(self, status: int, sentence: str) -> None:
        self.refusal = Refusal(status, sentence)
        self._complete = True
        raise MultiPartException(sentence)


class Form:
    """Counts the files of a form (multipart/form-data), and the bytes that are in none. Never fails."""

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
        """Take in some of the form; gives how many files have begun in it."""
        before = self.files
        try:
            if self._parser is not None:
                self._parser.write(data)
        except Exception:  # gradio's own parser, further in, says what is wrong
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
    """The length that a request says it has; 0 where it says none."""
    value = dict(headers).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


async def refuse(send: Send, refusal: Refusal) -> None:
    """Answer with a sentence, and end the connection: what else the client sends is not read."""
    body = refusal.sentence.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _nowhere(message: Message) -> None:
    """What the application says to a refused request."""
