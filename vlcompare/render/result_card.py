"""The result card: one picture with the question, the full answers, their boxes and the truth, verdicts and times.

All text is drawn as text: it may be of any script and length, and nothing in it is read as markup.
"""

from __future__ import annotations

import string
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from PIL import Image, ImageDraw

from vlcompare.render.draw import STYLES, Mark, Role, annotate, answer_marks, request_marks
from vlcompare.render.fonts import LONGEST_LINE, Line, wrap
from vlcompare.tasks.prompts import SPECS
from vlcompare.tasks.verdict import Verdict
from vlcompare.types import CUT_SHORT, Answer, Box, Request
from vlcompare.units import milliseconds

WIDTH = 1600  # pixels
MAX_HEIGHT = 16_000  # pixels: WebP holds no more than 16,383
MARGIN, GAP, BAR, PAD = 48, 40, 10, 22
INNER = WIDTH - 2 * MARGIN
COLUMN = (INNER - GAP) // 2
BACKGROUND, INK, GREY, RULE = "#ffffff", "#1f2328", "#57606a", "#d0d7de"
WRONG = "#b42318"
VERDICTS = {"good": "#1a7f37", "part": "#8a5a00", "bad": WRONG}
_MAX_ENLARGED = 4  # times, of a small picture
_WIDE = 1.6  # a picture with a larger ratio of width to height is placed above the answers

STOPS = {
    "limit": "Ended at the token limit.",
    "context": "Ended where the context was full.",
    "cancelled": "Stopped; partial answer kept.",
    "deadline": "Ended at the time limit.",
}


@dataclass(frozen=True, slots=True)
class CardSide:
    """One side of a card: its answer, its name (the checkpoint's where it is empty), and the verdict, if there is one.

    anonymous: leave out the settings, the times and how the answer ended, which would tell which model it is.
    """

    answer: Answer
    name: str = ""
    verdict: Verdict | None = None
    anonymous: bool = False


