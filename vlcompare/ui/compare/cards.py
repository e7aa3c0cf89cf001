"""Everything that the page shows of a run, as markup: answers, figures, tokens, prompts, overlaps, history.

Pure functions of a run. Knows nothing of gradio; all text goes through `markup.el`, which escapes it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence

from vlcompare.render.markup import Safe, el, join, milliseconds, number
from vlcompare.tasks.boxes import find_boxes
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import Answer, Prompt
from vlcompare.ui.checkpoint_names import lookup, name_of
from vlcompare.ui.compare import display_limits as shown
from vlcompare.ui.compare.picture import PALETTE
from vlcompare.ui.compare.session import Run, SideRun
from vlcompare.ui.server.redact import without_paths

STOPS = {
    "end": "ended by itself",
    "limit": "token limit reached",
    "newline": "ended at the line's end",
    "cancelled": "stopped",
    "deadline": "time limit reached",
    "context": "context full",
    "error": "failed",
    "recorded": "recorded earlier",
}
PHOTO_NOTICE = (
    "An embedded model knows only this project's rendered scenes of coloured shapes and short documents. "
    "Asked about a photograph it answers, but the answer means nothing."
)


def side_name(run: Run, side: str) -> tuple[str, str]:
    """(name, architecture) as they may be shown: in a blind run the models are only A and B until the vote."""
    if run.hidden:
        return f"Model {'A' if side == 'left' else 'B'}", "named after your vote"
    part = run.sides[side]
    name = name_of(part.settings.checkpoint)
    return name.title, name.architecture or measured_architecture(part.answer)


def measured_architecture(answer: Answer | None) -> str:
    """What the memory says about a checkpoint that nobody listed: a cache grows with every token, a state does not."""
    trace = answer.memory.state_trace if answer else ()
    if len(trace) < 2:
        return ""
    return "cache grows with every token" if trace[-1] > trace[0] else "state stays constant"


def untrained(part: SideRun) -> list[str]:
    """Settings that a listed checkpoint was not trained with, each in a few words."""
    known = lookup(part.settings.checkpoint)
    said = []
    if known and part.settings.prompt_order == "instruction_first":
        said.append("instruction first: not trained in this order")
    if known and known.image_size and part.settings.image_size not in (None, known.image_size):
        said.append(f"{part.settings.image_size} pixels: trained at {known.image_size}")
    return said


def card(run: Run | None, side: str) -> Safe:
    """One side's answer as it stands: what it is doing, the text, and the live figures. Its height hardly changes."""
    if run is None:
        return el(
            "div",
            el("div", el("span", "Ready", class_="vl-status"), class_="vl-card-head"),
            el("div", "The answer will stream here.", class_="vl-answer vl-empty"),
            _live([("first token", "–"), ("tokens/s", "–"), ("tokens", "–")]),
            class_="vl-card",
            data_side=side,
        )
    part = run.sides[side]
    answer = part.answer
    title, architecture = side_name(run, side)
    state, kind = _state(part, run.hidden)
    if answer is not None and answer.error:
        body = el("div", el("p", shown.cut(answer.error), role="alert", class_="vl-error"), class_="vl-answer")
    elif answer is not None:
        body = el("div", answer_text(part, run.request.task), _parse_note(run, answer), class_="vl-answer")
    else:
        caret = el("span", class_="vl-caret")
        body = el(
            "div", part.text or None, caret if part.steps else el("span", "…", class_="vl-empty"), class_="vl-answer"
        )
    notices = [] if run.hidden else [el("p", sentence, class_="vl-note") for sentence in part.notices]
    name = [el("b", title, class_="vl-name"), el("span", architecture, class_="vl-arch") if architecture else None]
    if not run.hidden:
        name += [el("span", words, class_="vl-tag") for words in untrained(part)]
    return el(
        "div",
        el("div", el("span", state, class_=f"vl-status vl-{kind}"), *name, class_="vl-card-head"),
        body,
        *notices,
        _live(_live_figures(part, run.hidden)),
        class_="vl-card" + tall(run),
        data_side=side,
    )


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
    return STOPS.get(answer.stop_reason, answer.stop_reason or "done").capitalize(), "done"


