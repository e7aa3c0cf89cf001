"""An independent reader of the scenes' phrases and statements, for the tests: text and objects in, truth out.

Shares no code with the generator: it reads the words by patterns and looks at the rows' plain objects. It is stricter
where geometry decides: what is too close to call has no answer, so that a phrase that rests on it fails.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

COLORS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "black"]
SIZES = ["small", "medium", "large"]
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh"]
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven"]
UNSURE = 0.03  # distances below this share of the picture decide nothing
EXTREMES = {"leftmost": "left", "rightmost": "right", "highest": "top", "lowest": "bottom"}
KINDS = [
    "house",
    "tree",
    "car",
    "boat",
    "cup",
    "fish",
    "star",
    "flower",
    "heart",
    "umbrella",
    "butterfly",
    "rocket",
    "sign",
]
PLURALS = {kind: {"fish": "fish", "butterfly": "butterflies"}.get(kind, kind + "s") for kind in [*KINDS, "thing"]}
SINGULARS = {plural: kind for kind, plural in PLURALS.items()}

Thing = dict[str, Any]


class Unclear(AssertionError):
    """A phrase that points at nothing, at several things, or at what is too close to call."""


def center(thing: Thing) -> tuple[float, float]:
    x0, y0, x1, y1 = thing["box"]
    return (x0 + x1) / 2, (y0 + y1) / 2


def area(thing: Thing) -> float:
    x0, y0, x1, y1 = thing["box"]
    return (x1 - x0) * (y1 - y0)


def of_class(words: str, things: Sequence[Thing]) -> list[Thing]:
    """The things that `small red cup` or `red things` means."""
    *adjectives, kind = words.split()
    kind = SINGULARS.get(kind, kind)
    assert kind in PLURALS, words
    found = [thing for thing in things if kind in ("thing", thing["kind"])]
    for word in adjectives:
        assert word in COLORS + SIZES, words
        found = [thing for thing in found if word in (thing["color"], thing["size"])]
    return found


def only(found: Sequence[Thing], phrase: str) -> Thing:
    if len(found) != 1:
        raise Unclear(f"{phrase!r} means {len(found)} things")
    return found[0]


def along(thing: Thing, anchor: Thing, relation: str) -> float:
    """How far a thing lies in a direction from another; negative on the other side."""
    (x, y), (u, v) = center(thing), center(anchor)
    return {"left of": u - x, "right of": x - u, "above": v - y, "below": y - v}[relation]


def stands(thing: Thing, anchor: Thing, relation: str) -> bool:
    distance = along(thing, anchor, relation)
    if abs(distance) < UNSURE:
        raise Unclear(f"{relation}: too close to call")
    return distance > 0


def from_side(things: Sequence[Thing], side: str) -> list[Thing]:
    axis = 0 if side in ("left", "right") else 1
    order = sorted(things, key=lambda thing: center(thing)[axis], reverse=side in ("right", "bottom"))
    for a, b in zip(order, order[1:], strict=False):
        if abs(center(a)[axis] - center(b)[axis]) < UNSURE:
            raise Unclear(f"from the {side}: too close to call")
    return order


def meant(phrase: str, things: Sequence[Thing]) -> Thing:
    """The one thing that a phrase points at."""
    if match := re.fullmatch(r"the sign that says (\w+)", phrase, re.IGNORECASE):
        return only([t for t in things if t["text"] and t["text"].lower() == match[1].lower()], phrase)
    if match := re.fullmatch(r"the (\w+) (.+) from the (left|right|top|bottom)", phrase):
        return from_side(of_class(match[2], things), match[3])[ORDINALS.index(match[1])]
    if match := re.fullmatch(r"the (.+) closest to (the .+)", phrase):
        anchor = meant(match[2], things)
        x, y = center(anchor)
        rest = [thing for thing in of_class(match[1], things) if thing is not anchor]
        far = sorted(rest, key=lambda thing: (center(thing)[0] - x) ** 2 + (center(thing)[1] - y) ** 2)
        distance = [((center(t)[0] - x) ** 2 + (center(t)[1] - y) ** 2) ** 0.5 for t in far]
        if len(far) > 1 and distance[1] < 1.3 * distance[0]:
            raise Unclear(f"{phrase!r}: too close to call")
        return far[0]
    if match := re.fullmatch(r"the (.+?) (left of|right of|above|below) (the .+)", phrase):
        anchor = meant(match[3], things)
        rest = [thing for thing in of_class(match[1], things) if thing is not anchor]
        return only([thing for thing in rest if stands(thing, anchor, match[2])], phrase)
    word, _, rest_words = phrase.removeprefix("the ").partition(" ")
    if word in EXTREMES:
        return from_side(of_class(rest_words, things), EXTREMES[word])[0]
    if word in ("largest", "smallest"):
        ranked = sorted(of_class(rest_words, things), key=lambda thing: SIZES.index(thing["size"]))
        first, second = (ranked[-1], ranked[-2]) if word == "largest" else (ranked[0], ranked[1])
        if first["size"] == second["size"]:
            raise Unclear(f"{phrase!r}: two of one size")
        return first
    return only(of_class(phrase.removeprefix("the "), things), phrase)


def answer(question: str, things: Sequence[Thing]) -> str:
    """What a vqa question's answer is."""
    for pattern, key in (
        (r"What color is (the .+)\?", "color"),
        (r"What size is (the .+)\?", "size"),
        (r"What is (the .+)\?", "kind"),
    ):
        if match := re.fullmatch(pattern, question):
            return meant(match[1], things)[key]
    if match := re.fullmatch(r"How many (.+) are (there|in the picture)\?", question):
        return str(len(of_class(match[1], things)))
    if match := re.fullmatch(r"What does (the .+) say\?", question):
        return meant(match[1], things)["text"].lower()
    if match := re.fullmatch(r"Where is (the .+)\?", question):
        x, y = center(meant(match[1], things))
        if min(abs(x - 0.5), abs(y - 0.5)) < UNSURE:
            raise Unclear(question)
        return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
    return "yes" if holds(question, things) else "no"


