"""One comparison at a time computes, by any number of its sides: the times of two would be contended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

_POLL = 0.1  # seconds between two checks of whether a waiting holder was cancelled


class _DeviceLock:
    """Held by one holder at a time, any number of times; others wait, and can be cancelled meanwhile."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: object = None
        self._users = 0

    @contextmanager
    def held_by(self, holder: object, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the device for `holder`. `waiting` is called repeatedly while another has it; it may raise."""
        with self._changed:
            while self._holder is not None and self._holder is not holder:
                waiting()
                self._changed.wait(_POLL)
            self._holder = holder
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                if self._users == 0:
                    self._holder = None
                    self._changed.notify_all()


_device = _DeviceLock()


def hold_device(holder: object, waiting: Callable[[], None]) -> AbstractContextManager[None]:
    """Keep comparisons off the device meanwhile, whose times would be contended. `waiting` may raise to give up."""
    return _device.held_by(holder, waiting)
