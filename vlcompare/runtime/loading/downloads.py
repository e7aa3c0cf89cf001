"""The downloads of one process: a few at once, in the order of the requests, and no checkpoint twice at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from vlcompare.errors import RequestError
from vlcompare.types import Notify

MAX_AT_ONCE = 3  # at once: they share one line
WAITING = 9  # downloads that may wait for others
_POLL = 0.1  # seconds between two looks at whether a waiting request was cancelled


@dataclass(eq=False)
class _Request:
    name: str
    begun: bool = False
    said: str = ""  # the newest sentence of its download


class Downloads:
    """Bounds downloads. most: at once; waiting: how many more may wait. Thread-safe."""

    def __init__(self, most: int = MAX_AT_ONCE, waiting: int = WAITING) -> None:
        self._most, self._waiting = most, waiting
        self._requests: list[_Request] = []  # in the order in which they came, those that have begun included
        self._changed = threading.Condition()

    def run(self, name: str, fetch: Callable[[Notify], None], say: Notify, waiting: Callable[[], None]) -> None:
        """Call `fetch(say)` once it is this request's turn.

        name: what is fetched. While an earlier request fetches the same, its sentences are passed on, and `fetch` then
        finds the files or goes on with what is missing. waiting: called repeatedly meanwhile; it may raise to give up.
        Raises RequestError where it would be one more download than may wait, and what `fetch` raises.
        """
        own = self._enter(name)
        try:
            said = ""
            while (sentence := self._begin(own)) is not None:
                waiting()
                if sentence != said:
                    said = sentence
                    say(sentence)
                with self._changed:
                    self._changed.wait(_POLL)

            def tell(sentence: str) -> None:
                own.said = sentence
                say(sentence)

            fetch(tell)
        finally:
            with self._changed:
                self._requests.remove(own)
                self._changed.notify_all()

    def _enter(self, name: str) -> _Request:
        own = _Request(name)
        with self._changed:
            begun = {one.name for one in self._requests if one.begun}
            wait = {one.name for one in self._requests} - begun
            if name not in begun | wait and len(wait) >= self._waiting:
                raise RequestError(f"{self._waiting} downloads wait on this server already. Try again in a while.")
            self._requests.append(own)
        return own

    def _begin(self, own: _Request) -> str | None:
        """Begin the request if it is its turn and return None; else return what it waits for."""
        with self._changed:
            begun = {one.name: one for one in self._requests if one.begun}
            if own.name in begun:
                return begun[own.name].said or f"Waiting for another download of {own.name}"
            first = next(one for one in self._requests if not one.begun and one.name not in begun)
            if first is not own or len(begun) >= self._most:
                return f"Waiting until another download is over ({len(begun)} under way)"
            own.begun = True
            return None
