"""The token and prompt panels of a run, as markup: each token with its time and alternatives, each prompt's ids."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from vlcompare.render.markup import Safe, el
from vlcompare.types import Prompt, Token
from vlcompare.ui.compare import display_limits as shown
from vlcompare.ui.compare.cards import side_name, tall
from vlcompare.ui.compare.session import Run
from vlcompare.units import milliseconds


def tokens_view(run: Run, side: str) -> Safe:
    """Every token as a button: chosen, it shows its time, its probability and what else it might have been.

    The page's script opens the least probable one, unless the visitor has chosen another of this answer.
    """
    answer = run.answer(side)
    if run.hidden or answer is None or not answer.tokens:
        when = "Tokens: after your vote." if run.hidden else "Tokens: after the answer."
        if answer is not None and not run.hidden:
            when = "No token: it failed." if answer.error else "No token."
        return el("div", el("p", when, class_="vl-empty"), class_="vl-token-panel" + tall(run))
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
    least = least_probable(answer.tokens[: shown.TOKENS])
    hint = el("p", "Choose a token.", class_="vl-empty") if least is None else None
    return el(
        "div",
        el("div", *buttons, class_="vl-tokens", role="group", aria_label="Tokens of the answer"),
        shown.left_out(answer.tokens, shown.TOKENS, "tokens"),
        el("div", hint, class_="vl-inspect", aria_live="polite"),
        class_="vl-token-panel" + tall(run),
        data_side=side,
        data_answer=run.sides[side].id,
        data_least=None if least is None else str(least),
    )


def least_probable(tokens: Sequence[Token]) -> int | None:
    """The index of the token with the lowest probability; None where none is below 1, as if none was stored."""
    doubts = [min(0.0, token.logprob) for token in tokens]
    least = min(doubts, default=0.0)
    return doubts.index(least) if least < 0.0 else None


def _visible(text: str) -> str:
    marked = text.replace("\n", "↵").replace("\t", "⇥")
    return marked if text.strip() else marked.replace(" ", "·")


def prompt_view(run: Run) -> Safe:
    """The exact prompt of each side: its turns, and its tokens with the image's positions folded into one piece.

    Its order and its number of patches would tell a blind run's sides apart.
    """
    if run.hidden:
        return el("p", "The prompts: after your vote.", class_="vl-empty")
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
