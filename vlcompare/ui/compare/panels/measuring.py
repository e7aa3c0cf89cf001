"""What panels that measure something more about the shown run have in common: the events, the stream and its faults."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from vlcompare.errors import VLCompareError
from vlcompare.render.markup import Safe
from vlcompare.runtime.faults import report
from vlcompare.ui.compare import cards, views
from vlcompare.ui.compare.handlers import Handlers
from vlcompare.ui.compare.layout.tab import Parts
from vlcompare.ui.compare.session import CompareSession, Run
from vlcompare.ui.events import RUNNING, on_changes
from vlcompare.ui.server.concurrency import CURRENT_CALL
from vlcompare.ui.server.redact import UNEXPECTED

Changes = Iterator[dict[str, Safe]]  # HTML by region: "state", "message", "view"


def wire_measuring(
    parts: Parts,
    handlers: Handlers,
    button: Any,
    view: Any,
    asking: Any,
    draw: Callable[[Run | None], tuple[Safe, bool]],
    measure: Callable[..., Changes],
    inputs: Sequence[Any] = (),
) -> Any:
    """Connect a panel; returns the event that runs models, for Stop.

    draw: the panel's HTML for a run that is not being measured, and whether `asking`, the components to start with, is
    visible. measure(session, *values of inputs): what `button` runs.
    """
    state, message = parts.regions["state"], parts.regions["message"]

    def show(session: CompareSession) -> list[Any]:
        run = session.shown
        if session.cancel is not None and session.current is run and run is not None and run.done:
            return [session, gr.skip(), gr.skip()]  # it is being measured: the stream updates the panel
        html, possible = draw(run)
        return [session, html, gr.update(visible=possible)]

    def begin(session: CompareSession, *values: Any) -> Iterator[list[Any]]:
        for page in measure(session, *values):
            yield [session, *(page.get(name, gr.skip()) for name in ("state", "message", "view"))]

    on_changes(view.elem_id, [state], show, [parts.session], [parts.session, view, asking])
    return button.click(
        begin,
        [parts.session, *inputs],
        [parts.session, state, message, view],
        concurrency_limit=handlers.settings.concurrency,
        show_progress_on=[message],
        **RUNNING,
    )


def measuring(
    session: CompareSession,
    run: Run,
    steps: Callable[[threading.Event], Iterator[Safe]],
    draw: Callable[[Run | None], tuple[Safe, bool]],
    failed: str,
) -> Changes:
    """Measure a run until it is finished, stopped, or fails; the run counts as running meanwhile.

    steps(cancel): does the work and yields the panel's HTML, at first before any work; the error with which it ends is
    shown behind the words of `failed`.
    """
    cancel, asked = session.start(run), session.asked
    if (call := CURRENT_CALL.get()) is not None:  # its client may disconnect
        call.add(cancel)
    failure = ""
    try:
        first = {"state": views.state(session), "message": cards.message("")}
        for html in steps(cancel):
            if first or session.shown is run:
                yield {**first, "view": html}
                first = {}
    except VLCompareError as error:
        failure = "" if cancel.is_set() else str(error)  # stopped: an error that follows from it is not reported
    except Exception as error:
        report(error)
        failure = UNEXPECTED
    finally:  # also where the stream is closed, by Stop or because the client disconnected
        cancel.set()
        session.finish(run)
    if session.current is run:
        page = {"state": views.state(session), "view": draw(session.shown)[0]}
        if session.asked == asked:  # else the message is about what was asked for since
            page["message"] = cards.message(f"{failed}: {failure}", "error") if failure else cards.message("")
        yield page