def holds(text: str, things: Sequence[Thing]) -> bool:
    """Whether a yes-or-no question's answer is yes, or a statement is true."""
    text = text.rstrip(".?")
    text = text[0].lower() + text[1:]
    if match := re.fullmatch(r"(?:is there|there is) an? (.+)", text):
        return bool(of_class(match[1], things))
    if match := re.fullmatch(r"there are exactly (\w+) (.+)", text):
        return len(of_class(match[2], things)) == NUMBERS.index(match[1])
    if match := re.fullmatch(r"are there more (\w+) than (\w+)", text):
        return len(of_class(match[1], things)) > len(of_class(match[2], things))
    if match := re.fullmatch(r"is (the .+) (larger|smaller) than (the .+)", text):
        ranks = [SIZES.index(meant(match[group], things)["size"]) for group in (1, 3)]
        if ranks[0] == ranks[1]:
            raise Unclear(text)
        return (ranks[0] > ranks[1]) == (match[2] == "larger")
    if match := re.fullmatch(r"is (the .+?) (left of|right of|above|below) (the .+)", text):
        return stands(meant(match[1], things), meant(match[3], things), match[2])
    if match := re.fullmatch(r"(the \w+(?: \w+)?) is (left of|right of|above|below) (the .+)", text):
        return stands(meant(match[1], things), meant(match[3], things), match[2])
    if match := re.fullmatch(r"the sign says (\w+)", text):
        return meant("the sign", things)["text"] == match[1]
    match = re.fullmatch(r"(the .+) is (\w+)", text)
    assert match, text
    assert match[2] in COLORS + SIZES, text
    return match[2] in (meant(match[1], things)["color"], meant(match[1], things)["size"])


# --- documents --------------------------------------------------------------------------------------------------------


def document_lines(objects: Sequence[Thing]) -> list[tuple[str, int, list[float]]]:
    """Keys, numbers and boxes of the lines, from the top."""
    lines = [thing for thing in objects if thing["kind"] == "line"]
    lines.sort(key=lambda thing: thing["box"][1])
    return [(thing["text"].split()[0], int(thing["text"].split()[1]), thing["box"]) for thing in lines]


def document_answer(question: str, objects: Sequence[Thing]) -> str:
    lines = document_lines(objects)
    if match := re.fullmatch(r"What is the value of (\w+)\?", question):
        return str(next(value for key, value, _ in lines if key == match[1]))
    if match := re.fullmatch(r"Which line has the (largest|smallest) value\?", question):
        return (max if match[1] == "largest" else min)(lines, key=lambda line: line[1])[0]
    if match := re.fullmatch(r"What is the (largest|smallest) value\?", question):
        return str((max if match[1] == "largest" else min)(value for _, value, _ in lines))
    if match := re.fullmatch(r"Which line has the value (\d+)\?", question):
        return next(key for key, value, _ in lines if value == int(match[1]))
    if match := re.fullmatch(r"Which word is on the (\w+) line\?", question):
        return lines[ORDINALS.index(match[1])][0]
    if question == "How many lines are there?":
        return str(len(lines))
    assert question == "What kind of document is this?", question
    return objects[0]["kind"]


def document_line(phrase: str, objects: Sequence[Thing]) -> list[float]:
    """The box of the one line that a phrase points at."""
    lines = document_lines(objects)
    if match := re.fullmatch(r"the line that says (\w+)", phrase):
        found = [line for line in lines if line[0] == match[1]]
    elif match := re.fullmatch(r"the line with the value (\d+)", phrase):
        found = [line for line in lines if line[1] == int(match[1])]
    elif match := re.fullmatch(r"the line with the (largest|smallest) value", phrase):
        wanted = (max if match[1] == "largest" else min)(value for _, value, _ in lines)
        found = [line for line in lines if line[1] == wanted]
    else:
        match = re.fullmatch(r"the (\w+) line from the top", phrase)
        assert match, phrase
        found = [lines[ORDINALS.index(match[1])]]
    assert len(found) == 1, phrase
    return found[0][2]


def document_holds(text: str, objects: Sequence[Thing]) -> bool:
    lines = document_lines(objects)
    if match := re.fullmatch(r"The value of (\w+) is (\d+)\.", text):
        return (match[1], int(match[2])) in [(key, value) for key, value, _ in lines]
    if match := re.fullmatch(r"(\w+) is on the (\w+) line\.", text):
        return lines[ORDINALS.index(match[2])][0] == match[1].lower()
    match = re.fullmatch(r"The document is a (\w+)\.", text)
    assert match, text
    return objects[0]["kind"] == match[1]
