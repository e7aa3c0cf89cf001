"""Ending a forward pass between two layers: a pass over a long prompt takes seconds on a CPU.

Whoever starts a pass names, for the calling thread, what says that its result is no longer wanted; the layers of both
families and of every vision encoder ask it before they begin. Without such a name a check costs one look-up. A step of
the decode loop is not asked within: a CUDA graph could not stop there, and a token is short.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class Interrupted(Exception):
    """The pass was ended before its last layer; what it has written into its state is not whole."""


class _Current(threading.local):
    unwanted: Callable[[], Any] | None = None


_current = _Current()


@contextmanager
def interruptible(unwanted: Callable[[], Any]) -> Iterator[None]:
    """Let passes of the calling thread inside end with Interrupted as soon as `unwanted()` is true."""
    before, _current.unwanted = _current.unwanted, unwanted
    try:
        yield
    finally:
        _current.unwanted = before


def check() -> None:
    """Raise Interrupted where the pass of the calling thread is no longer wanted."""
    unwanted = _current.unwanted
    if unwanted is not None and unwanted():
        raise Interrupted


def check_before_layers(model: nn.Module) -> int:
    """Make every layer of `model`, whose own loop is another library's, check before it runs.

    Layers are the members of its ModuleLists and Sequentials that have weights; returns how many there are.
    """
    count = 0
    for container in model.modules():
        if isinstance(container, (nn.ModuleList, nn.Sequential)):
            for layer in container:
                if next(layer.parameters(), None) is not None:
                    layer.register_forward_pre_hook(_check_before)
                    count += 1
    return count


def _check_before(layer: nn.Module, given: Any) -> None:
    check()
