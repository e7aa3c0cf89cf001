"""The compare tab's components, and how they are read and updated.

Every region of the result is one HTML component that is updated in place, so nothing jumps while both sides stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vlcompare.render.markup import el
from vlcompare.render.terms import term
from vlcompare.types import SIDES
from vlcompare.ui.compare import views
from vlcompare.ui.compare.form_values import ASK_FIELDS
from vlcompare.ui.compare.forms import SIDE_FIELDS
from vlcompare.ui.compare.layout.ask import AskParts, build_ask, build_further_questions
from vlcompare.ui.compare.layout.side import SideParts, build_side
from vlcompare.ui.compare.page_update import REGIONS, CompareUpdate
from vlcompare.ui.compare.session import CompareSession
from vlcompare.ui.compare.votes import CHOICES
from vlcompare.ui.events import PICK
from vlcompare.ui.examples import Example
from vlcompare.ui.score_tables import scores_table
from vlcompare.ui.settings import AppSettings


@dataclass
class Parts:
    """The tab's components by name."""

    session: gr.State
    example: gr.State
    asking: AskParts
    side_parts: dict[str, SideParts]
    regions: dict[str, gr.HTML]  # those of a run (`REGIONS`), and others
    buttons: dict[str, gr.Button]
    panels: dict[str, Any]  # further questions, votes, files and the link
    places: dict[str, gr.Column]  # where further pieces are put: "times", "evidence"

    @property
    def picture(self) -> gr.Image:
        return self.asking.picture

    @property
    def examples(self) -> gr.HTML:
        return self.asking.examples

    @property
    def ask(self) -> dict[str, gr.components.Component]:
        """The question's fields."""
        return self.asking.fields

    @property
    def sides(self) -> dict[str, dict[str, gr.components.Component]]:
        """Each side's fields."""
        return {side: own.fields for side, own in self.side_parts.items()}

    @property
    def form(self) -> list[gr.components.Component]:
        """All fields of a question, in the order of `read_form`."""
        fields = [self.ask[name] for name in ASK_FIELDS]
        return [*fields, *(self.sides[side][name] for side in SIDES for name in SIDE_FIELDS)]

    @property
    def settings(self) -> list[Any]:
        """All that a run is made with, as `form_values` fills it: picture, example, its mark, and the form."""
        return [self.picture, self.example, self.examples, *self.form]

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The session and the regions, as `outputs_of` fills them.

        gradio deletes a session an hour after it was last an output if its tab was ever disconnected, so every action
        has it among its outputs.
        """
        return [self.session, *(self.regions[name] for name in REGIONS)]


def build(settings: AppSettings, example: Example | None = None, page: CompareUpdate | None = None) -> Parts:
    """Lay out the tab inside the current Blocks.

    example, page: what the tab opens with. It is there from the start, so that nothing moves when the page is loaded.
    """
    session = gr.State(
        CompareSession(settings.limits),
        delete_callback=lambda value: value.close() if isinstance(value, CompareSession) else None,
    )
    chosen = gr.State(example.id if example else None)
    regions: dict[str, gr.HTML] = {}
    buttons: dict[str, gr.Button] = {}
    panels: dict[str, Any] = {}
    places: dict[str, gr.Column] = {}
    with gr.Row(elem_classes="vl-main"):
        with gr.Column(elem_classes=["vl-ask", "vl-panel"]):
            asking = build_ask(example)
            panels |= build_further_questions()
        with gr.Column(elem_classes="vl-results"):
            regions["state"] = gr.HTML(elem_id="vl-state")
            with gr.Row(elem_classes="vl-top"):
                regions["asked"] = gr.HTML(js_on_load=PICK, elem_id="vl-asked")
                regions["belongs"] = gr.HTML("", js_on_load=PICK, elem_id="vl-belongs")
                buttons["swap"] = gr.Button("⇄ Swap sides", size="sm", elem_id="vl-swap")
            regions["message"] = gr.HTML(elem_id="vl-message")
            regions["board"] = gr.HTML(elem_id="vl-board")
            side_parts = _answers(settings, regions)
            _vote(panels, regions)
            _pictures(regions, places)
            _below(settings, regions, panels, places)
    empty: CompareUpdate = {**views.empty(session.value), "state": views.state(session.value, built=True)}
    for name, view in {**empty, **(page or {})}.items():
        regions[name].value = view
    buttons |= {"run": asking.run, "stop": asking.stop}
    return Parts(session, chosen, asking, side_parts, regions, buttons, panels, places)


def _answers(settings: AppSettings, regions: dict[str, gr.HTML]) -> dict[str, SideParts]:
    """Both sides beside each other: the settings' line, the verdict, the answer."""
    parts = {}
    with gr.Row(elem_classes="vl-pair", equal_height=False):
        for side in SIDES:
            with gr.Column(elem_classes=["vl-side", f"vl-{side}"], min_width=0):
                parts[side] = build_side(settings, side)
                regions[f"{side}_card"] = gr.HTML(elem_id=f"vl-{side}-card")
    return parts


