"""The picture with boxes on it: one side's answer, or both sides and the truth on one picture, and their IoU.

Boxes are drawn as elements over the picture, in shares of its width and height, so they stay sharp at every size and
are linked with the phrases that name them.
"""

from __future__ import annotations

import math

from vlcompare.render.markup import Safe, el
from vlcompare.tasks.prompts import SPECS
from vlcompare.types import Alternative, Answer, Box, Token
from vlcompare.ui import webp
from vlcompare.ui.compare import display_limits as shown
from vlcompare.ui.compare.session import Picture, Run

PALETTE = 6  # colours for numbered boxes, in the style sheet: none is like a side's
BADGES = {"left": "L", "right": "R"}


def stage(picture: Picture, *boxes: Safe, label: str) -> Safe:
    """The picture at its own proportions, with elements over it."""
    return el(
        "div",
        el("img", src=webp.data_uri(picture.shown), alt=label, draggable="false"),
        *boxes,
        class_="vl-stage",
        style=f"aspect-ratio:{picture.width}/{picture.height};--ratio:{picture.width / picture.height:.4f}",
    )


def box_mark(box: Box, badge: str, class_: str, *, title: str = "", **data: str) -> Safe:
    """One rectangle with its badge. An empty or inverted box is drawn as a point where it starts."""
    box = box.clip()
    width, height = max(0.0, box.x1 - box.x0), max(0.0, box.y1 - box.y0)
    style = f"left:{100 * box.x0:.2f}%;top:{100 * box.y0:.2f}%;width:{100 * width:.2f}%;height:{100 * height:.2f}%"
    place = (" vl-badge-in" if box.y0 < 0.08 else "") + (" vl-badge-low" if box.y1 > 0.92 else "")
    inside = el("span", badge, class_="vl-badge" + place) if badge else None
    return el("div", inside, class_=f"vl-box {class_}", style=style, title=title or None, **data)


def side_picture(run: Run, side: str, name: str) -> Safe:
    """One side's boxes, numbered as in its text, and the alternatives that its tokens held. name: of the model."""
    answer = run.answer(side)
    marks = _given(run)
    if answer is not None:
        for index, box in enumerate(answer.boxes[: shown.BOXES]):
            phrase = answer.phrases[index] if index < len(answer.phrases) else ""
            data = {"data_box": str(index)}
            if len(answer.boxes) > 1:  # one box alone has its side's colour
                data["data_colour"] = str(index % PALETTE)
            badge = answer.text.strip()[:1] if SPECS[run.request.task].reads == "letter" else str(index + 1)
            marks.append(box_mark(box, badge, "vl-answer-box", title=phrase, **data))
        marks.extend(_alternative(box, index, share) for index, box, share in alternative_boxes(answer))
    return el(
        "figure",
        el("figcaption", el("i", class_="vl-key"), name),
        stage(run.picture, *marks, label="The picture with this side's boxes"),
        class_="vl-figure",
        data_side=side,
    )


def overlay(run: Run) -> Safe:
    """Both sides and the truth on one picture; before a blind vote the sides alone."""
    marks = _given(run)
    truth = () if run.hidden else run.truth[: shown.BOXES]
    marks.extend(box_mark(box, "truth", "vl-truth", title="ground truth") for box in truth)
    for side in run.sides:
        answer = run.answer(side)
        for index, box in enumerate(answer.boxes[: shown.BOXES] if answer else ()):
            several = len(answer.boxes) > 1 if answer else False
            badge = f"{BADGES[side]}{index + 1}" if several else BADGES[side]
            marks.append(box_mark(box, badge, "vl-side-box", data_side=side, data_box=str(index)))
    label = "The picture with both sides' boxes" + (" and the ground truth" if truth else "")
    return stage(run.picture, *marks, label=label)


def size_line(picture: Picture, answer: Answer | None) -> str:
    """What the coordinates mean: the original's size, the size that the model saw, the box convention."""
    copy = " (a smaller copy is asked about)" if picture.reduced else ""
    seen = f" · model input {answer.image_size}×{answer.image_size}, squeezed" if answer and answer.image_size else ""
    return f"Original {picture.width}×{picture.height}{copy}{seen} · boxes x0,y0,x1,y1 as shares of width and height"


def alternative_boxes(answer: Answer) -> list[tuple[int, Box, float]]:
    """Boxes that the answer would hold with one token taken otherwise: (token, box, probability of that token).

    Each alternative replaces the text of one token and leaves the rest; it is kept if that gives another readable box.
    """
    from vlcompare.tasks.boxes import find_boxes

    if not answer.boxes:
        return []
    tokens = answer.tokens[: shown.TOKENS]
    pieces = [token.text for token in tokens]
    whole = "".join(pieces)
    found, out, start = find_boxes(whole)[: shown.BOXES], [], 0
    for index, token in enumerate(tokens):
        stop = start + len(token.text)
        inside = [f for f in found if f.start < stop and start < f.stop]
        for other in token.top[: shown.ALTERNATIVES] if inside else ():
            box = _replaced(whole, start, stop, inside[0].start, inside[0].stop, other, token)
            if box is not None and box != inside[0].box and box.area:
                out.append((index, box, math.exp(min(0.0, other.logprob))))
        start = stop
    return out


def _replaced(
    whole: str, start: int, stop: int, box_start: int, box_stop: int, other: Alternative, token: Token
) -> Box | None:
    from vlcompare.tasks.boxes import parse_boxes

    if other.id == token.id:
        return None
    group = whole[min(box_start, start) : start] + other.text + whole[stop : max(box_stop, stop)]
    boxes = parse_boxes(group)
    return boxes[0] if len(boxes) == 1 else None


def _alternative(box: Box, index: int, probability: float) -> Safe:
    share = f"{100 * probability:.1f} %"
    return box_mark(
        box, "", f"vl-alt vl-alt-{_level(probability)}", title=f"{share} of token {index + 1}", data_token=str(index)
    )


def _level(probability: float) -> str:
    return "high" if probability >= 0.2 else "mid" if probability >= 0.05 else "low"


def _given(run: Run) -> list[Safe]:
    """Boxes that belong to the question: the region asked about, the boxes to choose from."""
    marks: list[Safe] = []
    if run.request.box is not None:
        marks.append(box_mark(run.request.box, "region", "vl-given", title="the region asked about"))
    if run.request.task == "pointing":
        for index, choice in enumerate((run.request.choices or ())[:26]):
            marks.append(box_mark(Box(*choice), chr(65 + index), "vl-given", title=f"choice {chr(65 + index)}"))
    return marks
