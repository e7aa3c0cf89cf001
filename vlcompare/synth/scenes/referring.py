"""Phrases that point at exactly one thing of a scene, literally and for a reasonable reader.

Six families: attribute, relation, closest, ordinal, superlative, text. Whatever depends on geometry keeps a margin: a
phrase is only used where nobody would hesitate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlcompare.synth.scenes.phrases import ORDINALS, RELATIONS, SIDES, THING, noun, plural
from vlcompare.synth.scenes.scene import SceneObject
from vlcompare.synth.scenes.shapes import SIGN, SIZES
from vlcompare.types import Box

CLEAR = 0.12  # least distance of centres along a relation's direction, as a share of the picture
WRONG_SIDE = 0.04  # others lie at least this far on the other side
STEEP = 0.5  # and, past the edge, along the direction at least this share of the distance across it
STEP = 0.07  # least distance of neighbours in an ordinal's order
CLOSER = 1.4  # the second closest is at least this much farther away

Things = Sequence[SceneObject]
Class = tuple[str | None, str | None, str]  # size, colour, kind (or THING)


@dataclass(frozen=True, slots=True)
class Reference:
    """A phrase and the one thing it points at."""

    text: str
    target: int  # index of the thing
    family: str
    says: frozenset[str]  # what the phrase gives away of the target: "kind", "color", "size", "text"
    distractors: int  # how many others are of the class that the phrase names
    relation: str | None = None
    anchor: int | None = None  # the thing that the phrase relates to


def members(things: Things, wanted: Class) -> list[int]:
    """The things of a class."""
    size, color, kind = wanted
    return [
        index
        for index, thing in enumerate(things)
        if (size is None or thing.size == size)
        and (color is None or thing.color == color)
        and (kind == THING or thing.kind == kind)
    ]


def classes(things: Things, *, sized: bool = False, any_kind: bool = False) -> dict[Class, list[int]]:
    """The classes that occur, with their members: by kind, by colour and kind; on demand by size, or of any kind."""
    found: dict[Class, list[int]] = {}
    for thing in things:
        kinds = (thing.kind, THING) if any_kind else (thing.kind,)
        sizes = (None, thing.size) if sized and thing.kind != SIGN else (None,)
        for kind in kinds:
            for size in sizes:
                for color in (None, thing.color):
                    wanted = (size, color, kind)
                    if wanted not in found and (kind != THING or color):
                        found[wanted] = members(things, wanted)
    return found


def says(wanted: Class) -> frozenset[str]:
    size, color, kind = wanted
    given = {"size": size, "color": color, "kind": kind if kind != THING else None}
    return frozenset(name for name, value in given.items() if value)


def phrase(wanted: Class) -> str:
    size, color, kind = wanted
    return noun(kind, color, size)


def related(box: Box, relation: str, anchor: Box) -> bool:
    """Whether `box` clearly stands in the relation to `anchor`: mostly in that direction, or wholly past its edge."""
    x, y = RELATIONS[relation]
    dx, dy = box.center[0] - anchor.center[0], box.center[1] - anchor.center[1]
    along, across = (dx * x + dy * y), abs(dx * y) + abs(dy * x)
    half = (anchor.x1 - anchor.x0) / 2 if x else (anchor.y1 - anchor.y0) / 2
    return along >= CLEAR and (along >= across or (along >= half and along >= STEEP * across))


def opposed(box: Box, relation: str, anchor: Box) -> bool:
    """Whether nobody would say that `box` stands in the relation to `anchor`."""
    x, y = RELATIONS[relation]
    dx, dy = box.center[0] - anchor.center[0], box.center[1] - anchor.center[1]
    return dx * x + dy * y <= -WRONG_SIDE


def attribute(things: Things) -> list[Reference]:
    """`the red cup`, `the small cup`, `the pink thing`."""
    found = classes(things, sized=True, any_kind=True)
    return [
        Reference(f"the {phrase(wanted)}", inside[0], "attribute", says(wanted), len(_alike(things, inside[0])))
        for wanted, inside in found.items()
        if len(inside) == 1
    ]


def _alike(things: Things, target: int) -> list[int]:
    return [index for index in members(things, (None, None, things[target].kind)) if index != target]


def anchors(things: Things) -> list[tuple[str, int]]:
    """Every thing that its kind, or its colour and kind, tells from all others, by the shorter of the two phrases."""
    found: dict[int, str] = {}
    for wanted, inside in sorted(classes(things).items(), key=lambda item: item[0][1] is not None):
        if len(inside) == 1:
            found.setdefault(inside[0], f"the {phrase(wanted)}")
    return [(text, index) for index, text in found.items()]


def relation(things: Things, *, any_kind: bool = False) -> list[Reference]:
    """`the cup left of the tree`: the only one of its class on that side, the others clearly on the other."""
    found = []
    groups = classes(things)
    if any_kind:
        groups = {(None, None, THING): list(range(len(things)))}
    for anchor_text, anchor in anchors(things):
        for wanted, inside in groups.items():
            others = [index for index in inside if index != anchor]
            if len(others) < 2 and not any_kind:
                continue
            for name in RELATIONS:
                here = [index for index in others if not opposed(things[index].box, name, things[anchor].box)]
                if len(here) == 1 and related(things[here[0]].box, name, things[anchor].box):
                    text = f"the {phrase(wanted)} {name} {anchor_text}"
                    given = says(wanted)
                    found.append(Reference(text, here[0], "relation", given, len(others) - 1, name, anchor))
    return found


def closest(things: Things) -> list[Reference]:
    """`the cup closest to the tree`, the next one being much farther away."""
    found = []
    for anchor_text, anchor in anchors(things):
        x, y = things[anchor].box.center
        for wanted, inside in classes(things).items():
            others = [index for index in inside if index != anchor]
            if len(others) < 2:
                continue
            boxes = {index: things[index].box for index in others}
            far = sorted((math.dist(box.center, (x, y)), index) for index, box in boxes.items())
            gaps = [_gap(boxes[index], things[anchor].box) for _, index in far]
            if far[1][0] >= CLOSER * far[0][0] and gaps[0] == min(gaps):
                text = f"the {phrase(wanted)} closest to {anchor_text}"
                found.append(Reference(text, far[0][1], "closest", says(wanted), len(others) - 1, "closest to", anchor))
    return found


def _gap(a: Box, b: Box) -> float:
    """Distance between the nearest points of two boxes."""
    return math.hypot(max(0.0, a.x0 - b.x1, b.x0 - a.x1), max(0.0, a.y0 - b.y1, b.y0 - a.y1))


def _ordered(things: Things, inside: list[int], side: str) -> list[int] | None:
    """The things from a side on, or None where two of them are too close to call."""
    axis, sign = (0 if side in ("left", "right") else 1), (1 if side in ("left", "top") else -1)
    order = sorted(inside, key=lambda index: sign * things[index].box.center[axis])
    places = [things[index].box.center[axis] for index in order]
    clear = all(abs(b - a) >= STEP for a, b in zip(places, places[1:], strict=False))
    return order if clear else None


def ordinal(things: Things) -> list[Reference]:
    """`the second cup from the left`."""
    found = []
    for wanted, inside in classes(things).items():
        for side in SIDES if len(inside) > 1 else ():
            for place, index in enumerate(_ordered(things, inside, side) or ()):
                text = f"the {ORDINALS[place]} {phrase(wanted)} from the {side}"
                found.append(Reference(text, index, "ordinal", says(wanted), len(inside) - 1, f"from the {side}"))
    return found


def superlative(things: Things) -> list[Reference]:
    """`the leftmost cup`, `the largest cup` (a size class of its own among the cups)."""
    found = []
    order = list(SIZES)
    for wanted, inside in classes(things).items():
        if len(inside) < 2:
            continue
        given, others = says(wanted), len(inside) - 1
        for side, word in SIDES.items():
            ranked = _ordered(things, inside, side)
            if ranked:
                found.append(Reference(f"the {word} {phrase(wanted)}", ranked[0], "superlative", given, others, word))
        by_size = sorted(inside, key=lambda index: order.index(things[index].size))
        for word, first, second in (("smallest", 0, 1), ("largest", -1, -2)):
            if things[by_size[first]].size != things[by_size[second]].size:
                text = f"the {word} {phrase(wanted)}"
                known = given | {"size"}
                found.append(Reference(text, by_size[first], "superlative", known, others, word))
    return found


def text(things: Things) -> list[Reference]:
    """`the sign that says OPEN`."""
    signs = [index for index, thing in enumerate(things) if thing.text is not None]
    return [
        Reference(
            f"the sign that says {things[index].text}", index, "text", frozenset({"kind", "text"}), len(signs) - 1
        )
        for index in signs
        if [things[other].text for other in signs].count(things[index].text) == 1
    ]


FAMILIES: dict[str, Callable[[Things], list[Reference]]] = {
    "attribute": attribute,
    "relation": relation,
    "closest": closest,
    "ordinal": ordinal,
    "superlative": superlative,
    "text": text,
}


def all_references(things: Things) -> dict[str, list[Reference]]:
    """Every phrase of every family; families that have none are left out."""
    found = {family: make(things) for family, make in FAMILIES.items()}
    return {family: references for family, references in found.items() if references}


def class_phrases(things: Things) -> list[tuple[str, int]]:
    """Classes to count, in the plural, and how many there are: `cups`, `red cups`, `red things`."""
    rows = []
    for wanted, inside in classes(things, any_kind=True).items():
        size, color, kind = wanted
        rows.append((noun(plural(kind), color, size), len(inside)))
    return rows