def _vote(panels: dict[str, Any], regions: dict[str, gr.HTML]) -> None:
    """Directly below the answers: which one is better; and, once that could be judged, what many questions say."""
    with gr.Column(elem_classes="vl-vote"):
        with gr.Row(elem_classes="vl-votes"):
            gr.HTML(el("span", "Which answer is better?"), elem_classes="vl-vote-asked", min_width=0)
            panels["votes"] = {
                name: gr.Button(title, size="sm", elem_id=f"vl-vote-{name}", min_width=60)
                for name, title in CHOICES.items()
            }
            panels["consent"] = gr.Checkbox(
                False, label="Store my vote: question, settings, both texts", elem_id="vl-consent", min_width=120
            )
        panels["note"] = gr.Textbox(
            label="Note (optional)", max_lines=3, elem_id="vl-note", visible=False, placeholder="Stored with the vote"
        )
        regions["vote"] = gr.HTML(elem_id="vl-vote-message")
    regions["finding"] = gr.HTML(js_on_load=PICK, elem_id="vl-finding")


def _pictures(regions: dict[str, gr.HTML], places: dict[str, gr.Column]) -> None:
    """Both sides and the truth on one picture, and each side's own; each answer token by token; what they rest on."""
    with gr.Row(elem_classes="vl-pictures", equal_height=False):
        regions["together"] = gr.HTML(elem_id="vl-together")
        for side in SIDES:
            regions[f"{side}_picture"] = gr.HTML(elem_id=f"vl-{side}-picture")
    regions["three"] = gr.HTML(js_on_load=PICK, elem_id="vl-three-view")
    with gr.Column(elem_classes=["vl-panel", "vl-token-section"]):
        title = el("h2", "Token by token", class_="vl-section")
        opens = ["Opens at the least ", term("log-probability", "probable"), " ", term("token")]
        gr.HTML(el("div", title, el("p", *opens, class_="vl-note"), class_="vl-token-head"))
        with gr.Row(elem_classes="vl-token-pair", equal_height=False):
            for side in SIDES:
                regions[f"{side}_tokens"] = gr.HTML(elem_id=f"vl-{side}-tokens")
    with gr.Column(elem_classes=["vl-panel", "vl-evidence-place"]) as places["evidence"]:
        pass


def _below(
    settings: AppSettings, regions: dict[str, gr.HTML], panels: dict[str, Any], places: dict[str, gr.Column]
) -> None:
    """What was measured, what can be looked up, and what can be done with a run."""
    with gr.Column(elem_classes=["vl-panel", "vl-times"]):
        gr.HTML(el("h2", "Time and memory", class_="vl-section"))
        regions["charts"] = gr.HTML(elem_id="vl-charts")
        with gr.Column(elem_classes="vl-times-place") as places["times"]:
            pass
        with gr.Accordion("Exact figures", open=False, elem_classes="vl-fold", elem_id="vl-exact"):
            regions["figures"] = gr.HTML(elem_id="vl-figures")
    with gr.Accordion("The exact prompts", open=False, elem_classes=["vl-more", "vl-of-run"]):
        regions["prompts"] = gr.HTML(elem_id="vl-prompts")
    with gr.Accordion("Known scores", open=False, elem_classes=["vl-more", "vl-named"]):
        regions["scores"] = gr.HTML(scores_table(settings.left, settings.right), elem_id="vl-scores")
    with gr.Row(elem_classes="vl-after", equal_height=False):
        with gr.Column(elem_classes="vl-panel", min_width=280):
            gr.HTML(el("h2", "Save and share", class_="vl-section"))
            _files(panels)
        with gr.Column(elem_classes="vl-panel", min_width=280):
            gr.HTML(el("h2", "This visit", class_="vl-section"))
            regions["history"] = gr.HTML(js_on_load=PICK, elem_id="vl-history")
    panels["file"] = gr.DownloadButton("file", visible="hidden")


def _files(panels: dict[str, Any]) -> None:
    with gr.Row(elem_classes="vl-files"):
        panels["annotated"] = gr.Button("Picture with answers", size="sm", elem_id="vl-annotated")
        panels["save"] = gr.Button("This run as a file", size="sm", elem_id="vl-save")
        panels["load"] = gr.UploadButton("Open a run's file", size="sm", file_types=[".json"], elem_id="vl-load")
        panels["comparator"] = gr.Button("All runs for LLM Comparator", size="sm", elem_id="vl-comparator")
        panels["my_votes"] = gr.Button("My stored votes as CSV", size="sm", elem_id="vl-my-votes")
    panels["link"] = gr.Textbox(
        label="Link to these settings and the example",
        interactive=False,
        buttons=["copy"],
        elem_id="vl-link",
        max_lines=1,
    )


def outputs_of(session: CompareSession, page: CompareUpdate) -> list[Any]:
    """The session and an action's update in the order of `Parts.outputs`; other regions stay as they are."""
    return [session, *(page.get(name, gr.skip()) for name in REGIONS)]


def asks_of(page: CompareUpdate) -> list[Any]:
    """The question's fields where the update moves the form along, in the order of ASK_FIELDS."""
    form = page.get("asks")
    return [getattr(form, name) if form else gr.skip() for name in ASK_FIELDS]


def streamed(session: CompareSession, pages: Iterator[CompareUpdate], *, moves: bool = False) -> Iterator[list[Any]]:
    """Each update as outputs, with the question's fields if it `moves` them; the action's generator is closed with the
    stream."""
    with closing(pages):  # type: ignore[type-var]
        for page in pages:
            yield [*outputs_of(session, page), *(asks_of(page) if moves else [])]
