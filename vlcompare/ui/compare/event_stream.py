"""Applies a comparison's events to its run, and paces the updates of the page.

Token times are taken in the engine, so nothing here is part of a figure.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import Any

from vlcompare.errors import VLCompareError
from vlcompare.runtime.faults import report
from vlcompare.types import Answer
from vlcompare.ui.compare.session import Run, SideRun
from vlcompare.ui.server.concurrency import CURRENT_CALL
from vlcompare.ui.server.redact import UNEXPECTED, without_paths

PACE = 0.04  # seconds between two updates; the page falls behind above a hundred a second
PATIENCE = 2.0  # seconds to wait for a stopped side to end; reading a file cannot be interrupted

Compare = Callable[..., Iterator[Any]]  # as `vlcompare.compare`


def follow(
    run: Run, events: Callable[[], Iterator[Any]], cancel: threading.Event, pace: float = PACE
) -> Iterator[set[str]]:
    """Apply all events of one comparison; yields the sides that have changed, at most every `pace` seconds.

    The sides may be swapped meanwhile: an event belongs to the part that had its side's name at the start.

    `events` yields None while nothing happens, so that the last tokens of a burst are shown even when the next one is
    slow. Closing this generator stops the comparison; `run` keeps what had arrived.
    """
    if (call := CURRENT_CALL.get()) is not None:  # its client may disconnect
        call.add(cancel)
    source: Iterator[Any] = iter(())
    parts = dict(run.sides)
    changed: set[str] = set()
    shown = stopped = 0.0
    try:
        source = events()
        for event in source:
            if event is not None:
                apply(parts[event.side], event)
                changed.add(event.side)
            if cancel.is_set():
                stopped = stopped or time.monotonic()
                if time.monotonic() - stopped > PATIENCE:
                    break
            if changed and time.monotonic() - shown >= pace:
                yield {run.place(parts[name]) for name in changed}
                changed, shown = set(), time.monotonic()
    except GeneratorExit:  # the page was closed: events within the patience are kept
        cancel.set()
        stopped = time.monotonic()
        for event in source:
            if event is not None:
                apply(parts[event.side], event)
            if time.monotonic() - stopped > PATIENCE:
                break
        fail(run, None, stopped=True)
        raise
    except BaseException as error:  # a library in Rust may raise what is not an Exception
        fail(run, error)
    finally:
        cancel.set()
        if isinstance(source, Generator):
            source.close()
    fail(run, None, stopped=bool(stopped))
    yield set(run.sides)


def apply(side: SideRun, event: Any) -> None:
    """Write one event into its side."""
    if event.kind == "status":
        side.status = without_paths(event.value)
    elif event.kind == "notice":
        side.notices = tuple(dict.fromkeys((*side.notices, without_paths(event.value))))
    elif event.kind == "prompt":
        side.prompt = event.value
    elif event.kind == "step":
        side.steps.append(event.value)
    elif event.kind == "answer":
        error = event.value.error
        side.answer = replace(event.value, error=without_paths(error)) if error else event.value
        side.prompt = event.value.prompt or side.prompt
        side.status = ""


def fail(run: Run, error: BaseException | None, *, stopped: bool = False) -> None:
    """Give every side that has no answer one that says what happened."""
    sentence: str | None
    if stopped:
        sentence = None
    elif error is None:
        sentence = "The comparison ended before this side had answered."
    elif isinstance(error, VLCompareError):
        sentence = without_paths(str(error))
    else:
        report(error)
        sentence = UNEXPECTED
    for side in run.sides.values():
        if side.answer is None:
            side.status = ""
            side.answer = Answer(
                text="".join(step.text for step in side.steps),
                stop_reason="error" if sentence else "cancelled",
                error=sentence,
                checkpoint=side.settings.checkpoint,
                quantization=side.settings.quantization,
            )
