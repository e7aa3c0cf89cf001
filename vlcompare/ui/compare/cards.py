"""A run's answer cards, heading and history as markup, and how its sides are named.

Pure functions of a run; all text goes through `markup.el`, which escapes it.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from vlcompare.render.markup import Safe, el, join
from vlcompare.render.terms import term
from vlcompare.tasks.boxes import find_boxes
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import CUT_SHORT, Answer
from vlcompare.ui import webp
from vlcompare.ui.checkpoint_names import lookup, name_of
from vlcompare.ui.compare import display_limits as shown
from vlcompare.ui.compare.picture import PALETTE
from vlcompare.ui.compare.session import Run, SideRun
from vlcompare.ui.compare.stored import stored_line
from vlcompare.ui.compare.verdict import verdict
from vlcompare.ui.server.redact import without_paths
from vlcompare.units import milliseconds, number

STOPS = {
    "end": "Finished",
    "limit": "Token limit reached",
    "newline": "Finished",
    "cancelled": "Stopped; partial answer kept",
    "deadline": "Time limit reached; partial answer kept",
    "context": "Context full",
    "error": "Failed",
    "recorded": "Recorded",
}


def side_name(run: Run, side: str) -> tuple[str, str]:
    """(name, architecture) as they may be shown: in a blind run the models are only A and B until the vote."""
    if run.hidden:
        return f"Model {'A' if side == 'left' else 'B'}", ""
    part = run.sides[side]
    name = name_of(part.settings.checkpoint)
    return name.title, name.architecture or measured_architecture(part.answer)


def measured_architecture(answer: Answer | None) -> str:
    """The architecture of an unlisted checkpoint by its memory: a cache grows with every token, a state does not."""
    trace = answer.memory.state_trace if answer else ()
    if len(trace) < 2:
        return ""
    return "cache grows with every token" if trace[-1] > trace[0] else "state stays constant"


def untrained(part: SideRun) -> list[str]:
    """Settings that a listed checkpoint was not trained with, each in a few words."""
    known = lookup(part.settings.checkpoint)
    differences = []
    if known and part.settings.prompt_order == "instruction_first":
        differences.append("instruction first: not trained in this order")
    if known and known.image_size and part.settings.image_size not in (None, known.image_size):
        differences.append(f"{part.settings.image_size} pixels: trained at {known.image_size}")
    return differences


def card(run: Run | None, side: str) -> Safe:
    """One side's answer so far: its status, text and live figures. Its height hardly changes while it streams."""
    if run is None:
        body = el("div", "The answer will stream here.", class_="vl-answer vl-empty")
        return el("div", _outcome(None, None, "Ready", "done"), body, _live(None), class_="vl-card", data_side=side)
    part = run.sides[side]
    answer = part.answer
    title, architecture = side_name(run, side)
    state, kind = _state(part, run.hidden)
    head: list[Safe | None] = [el("b", title, class_="vl-name")]
    if not run.hidden:
        head += [el("span", words, class_="vl-tag") for words in untrained(part)]
    if answer is not None and answer.error:
        content: list[Any] = [el("p", shown.cut(answer.error), role="alert", class_="vl-error")]
    elif answer is not None:
        content = [answer_text(answer), _choice(run, answer), None if run.hidden else _parse_note(run, answer)]
    else:
        content = [
            part.text or None,
            el("span", class_="vl-caret") if part.steps else el("span", "…", class_="vl-empty"),
        ]
    notices = [] if run.hidden else [el("p", sentence, class_="vl-note") for sentence in part.notices]
    return el(
        "div",
        el("div", *head, class_="vl-card-head"),
        _outcome(verdict_mark(run, side), architecture, state, kind),
        el("div", *content, class_="vl-answer"),
        *notices,
        _live(part, run.hidden),
        class_="vl-card" + tall(run),
        data_side=side,
    )


def _outcome(mark: Safe | None, architecture: str | None, state: str, kind: str) -> Safe:
    """The line below the name: the verdict, where there is one, the architecture, and how far the answer is."""
    return el(
        "div",
        mark,
        el("span", architecture, class_="vl-arch") if architecture else None,
        el("span", state, class_=f"vl-status vl-{kind}"),
        class_="vl-outcome",
    )


def verdict_mark(run: Run, side: str) -> Safe | None:
    """The verdict as a coloured mark; None without a verdict."""
    found = verdict(run, side)
    if found is None:
        return None
    before, name, after = found.text.partition("IoU")
    said = join([before, term("iou", name), after]) if name else found.text
    return el("b", said, class_=f"vl-verdict vl-{found.kind}")


