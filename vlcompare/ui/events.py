"""What all tabs share when they connect events: options of a listener, the data of an event, changes of several fields,
and downloads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

# without a timer; on none of the outputs either, since gradio's page writes the state of a hidden one into every output
# of every event so far, at each message of any event
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": []}
# for what answers at once; an error is shown by `refusals.js`, since the page of gradio 6 shows those of queued events
QUIET: dict[str, Any] = {"queue": False, "api_visibility": "private", **HIDDEN}
READING: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 4, **HIDDEN}  # reads or writes files
RUNNING: dict[str, Any] = {  # events that run models
    "show_progress": "minimal",
    "concurrency_id": "models",
    "trigger_mode": "multiple",  # a second press begins anew, see `wiring`
    "api_visibility": "private",
}
PICK = """element.addEventListener('click', (event) => {
  const picked = event.target.closest('[data-pick]');
  if (picked && element.contains(picked)) trigger('click', {pick: picked.dataset.pick});
});"""
TO_TOP = "() => window.scrollTo(0, 0)"
SAVE = """(file) => {
  if (!file?.url) return;
  const link = document.createElement('a');
  link.href = file.url;
  link.download = file.orig_name || '';
  document.body.append(link);
  link.click();
  link.remove();
}"""


def chosen(event: gr.EventData, name: str = "pick") -> Any:
    """The value `name` in the event's data; None where a request sent no such data."""
    data = event._data
    return data.get(name) if isinstance(data, dict) else None


def on_changes(
    name: str, changed: Sequence[Any], function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]
) -> Any:
    """Call the function after any of the components has changed, until it was called with what they hold in the end.

    Changes at the same time are one call, and the next call waits for the reply to the last one (see `changes.js`).
    gradio's own trigger_mode "always_last" begins one call for each of several fields that change together; an older
    call's reply may then come last, and stays. And what it puts off it asks for by sending the whole event again, so
    that two such listeners of one event call each other without end.
    """
    gr.on([component.change for component in changed], None, js=f"() => window.vlChanges.changed('{name}')")
    return on_request(name, function, inputs, outputs)


def on_request(name: str, function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """Call the function after the page's script has called `vlChanges.changed(name)`, one call at a time."""
    follow = f"window.vlChanges.follow('{name}', () => trigger('input'))"
    request = gr.HTML("", js_on_load=follow, elem_classes="vl-unseen")
    called = request.input(function, inputs, outputs, **QUIET)  # type: ignore[attr-defined]
    for ended in (called.success, called.failure):
        ended(None, js=f"() => window.vlChanges.replied('{name}')", show_progress="hidden")
    return called


def download(button: gr.Button, make: Callable[..., Any], inputs: list[Any], file: gr.DownloadButton) -> None:
    """Write the file with `make(*inputs)` when the button is pressed, then have the browser save it.

    Two steps, since a DownloadButton saves the file that it held before its click was handled.
    """
    made = button.click(make, inputs, [file], **READING)
    made.success(None, [file], None, js=SAVE, show_progress="hidden")