def _live_figures(part: SideRun, hidden: bool) -> list[tuple[str, str]]:
    if hidden:
        return [("tokens", str(len(part.steps) or "–"))]
    if part.answer is not None and part.answer.tokens:
        timings = part.answer.timings
        first, rate, count = timings.ttft_ms, timings.tokens_per_s, len(part.answer.tokens)
    else:
        gaps = [step.seconds for step in part.steps]
        first = 1e3 * gaps[0] if gaps else 0.0
        spent = math.fsum(gaps[1:])
        rate = (len(gaps) - 1) / spent if spent else 0.0
        count = len(gaps)
    return [
        ("first token", milliseconds(first) if first else "–"),
        ("tokens/s", number(rate) if rate else "–"),
        ("tokens", str(count) if count else "–"),
    ]


def _live(figures: Sequence[tuple[str, str]]) -> Safe:
    return el("dl", *[el("div", el("dt", name), el("dd", value)) for name, value in figures], class_="vl-live")


def _parse_note(run: Run, answer: Answer) -> Safe | None:
    if answer.parse == "unparseable":
        reads = {
            "boxes": "a box",
            "letter": "one of the letters",
            "truth": "True or False",
            "phrases": "phrases with boxes",
        }
        wanted = reads.get(SPECS[run.request.task].reads, "what the task asks for")
        return el("p", f"Unparseable: no {wanted.removeprefix('a ')} could be read out of this text.", class_="vl-warn")
    return None


def answer_text(part: SideRun, task: str) -> Safe:
    """The text; where it holds boxes, each box is a numbered chip in its colour, and so is the phrase that names it."""
    answer = part.answer
    assert answer is not None
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


def tokens_view(run: Run, side: str) -> Safe:
    """Every token as a button: chosen, it shows its time, its probability and what else it might have been."""
    answer = run.answer(side)
    if run.hidden or answer is None or not answer.tokens:
        return el(
            "div",
            el("p", "Tokens: after the answer." if not run.hidden else "Tokens: after your vote.", class_="vl-empty"),
            class_="vl-token-panel" + tall(run),
        )
    gaps = (answer.timings.ttft_ms, *answer.timings.token_ms)
    buttons = []
    for index, token in enumerate(answer.tokens[: shown.TOKENS]):
        probability = math.exp(min(0.0, token.logprob))
        gap = gaps[index] if index < len(gaps) else 0.0
        top = json.dumps(
            [
                [other.text or f"id {other.id}", round(math.exp(min(0.0, other.logprob)), 4)]
                for other in token.top[: shown.ALTERNATIVES]
            ]
        )
        buttons.append(
            el(
                "button",
                _visible(token.text) or ("‹end›" if token.id == 0 else f"‹{token.id}›"),
                type="button",
                class_="vl-token",
                style=f"--doubt:{1 - probability:.2f}",
                data_token=str(index),
                data_id=str(token.id),
                data_ms=milliseconds(gap),
                data_p=f"{100 * probability:.1f}",
                data_top=top,
                tabindex="0" if index == 0 else "-1",
                aria_label=f"token {index + 1}: {token.text or token.id}, {100 * probability:.0f} percent",
            )
        )
    hint = "Choose a token: its time, its probability, and what else it might have been."
    return el(
        "div",
        el("div", *buttons, class_="vl-tokens", role="group", aria_label="Tokens of the answer"),
        shown.left_out(answer.tokens, shown.TOKENS, "tokens"),
        el("div", el("p", hint, class_="vl-empty"), class_="vl-inspect", aria_live="polite"),
        class_="vl-token-panel" + tall(run),
        data_side=side,
    )


def _visible(text: str) -> str:
    return text.replace("\n", "↵").replace(" ", "·") if not text.strip() else text.replace("\n", "↵")


def prompt_view(run: Run) -> Safe:
    """The exact prompt of each side: its turns, and its tokens with the image's positions folded into one piece."""
    columns = []
    for side in run.sides:
        title, _ = side_name(run, side)
        prompt = run.sides[side].prompt
        inside = _prompt(prompt) if prompt else el("p", "No prompt yet.", class_="vl-empty")
        columns.append(el("div", el("h4", title, data_side=side), inside, class_="vl-prompt"))
    return el("div", *columns, class_="vl-columns")


