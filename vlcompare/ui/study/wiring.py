"""Which event of the study tab calls which action."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vlcompare.ui.events import QUIET, READING, SAVE, chosen
from vlcompare.ui.study import handlers
from vlcompare.ui.study.handlers import REGIONS, StudyUpdate
from vlcompare.ui.study.layout import StudyParts
from vlcompare.ui.study.session import StudySession

SHOWN = "() => window.vlStudy && window.vlStudy.shown()"
ROUND = "() => window.vlStudy && window.vlStudy.rounded()"


def wire(parts: StudyParts, tab: gr.Tab, page: gr.Blocks, *, first: bool = False) -> None:
    """Connect the tab's components; first: the page opens with this tab."""
    session, outputs = parts.session, [*(parts.regions[name] for name in REGIONS), parts.session]

    def fill(own: StudySession) -> list[Any]:
        filled = _outputs(own, handlers.fill(own))
        parts.lab.warm_up()  # begins behind the answer: importing torch would slow it down
        return filled

    for opened in (tab.select, page.load) if first else (tab.select,):
        opened(fill, [session], outputs, **QUIET).then(None, js=SHOWN)

    def upload(own: StudySession, path: Any) -> list[Any]:
        return _outputs(own, handlers.upload(own, path))

    parts.upload.upload(upload, [session, parts.upload], outputs, **READING)

    def pick(own: StudySession, event: gr.EventData) -> list[Any]:
        what, _, name = str(chosen(event)).partition(":")
        if what == "back":
            return [*_outputs(own, handlers.back(own)), None]
        return [*_outputs(own, {}), handlers.csv(own, name)]

    for name in ("message", "figures", "pictures"):
        picked = parts.regions[name].click(pick, [session], [*outputs, parts.file], **READING)
        picked.success(None, [parts.file], None, js=SAVE, show_progress="hidden")
    _wire_lab(parts)


def _wire_lab(parts: StudyParts) -> None:
    """The lab's requests carry all that they are about; the server keeps nothing of them."""

    def run_round(event: gr.EventData) -> str:
        return parts.lab.round_of(event._data)

    request, answer, button = parts.endpoint  # called by the tab's script itself
    button.click(parts.lab.ask, [request], [answer], api_name="study_ask", **QUIET)
    rounds = {**READING, "concurrency_limit": 1}  # it takes seconds of a core
    run = parts.regions["lab"].submit(run_round, None, [parts.regions["round"]], trigger_mode="once", **rounds)
    run.then(None, js=ROUND)


def _outputs(own: StudySession, update: StudyUpdate) -> list[Any]:
    return [*(update.get(name, gr.skip()) for name in REGIONS), own]
