"""A context variable that has another value inside a block, for the thread that runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def scoped(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Set the variable inside the block; what it was before holds again behind it, also after an error."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