def scoreboard(run: Run) -> Safe:
    """Both sides' names and verdicts in two rows: what a narrow screen shows first."""
    rows = []
    for side in run.sides:
        state, kind = _state(run.sides[side], run.hidden)
        outcome = verdict_mark(run, side) or el("span", state, class_=f"vl-status vl-{kind}")
        name = el("span", el("i", class_="vl-key", data_side=side), side_name(run, side)[0])
        rows.append(el("div", name, outcome, class_="vl-board-row", data_side=side))
    return el("div", *rows, class_="vl-board")


def tall(run: Run) -> str:
    """A class for tasks with long answers: room is kept for them, so that nothing below moves while they stream."""
    spec = SPECS[run.request.task]
    return " vl-tall" if spec.reads in ("text", "phrases") and spec.max_new_tokens >= 100 else ""


def _state(part: SideRun, hidden: bool) -> tuple[str, str]:
    answer = part.answer
    if answer is None and hidden:  # what is being loaded, and how large it is, would name the model
        return "Answering" if part.steps else "Getting ready", "busy"
    if answer is None:
        return part.status or "Answering", "busy"
    if answer.error:
        return "Failed", "failed"
    said = STOPS.get(answer.stop_reason, answer.stop_reason or "Finished")
    if hidden and answer.stop_reason not in CUT_SHORT:  # only a Transformer's context is ever full
        said = STOPS["end"]
    return (said if answer.text or answer.tokens else said.partition(";")[0]), "done"  # nothing was kept of nothing


def _live(part: SideRun | None, hidden: bool = False) -> Safe:
    """The figures below the text: of the answer, or of the steps so far. Times would give a hidden model away."""
    first = rate = 0.0
    count = len(part.steps) if part else 0
    batched = bool(part and part.answer and part.answer.timings.mode == "batch")  # an evaluation's: not of one answer
    if part and part.answer is not None and part.answer.tokens and not hidden and not batched:
        timings = part.answer.timings
        first, rate, count = timings.ttft_ms, timings.tokens_per_s, len(part.answer.tokens)
    elif part and part.answer is not None and batched:
        count = len(part.answer.tokens)
    elif part and part.steps and not hidden:
        first = 1e3 * part.steps[0].seconds
        spent = math.fsum(step.seconds for step in part.steps[1:])
        rate = (count - 1) / spent if spent else 0.0
    figures = [
        (term("first token"), milliseconds(first) if first else "–"),
        (term("tokens per second", "tokens/s"), number(rate) if rate else "–"),
        ("tokens", str(count or "–")),
    ]
    kept = figures[-1:] if hidden else figures
    return el("dl", *[el("div", el("dt", name), el("dd", value)) for name, value in kept], class_="vl-live")


def _choice(run: Run, answer: Answer) -> Safe | None:
    """The possible answer that the letter names."""
    index = ord(answer.text) - ord("A") if len(answer.text) == 1 else -1
    if SPECS[run.request.task].choices != "texts" or not 0 <= index < len(run.request.choices or ()):
        return None
    return el("span", f" · {shown.cut(str((run.request.choices or ())[index]))}", class_="vl-muted")


def _parse_note(run: Run, answer: Answer) -> Safe | None:
    if answer.parse != "unparseable" or answer.stop_reason in CUT_SHORT:
        return None
    expected = {
        "boxes": "box",
        "letter": "one of the letters",
        "truth": "True or False",
        "phrases": "phrases with boxes",
    }
    wanted = expected.get(SPECS[run.request.task].reads, "what the task asks for")
    return el("p", f"Unparseable: no {wanted} could be read out of this text.", class_="vl-warn")


def answer_text(answer: Answer) -> Safe:
    """The text; each box in it is a numbered chip in its colour, and the phrase that names it has the same colour."""
    whole = "".join(token.text for token in answer.tokens) or answer.text
    if not answer.boxes:
        return el("span", shown.cut(answer.text or whole) or "(no text)")
    whole = shown.cut(whole)
    pieces: list[object] = []
    position = 0
    for index, found in enumerate(find_boxes(whole)[: shown.BOXES]):
        before = whole[position : found.start]
        link = {"data_box": str(index)}
        if len(answer.boxes) > 1:
            link["data_colour"] = str(index % PALETTE)
        phrase = answer.phrases[index] if index < len(answer.phrases) else ""
        if phrase and phrase in before:
            cut = before.rindex(phrase)
            pieces += [
                _bars(before[:cut]),
                el("mark", phrase, class_="vl-phrase", **link),
                _bars(before[cut + len(phrase) :]),
            ]
        else:
            pieces.append(_bars(before))
        chip = el("span", str(index + 1), class_="vl-chip-number")
        pieces.append(el("span", chip, whole[found.start : found.stop], class_="vl-chip", **link))
        position = found.stop
    pieces.append(_bars(whole[position:]))
    return el("span", *pieces)


