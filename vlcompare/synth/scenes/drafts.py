"""What the question makers share: the facts of a scene, a question without its bookkeeping, and shuffled choices."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vlcompare.synth.scenes import referring
from vlcompare.synth.scenes.dice import Dice
from vlcompare.synth.scenes.documents import Document
from vlcompare.synth.scenes.referring import Reference
from vlcompare.synth.scenes.scene import SceneObject
from vlcompare.types import Box


@dataclass(frozen=True, slots=True)
class Draft:
    """A question and its answer, before it has an id."""

    type: str  # of question, for the tags
    references: tuple[str, ...]
    text: str = ""
    choices: tuple[Any, ...] | None = None
    boxes: tuple[Box, ...] = ()
    target: SceneObject | Box | None = None  # what it is about, if it is about one thing
    tags: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """A scene's things (or its document) and, computed once when asked for, all phrases that point at one of them."""

    things: tuple[SceneObject, ...]
    document: Document | None

    @cached_property
    def references(self) -> dict[str, list[Reference]]:
        return referring.all_references(self.things)

    @cached_property
    def classes(self) -> list[tuple[str, int]]:
        return referring.class_phrases(self.things)

    def pick(self, dice: Dice, families: Sequence[str], hiding: str = "", naming: str = "") -> Reference | None:
        """One phrase of one of the families, chosen evenly among families and then among the things it can mean.

        `hiding` is what the phrase must not say of its target, `naming` what it must.
        """
        for family in dice.some(tuple(families), len(families)):
            found: dict[int, list[Reference]] = {}
            for reference in self.references.get(family, ()):
                if hiding not in reference.says and (not naming or naming in reference.says):
                    found.setdefault(reference.target, []).append(reference)
            if found:
                return dice.one(found[dice.one(tuple(found))])
        return None


def reference_tags(reference: Reference) -> dict[str, Any]:
    return {
        "family": reference.family,
        "relation": reference.relation,
        "distractors": reference.distractors,
    }


def with_choices(dice: Dice, right: Any, wrong: Sequence[Any]) -> tuple[tuple[Any, ...], str]:
    """The right choice among the wrong ones at a random place, and the letter of its place."""
    choices, place = list(wrong), dice.below(len(wrong) + 1)
    choices.insert(place, right)
    return tuple(choices), string.ascii_uppercase[place]
