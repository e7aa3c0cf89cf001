"""Answers as HTML for a notebook: the picture with its boxes, the texts, verdicts and times. All text is escaped.

Styles are inline: a notebook has no style sheet of ours, and its own colours, light or dark.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

from PIL import Image

from vlcompare.render.draw import STYLES
from vlcompare.render.markup import Safe, el
from vlcompare.render.result_card import VERDICTS, CardSide, drawn_picture, facts, title, words
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import Box, Request

SIDE = 420  # pixels of the picture at most


def answers_html(
    picture: Image.Image, request: Request, sides: Mapping[str, CardSide], truth: Sequence[Box] = ()
) -> Safe:
    """The picture at the left, the question and each side's answer at the right; arguments as of `result_card`."""
    drawn = drawn_picture(picture, request, sides, truth, (SIDE, SIDE))
    asked = el("b", request.text) if request.text else None
    return el(
        "div",
        el("img", src=_data_uri(drawn), alt="the picture with its boxes", width=drawn.width, height=drawn.height),
        el(
            "div",
            el("div", el("small", SPECS[request.task].title, " "), asked),
            *[_side(side, part) for side, part in sides.items()],
            el("small", "dashed: the truth") if truth else None,
            style="flex:1;min-width:260px",
        ),
        style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start;max-width:960px",
    )


def facts_html(heading: str, rows: Mapping[str, str]) -> Safe:
    """A heading and a small table of names and values."""
    cells = [el("tr", el("th", name, style="text-align:left"), el("td", value)) for name, value in rows.items()]
    return el("div", el("b", heading), el("table", el("tbody", *cells)))


def _side(side: str, part: CardSide) -> Safe:
    color = STYLES[side].color
    verdict = part.verdict
    mark = el("b", " ", verdict.text, style=f"color:{VERDICTS[verdict.kind]}") if verdict else None
    said = "white-space:pre-wrap;overflow-wrap:anywhere"
    return el(
        "div",
        el("div", el("b", title(side, part)), mark),
        el("div", words(part.answer), style=f"{said};color:{VERDICTS['bad']}" if part.answer.error else said),
        *[el("small", sentence, style="display:block;opacity:.75") for sentence in facts(part)],
        style=f"border-left:4px solid {color};padding-left:10px;margin:10px 0",
    )


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