def _bars(text: str) -> str:
    return text.replace("||", "")


def history_view(runs: Sequence[Run], current: str | None) -> Safe:
    """This session's runs as buttons with thumbnails, the newest first."""
    if not runs:
        return el(
            "p",
            "Nothing yet. Every comparison of this visit is listed here; nothing is kept on the server.",
            class_="vl-empty",
        )
    items = []
    for run in runs:
        spec = SPECS[run.request.task]
        asked = run.request.text or spec.title
        names = " · ".join(side_name(run, side)[0] for side in run.sides)
        items.append(
            el(
                "button",
                el("img", src=run_thumbnail(run), alt=""),
                el(
                    "span",
                    el("b", asked[:60]),
                    el("small", names),
                    el("small", time.strftime("%H:%M", time.localtime(run.created))),
                ),
                type="button",
                class_="vl-history-item",
                data_pick=run.id,
                aria_pressed="true" if run.id == current else "false",
                aria_label=f"Show again: {spec.title}, {asked[:60]}",
            )
        )
    return el("div", *items, class_="vl-history")


def run_thumbnail(run: Run) -> str:
    """The shown picture, reduced, as a data URI."""
    return _reduced(run.picture.shown)


@lru_cache(maxsize=32)
def _reduced(shown: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(shown)) as picture:
        return webp.data_uri(webp.encode(picture, 120, 75))


def message(sentence: str, kind: str = "note", field: str = "") -> Safe:
    """One line for the user; the server's paths are taken out of errors. field: the id of the field it is about."""
    if not sentence:
        return el("div", class_="vl-message")
    sentence = without_paths(sentence) if kind == "error" else sentence
    return el(
        "div",
        sentence,
        class_=f"vl-message vl-message-{kind}",
        role="alert" if kind == "error" else "status",
        data_field=field or None,
    )


def heading(run: Run, sentence: str = "", kind: str = "note") -> Safe:
    """The question above its answers, with a message below it where there is one."""
    spec = SPECS[run.request.task]
    how = {"continue": "continued", "anew": "same picture, asked anew"}.get(run.follow_up or "")
    race = "race: times contended" if run.mode == "race" else None
    tags = [how, race, "blind: names and verdicts after your vote" if run.hidden else None]
    asked = el(
        "div",
        el("b", spec.title),
        el("span", run.request.text, class_="vl-asked-text") if run.request.text else None,
        *[el("span", tag, class_="vl-tag") for tag in tags if tag],
        class_="vl-asked",
    )
    spoken = el("p", summary(run), class_="vl-heard", role="status") if run.done else None
    said = message(sentence, kind) if sentence else None
    tiny = run.follow_up == "continue" and any(name_of(own.checkpoint).embedded for own in run.settings.values())
    note = el("p", "The tiny demo models never read a conversation: this may mean nothing to them.", class_="vl-note")
    return el("div", asked, stored_line(run), note if tiny else None, said, spoken, class_="vl-heading")


def result_text(answer: Answer | None) -> str:
    """What a side has answered, in short."""
    return "…" if answer is None else answer.error or answer.text or "(no text)"


def summary(run: Run) -> Safe:
    """The run in one sentence, for screen readers."""
    parts = []
    for side in run.sides:
        answer = run.answer(side)
        result = answer.error or answer.text or "no text" if answer else run.sides[side].status
        parts.append(f"{side_name(run, side)[0]}: {result}")
    return join(parts, " — ")


BLANKS = {
    "tokens": "Every token can be inspected after the answer.",
    "together": "Both sides' boxes and the ground truth on one picture.",
    "charts": "Press Compare: every token's time and the memory are shown here.",
    "figures": "Measured with the next comparison.",
    "prompts": "The prompt of each side, token by token, once something was asked.",
}


def blank(region: str) -> Safe:
    """What a region shows before the first question, at about its later height."""
    tall = "vl-blank" if region in ("together", "charts") else ""
    return el("div", el("p", BLANKS[region], class_="vl-empty"), class_=tall or None)