def result_card(
    picture: Image.Image,
    request: Request,
    sides: Mapping[str, CardSide],
    *,
    truth: Sequence[Box] = (),
    references: Sequence[str] = (),
    created: float | None = None,
) -> Image.Image:
    """The card of one question, WIDTH pixels wide and as high as its texts need, at most MAX_HEIGHT.

    picture: upright. sides: "left" and "right", or one of them, in the order of drawing. truth: the true boxes, drawn
    dashed. references: the expected answers. created: seconds since the epoch (default: now). A text that would make
    the card too high is cut, and says how long it is.
    """
    head = _question(request, references)
    foot = [_text(_footer(sides, created), INNER, 22, GREY)]
    room = MAX_HEIGHT - 2 * MARGIN - 2 * GAP - _height(head) - _height(foot)
    body = _body(picture, request, sides, truth, room)
    top = MARGIN + _height(head) + GAP
    card = Image.new("RGB", (WIDTH, top + body.height + GAP + _height(foot) + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(card)
    _draw(draw, head, MARGIN, MARGIN)
    draw.line((MARGIN, top - GAP // 2, WIDTH - MARGIN, top - GAP // 2), fill=RULE, width=2)
    card.paste(body.picture, (MARGIN + body.picture_x, top))
    _draw(draw, body.note, MARGIN, top + body.picture.height)
    for side, (x, y, panel) in zip(sides, body.panels, strict=True):
        x, y = MARGIN + x, top + y
        draw.rectangle((x, y, x + BAR - 1, y + _height(panel)), fill=STYLES[side].color)
        _draw(draw, panel, x + BAR + PAD, y)
    _draw(draw, foot, MARGIN, card.height - MARGIN - _height(foot))
    return card


class _Text(NamedTuple):
    """Lines of one size and colour, with the space above them."""

    lines: Sequence[Line]
    size: int
    color: str
    bold: bool
    above: int

    @property
    def height(self) -> int:
        return self.above + len(self.lines) * _leading(self.size)


def _leading(size: int) -> int:
    return round(1.38 * size)


def _text(
    text: str, width: int, size: int, color: str = INK, *, bold: bool = False, above: int = 8, most: int = 60
) -> _Text:
    """The text on at most `most` lines; where it needs more, the last one says how long it is."""
    lines = list(islice(wrap(text[: (most + 1) * LONGEST_LINE], width, size, bold=bold), most + 1))
    if len(lines) > most:
        lines[most - 1 :] = islice(wrap(f"… cut here, of {len(text):,} characters", width, size, bold=bold), 1)
    return _Text(lines, size, color, bold, above)


def _height(texts: Sequence[_Text]) -> int:
    return sum(text.height for text in texts)


def _draw(draw: ImageDraw.ImageDraw, texts: Sequence[_Text], x: int, y: int) -> None:
    for text in texts:
        y += text.above
        for line in text.lines:
            line.draw(draw, x, y, text.size, text.color, text.bold)
            y += _leading(text.size)


class _Body(NamedTuple):
    """The picture, the note below it, and the sides' panels with their places; all from the body's top left."""

    height: int
    picture: Image.Image
    picture_x: int
    note: Sequence[_Text]
    panels: Sequence[tuple[int, int, Sequence[_Text]]]


def _body(
    picture: Image.Image, request: Request, sides: Mapping[str, CardSide], truth: Sequence[Box], room: int
) -> _Body:
    """The answers beside the picture; below it, beside each other, where it is wide or they are long."""
    beside = picture.width < _WIDE * picture.height
    shown = drawn_picture(picture, request, sides, truth, (COLUMN if beside else INNER, 820))
    note = _picture_note(request, sides, truth)
    below = shown.height + _height(note)
    if beside:
        panels = _panels(sides, COLUMN, room // max(1, len(sides)) - GAP)
        high = sum(map(_height, panels)) + GAP * (len(panels) - 1)
        if high <= 1.5 * below:
            tops = [sum(map(_height, panels[:i])) + GAP * i for i in range(len(panels))]
            places = [(COLUMN + GAP, top, panel) for top, panel in zip(tops, panels, strict=True)]
            return _Body(max(below, high), shown, (COLUMN - shown.width) // 2, note, places)
    panels = _panels(sides, COLUMN if len(sides) > 1 else INNER, room - below - GAP)
    places = [(i * (COLUMN + GAP), below + GAP, panel) for i, panel in enumerate(panels)]
    high = below + GAP + max(map(_height, panels), default=0)
    return _Body(high, shown, (INNER - shown.width) // 2, note, places)


def _question(request: Request, references: Sequence[str]) -> list[_Text]:
    """What was asked: the task, the text, the choices, and what was expected."""
    spec = SPECS[request.task]
    asked = request.text or spec.title
    texts = [_text(spec.title, INNER, 24, GREY, above=0)] if request.text else []
    texts.append(_text(asked, INNER, 38 if len(asked) <= 300 else 26, bold=True))
    if spec.choices == "texts":
        for letter, choice in zip(string.ascii_uppercase, request.choices or (), strict=False):
            texts.append(_text(f"{letter}. {choice}", INNER, 26, most=8))
    expected = " / ".join(dict.fromkeys(reference.replace("||", "") for reference in references))
    if expected:
        texts.append(_text(f"Expected: {expected}", INNER, 26, GREY, above=12, most=30))
    return texts


def _panels(sides: Mapping[str, CardSide], width: int, room: int) -> list[list[_Text]]:
    """The sides' panels, at most `room` pixels high, with answers of one size."""
    size = 28 if max((len(part.answer.text) for part in sides.values()), default=0) <= 1200 else 22
    return [_panel(side, part, width - BAR - PAD, room, size) for side, part in sides.items()]


def _panel(side: str, part: CardSide, width: int, room: int, size: int) -> list[_Text]:
    """One side: its name and quantization, the verdict, the answer, and what it took."""
    answer = part.answer
    head = [_text(title(side, part), width, 26, bold=True, above=0, most=8)]
    if part.verdict is not None:
        head.append(_text(part.verdict.text, width, 34, VERDICTS[part.verdict.kind], bold=True))
    foot = [_text(sentence, width, 22, GREY, above=10) for sentence in facts(part)]
    most = max(2, (room - _height(head) - _height(foot) - 12) // _leading(size))
    color = WRONG if answer.error else INK if answer.text.strip() else GREY
    return [*head, _text(words(answer), width, size, color, above=12, most=most), *foot]


def title(side: str, part: CardSide) -> str:
    """A side's name and quantization."""
    answer = part.answer
    name = part.name or answer.checkpoint or side
    return name if answer.quantization in ("", "none") or part.anonymous else f"{name} · {answer.quantization}"


def words(answer: Answer) -> str:
    """What a side said, or why it failed; without the bars around the phrases of a grounded caption."""
    return answer.error or answer.text.replace("||", "").strip() or "(no text)"


def facts(part: CardSide) -> list[str]:
    """How the answer ended, where that is not by itself, and its times."""
    answer, timings = part.answer, part.answer.timings
    stop = STOPS.get(answer.stop_reason, "")
    if part.anonymous:
        return [stop] if answer.stop_reason in CUT_SHORT else []
    if not answer.text and not answer.tokens:  # nothing was kept of nothing
        stop = stop.replace("; partial answer kept", "")
    sentences = [stop] if stop else []
    if (
        answer.parse == "unparseable"
        and part.verdict is None
        and not answer.error
        and answer.stop_reason != "cancelled"
    ):
        sentences.append("Nothing could be read out of this text.")
    if answer.error or not timings.ttft_ms:
        return sentences
    parts = [f"first token {milliseconds(timings.ttft_ms)}"]
    if timings.token_ms:
        parts.append(f"then {milliseconds(timings.token_percentile(50))} a token (median)")
    count = len(answer.tokens)
    parts.append(f"{count} token{'s' * (count != 1)}")
    return [*sentences, " · ".join(parts)]


def drawn_picture(
    picture: Image.Image, request: Request, sides: Mapping[str, CardSide], truth: Sequence[Box], most: tuple[int, int]
) -> Image.Image:
    """The picture at the size at which it is shown, with the boxes of the question, the truth and the answers."""
    scale = min(most[0] / picture.width, most[1] / picture.height, _MAX_ENLARGED)
    size = max(1, round(scale * picture.width)), max(1, round(scale * picture.height))
    marks = [*request_marks(request), *(Mark(box, "", "truth") for box in truth)]
    for side, part in sides.items():
        role: Role = "right" if side == "right" else "left"
        marks += answer_marks(part.answer, role)
    return annotate(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS), marks)


def _picture_note(request: Request, sides: Mapping[str, CardSide], truth: Sequence[Box]) -> list[_Text]:
    """What the dashes mean, and how far the sides agree."""
    notes = ["Dashed: the truth." if len(truth) == 1 else "Dashed: the true boxes."] if truth else []
    first = [part.answer.boxes[0] for part in sides.values() if part.answer.boxes]
    if request.task == "grounding" and len(first) == 2:
        notes.append(f"The two boxes overlap with an IoU of {first[0].iou(first[1]):.2f}.")
    return [_text(" ".join(notes), COLUMN, 22, GREY)] if notes else []


def _footer(sides: Mapping[str, CardSide], created: float | None) -> str:
    parts = ["vlcompare", time.strftime("%Y-%m-%d %H:%M", time.localtime(created))]
    if any(part.answer.timings.mode == "race" for part in sides.values()):
        parts.append("both ran at once: the times are contended")
    return " · ".join(parts)
