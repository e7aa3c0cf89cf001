"""A refused request: the exception, and the HTTP answer that it becomes."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send


class Refused(Exception):
    """A request is refused with an HTTP status and a sentence for the client."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


async def respond(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the sentence and close the connection, so that the rest of the body is not read."""
    response = PlainTextResponse(refused.sentence, refused.status, {"connection": "close"})
    await response(scope, receive, send)
