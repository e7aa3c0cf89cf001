"""Referring phrases: each applies to exactly one thing of a scene, both literally and in ordinary reading.

Six families: attribute, relation, closest, ordinal, superlative, text. Geometric phrases keep a margin, so that no
borderline case is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlcompare.synth.scenes.phrases import ORDINALS, RELATIONS, SUPERLATIVES, THING, noun, plural
from vlcompare.synth.scenes.scene import SceneObject
from vlcompare.synth.scenes.shapes import SIGN, SIZES
from vlcompare.types import Box

CLEAR = 0.12  # least distance of centres along a relation's direction, as a share of the picture
WRONG_SIDE = 0.04  # others lie at least this far on the opposite side
STEEP = 0.5  # and, past the edge, along the direction at least this share of the distance across it
STEP = 0.07  # least distance of neighbours in an ordinal's order
CLOSER = 1.4  # the second closest is at least this much farther away

Things = Sequence[SceneObject]
Class = tuple[str | None, str | None, str]  # size, colour, kind (or THING)


@dataclass(frozen=True, slots=True)
class Reference:
    """A phrase and the one thing that it refers to."""

    text: str
    target: int  # index of the thing
    family: str
    says: frozenset[str]  # attributes of the target that the phrase names: "kind", "color", "size", "text"
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
    by_class: dict[Class, list[int]] = {}
    for thing in things:
        kinds = (thing.kind, THING) if any_kind else (thing.kind,)
        sizes = (None, thing.size) if sized and thing.kind != SIGN else (None,)
        for kind in kinds:
            for size in sizes:
                for color in (None, thing.color):
                    wanted = (size, color, kind)
                    if wanted not in by_class and (kind != THING or color):
                        by_class[wanted] = members(things, wanted)
    return by_class


def says(wanted: Class) -> frozenset[str]:
    size, color, kind = wanted
    given = {"size": size, "color": color, "kind": kind if kind != THING else None}
    return frozenset(name for name, value in given.items() if value)


def phrase(wanted: Class) -> str:
    size, color, kind = wanted
    return noun(kind, color, size)


def related(box: Box, relation: str, anchor: Box) -> bool:
    """Whether `box` clearly is in the relation to `anchor`: mostly in that direction, or wholly past its edge."""
    x, y = RELATIONS[relation]
    dx, dy = box.center[0] - anchor.center[0], box.center[1] - anchor.center[1]
    along, across = (dx * x + dy * y), abs(dx * y) + abs(dy * x)
    half = (anchor.x1 - anchor.x0) / 2 if x else (anchor.y1 - anchor.y0) / 2
    return along >= CLEAR and (along >= across or (along >= half and along >= STEEP * across))


def opposed(box: Box, relation: str, anchor: Box) -> bool:
    """Whether `box` clearly is not in the relation to `anchor`."""
    x, y = RELATIONS[relation]
    dx, dy = box.center[0] - anchor.center[0], box.center[1] - anchor.center[1]
    return dx * x + dy * y <= -WRONG_SIDE


def attribute(things: Things) -> list[Reference]:
    """`the red cup`, `the small cup`, `the pink thing`."""
    by_class = classes(things, sized=True, any_kind=True)
    return [
        Reference(f"the {phrase(wanted)}", indices[0], "attribute", says(wanted), len(_alike(things, indices[0])))
        for wanted, indices in by_class.items()
        if len(indices) == 1
    ]


def _alike(things: Things, target: int) -> list[int]:
    return [index for index in members(things, (None, None, things[target].kind)) if index != target]


def anchors(things: Things) -> list[tuple[str, int]]:
    """Every thing whose kind, or colour and kind, is unique, with the shorter of the two phrases."""
    phrases: dict[int, str] = {}
    for wanted, indices in sorted(classes(things).items(), key=lambda item: item[0][1] is not None):
        if len(indices) == 1:
            phrases.setdefault(indices[0], f"the {phrase(wanted)}")
    return [(text, index) for index, text in phrases.items()]


def relation(things: Things, *, any_kind: bool = False) -> list[Reference]:
    """`the cup left of the tree`: the only one of its class on that side; the others are clearly opposite."""
    references = []
    groups = classes(things)
    if any_kind:
        groups = {(None, None, THING): list(range(len(things)))}
    for anchor_text, anchor in anchors(things):
        for wanted, indices in groups.items():
            others = [index for index in indices if index != anchor]
            if len(others) < 2 and not any_kind:
                continue
            for name in RELATIONS:
                candidates = [index for index in others if not opposed(things[index].box, name, things[anchor].box)]
                if len(candidates) == 1 and related(things[candidates[0]].box, name, things[anchor].box):
                    text = f"the {phrase(wanted)} {name} {anchor_text}"
                    named = says(wanted)
                    references.append(Reference(text, candidates[0], "relation", named, len(others) - 1, name, anchor))
    return references


def closest(things: Things) -> list[Reference]:
    """`the cup closest to the tree`, where the second closest is much farther away."""
    references = []
    for anchor_text, anchor in anchors(things):
        x, y = things[anchor].box.center
        for wanted, indices in classes(things).items():
            others = [index for index in indices if index != anchor]
            if len(others) < 2:
                continue
            boxes = {index: things[index].box for index in others}
            by_distance = sorted((math.dist(box.center, (x, y)), index) for index, box in boxes.items())
            gaps = [_gap(boxes[index], things[anchor].box) for _, index in by_distance]
            if by_distance[1][0] >= CLOSER * by_distance[0][0] and gaps[0] == min(gaps):
                text = f"the {phrase(wanted)} closest to {anchor_text}"
                references.append(
                    Reference(text, by_distance[0][1], "closest", says(wanted), len(others) - 1, "closest to", anchor)
                )
    return references


def _gap(a: Box, b: Box) -> float:
    """Distance between the nearest points of two boxes."""
    return math.hypot(max(0.0, a.x0 - b.x1, b.x0 - a.x1), max(0.0, a.y0 - b.y1, b.y0 - a.y1))


def _ordered(things: Things, indices: list[int], side: str) -> list[int] | None:
    """Indices in order from a side, or None where two neighbours are closer than STEP."""
    axis, sign = (0 if side in ("left", "right") else 1), (1 if side in ("left", "top") else -1)
    order = sorted(indices, key=lambda index: sign * things[index].box.center[axis])
    centres = [things[index].box.center[axis] for index in order]
    clear = all(abs(b - a) >= STEP for a, b in zip(centres, centres[1:], strict=False))
    return order if clear else None


def ordinal(things: Things) -> list[Reference]:
    """`the second cup from the left`."""
    references = []
    for wanted, indices in classes(things).items():
        for side in SUPERLATIVES if len(indices) > 1 else ():
            for rank, index in enumerate(_ordered(things, indices, side) or ()):
                text = f"the {ORDINALS[rank]} {phrase(wanted)} from the {side}"
                references.append(Reference(text, index, "ordinal", says(wanted), len(indices) - 1, f"from the {side}"))
    return references


def superlative(things: Things) -> list[Reference]:
    """`the leftmost cup`, `the largest cup` (the only cup of its size class)."""
    references = []
    order = list(SIZES)
    for wanted, indices in classes(things).items():
        if len(indices) < 2:
            continue
        named, others = says(wanted), len(indices) - 1
        for side, word in SUPERLATIVES.items():
            ranked = _ordered(things, indices, side)
            if ranked:
                references.append(
                    Reference(f"the {word} {phrase(wanted)}", ranked[0], "superlative", named, others, word)
                )
        by_size = sorted(indices, key=lambda index: order.index(things[index].size))
        for word, first, second in (("smallest", 0, 1), ("largest", -1, -2)):
            if things[by_size[first]].size != things[by_size[second]].size:
                text = f"the {word} {phrase(wanted)}"
                with_size = named | {"size"}
                references.append(Reference(text, by_size[first], "superlative", with_size, others, word))
    return references


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


PHRASE_FAMILIES: dict[str, Callable[[Things], list[Reference]]] = {
    "attribute": attribute,
    "relation": relation,
    "closest": closest,
    "ordinal": ordinal,
    "superlative": superlative,
    "text": text,
}


def all_references(things: Things) -> dict[str, list[Reference]]:
    """Every phrase of every family; families that have none are left out."""
    by_family = {family: make(things) for family, make in PHRASE_FAMILIES.items()}
    return {family: references for family, references in by_family.items() if references}


def class_phrases(things: Things) -> list[tuple[str, int]]:
    """Classes to count, in the plural, and how many there are: `cups`, `red cups`, `red things`."""
    rows = []
    for wanted, indices in classes(things, any_kind=True).items():
        size, color, kind = wanted
        rows.append((noun(plural(kind), color, size), len(indices)))
    return rows