def _prompt(prompt: Prompt) -> Safe:
    turns = [
        el(
            "li",
            el("span", "image", class_="vl-image-slot")
            if turn == "<image>"
            else el("code", shown.cut(turn).replace("\n", "↵\n")),
        )
        for turn in prompt.turns[: shown.TURNS]
    ]
    slots = sum(1 for id in prompt.ids if id < 0)
    order = prompt.order.replace("_", " ")
    return el(
        "div",
        el("p", f"{len(prompt.ids)} tokens, {slots} of them patches of the image · {order}", class_="vl-note"),
        el("ol", *turns, class_="vl-turns"),
        shown.left_out(prompt.turns, shown.TURNS, "turns"),
        el("details", el("summary", "Token ids"), el("code", _ids(prompt.ids), class_="vl-ids")),
    )


def _ids(ids: Sequence[int]) -> str:
    """Ids with runs of image positions folded: `4118 [image ×24] 10494 ...`."""
    out: list[str] = []
    run = 0
    for id in (*ids, None):
        if id is not None and id < 0:
            run += 1
            continue
        if run:
            out.append(f"[image ×{run}]")
            run = 0
        if id is not None:
            out.append(str(id))
    return " ".join(out)


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
        said = run.request.text or spec.title
        names = " · ".join(side_name(run, side)[0] for side in run.sides)
        items.append(
            el(
                "button",
                el("img", src=thumbnail(run), alt=""),
                el(
                    "span",
                    el("b", said[:60]),
                    el("small", names),
                    el("small", time.strftime("%H:%M", time.localtime(run.created))),
                ),
                type="button",
                class_="vl-history-item",
                data_pick=run.id,
                aria_pressed="true" if run.id == current else "false",
                aria_label=f"Show again: {spec.title}, {said[:60]}",
            )
        )
    return el("div", *items, class_="vl-history")


def thumbnail(run: Run) -> str:
    """The shown picture, reduced, as a data address."""
    import base64
    import io

    from PIL import Image

    with Image.open(io.BytesIO(run.picture.shown)) as picture:
        small = picture.convert("RGB")
        small.thumbnail((120, 120))
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=75)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def message(sentence: str, kind: str = "note") -> Safe:
    """One line for the visitor; an error's is without the server's paths."""
    if not sentence:
        return el("div", class_="vl-message")
    sentence = without_paths(sentence) if kind == "error" else sentence
    return el("div", sentence, class_=f"vl-message vl-message-{kind}", role="alert" if kind == "error" else "status")


def heading(run: Run, sentence: str = "", kind: str = "note") -> Safe:
    """What was asked, above its answers, and a line for the visitor below it where there is one."""
    spec = SPECS[run.request.task]
    how = {"continue": "continued", "anew": "same picture, asked anew"}.get(run.follow_up or "")
    tags = [how, "race: times contended" if run.mode == "race" else None, "blind" if run.hidden else None]
    asked = el(
        "div",
        el("b", spec.title),
        el("span", run.request.text, class_="vl-asked-text") if run.request.text else None,
        *[el("span", tag, class_="vl-tag") for tag in tags if tag],
        class_="vl-asked",
    )
    heard = el("p", summary(run), class_="vl-heard", role="status") if run.done else None
    return el("div", asked, message(sentence, kind) if sentence else None, heard, class_="vl-heading")


def summary(run: Run) -> Safe:
    """The run in one sentence, for people who listen to the page."""
    parts = []
    for side in run.sides:
        answer = run.answer(side)
        title, _ = side_name(run, side)
        parts.append(
            f"{title}: {answer.error or answer.text or 'no text'}" if answer else f"{title}: {run.sides[side].status}"
        )
    return join(parts, " — ")


BLANKS = {
    "picture": "The picture with this side's boxes.",
    "tokens": "Every token can be looked at after the answer.",
    "together": "Both sides' boxes and the ground truth on one picture.",
    "charts": "Time to first token, latency of each token, and memory, both sides on one axis.",
    "figures": "",
    "prompts": "The prompt of each side, token by token, once something was asked.",
}


def blank(region: str) -> Safe:
    """What a region shows before the first question, at about the height that it will have."""
    tall = "vl-blank" if region in ("picture", "together", "charts") else ""
    return el("div", el("p", BLANKS[region], class_="vl-empty"), class_=tall or None)
