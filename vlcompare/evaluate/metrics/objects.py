"""Captions of rendered scenes against the scene's own objects: is everything that is mentioned there?

The words come from the objects of the samples themselves. A mention is a kind of object with the sizes and colours
directly before it ("a small red car"), for a sign also what it says; in a document, the key of a line ("a form with
gate and room"). A colour before a word that is not a known kind is a mention too, of nothing in the picture. A caption
is right when it mentions at least one object and every mention fits an object of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlcompare.evaluate.metrics.boxes import most_pairs

LINE = "line"  # the kind of a document's lines, whose text is "key value"
_WORD = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*")
_BARRED_BOX = re.compile(r"\[[^\]]*\]|\|")
_COLORS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "black", "white", "gray", "grey", "brown"]
_SIZES = ["small", "medium", "large", "big", "tiny"]
_COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}
_SAYING = frozenset(["says", "saying", "reads", "reading", "say", "read"])
_LINKS = frozenset(["that", "which", "with", "the", "word", "text", "number", "and", "a", "an"])


@dataclass(frozen=True, slots=True)
class Mention:
    kind: str
    color: str | None
    size: str | None
    text: str | None

    def fits(self, thing: Mapping[str, Any]) -> bool:
        wanted = {"kind": self.kind, "color": self.color, "size": self.size}
        text = str(thing.get("text") or "").lower()
        return all(value is None or str(thing.get(key) or "").lower() == value for key, value in wanted.items()) and (
            self.text is None or self.text == text or (self.kind == LINE and self.text == _key(thing))
        )


@dataclass(frozen=True, slots=True)
class Words:
    """The kinds, colours and sizes that objects have."""

    kinds: frozenset[str]
    colors: frozenset[str]
    sizes: frozenset[str]
    line_keys: frozenset[str] = frozenset()

    @classmethod
    def of(cls, scenes: Iterable[Sequence[Mapping[str, Any]]]) -> Words:
        things = [thing for scene in scenes for thing in scene]
        seen = {
            key: {str(thing.get(key) or "").lower() for thing in things} - {""} for key in ("kind", "color", "size")
        }
        return cls(
            frozenset(seen["kind"]),
            frozenset(seen["color"]) | set(_COLORS),
            frozenset(seen["size"]) | set(_SIZES),
            frozenset(_key(thing) for thing in things if thing.get("kind") == LINE) - {""},
        )


def _key(thing: Mapping[str, Any]) -> str:
    """The first word of a thing's text: "gate" of the line "gate 2"."""
    return next(iter(str(thing.get("text") or "").lower().split()), "")


def mentions(caption: str, words: Words) -> list[Mention]:
    """What a caption says there is, in order."""
    tokens = _WORD.findall(_BARRED_BOX.sub(" ", caption.lower()))
    mentioned: list[Mention] = []
    color = size = None
    count = 1
    i = 0
    while i < len(tokens):
        token = tokens[i]
        kind, length = _kind_at(tokens, i, words.kinds)
        if kind is None and token in words.colors:
            color = token
        elif kind is None and token in words.sizes:
            size = token
        elif kind is None and token in _COUNTS:
            count = _COUNTS[token]
        else:
            text, end = _said(tokens, i + length)
            if kind is None and color is None and token in words.line_keys:
                mentioned.append(Mention(LINE, None, None, token))
            elif kind is not None or color is not None:
                mentioned += [Mention(kind or token, color, size, text)] * count
                length = end - i if text else length
            color, size, count = None, None, 1
        i += length
    return mentioned


def objects_right(caption: str, objects: Sequence[Mapping[str, Any]], words: Words) -> float:
    """1 if something is mentioned and each mention can be matched with a different object, else 0."""
    mentioned = mentions(caption, words)
    return float(bool(mentioned) and _assign(mentioned, objects))


def _kind_at(tokens: Sequence[str], i: int, kinds: frozenset[str]) -> tuple[str | None, int]:
    """The kind that begins at a token, of one word or more, singular or plural; and how many tokens it takes."""
    for length in (3, 2, 1):
        phrase = " ".join(tokens[i : i + length])
        for kind in (phrase, phrase.removesuffix("s"), phrase.removesuffix("es"), re.sub("ies$", "y", phrase)):
            if kind in kinds:
                return kind, length
    return None, 1


def _said(tokens: Sequence[str], start: int) -> tuple[str | None, int]:
    """What an object "says" or "reads", from the words behind it, and where that ends."""
    i = start
    while i < len(tokens) and tokens[i] in _LINKS - {"and", "a", "an"}:
        i += 1
    if i >= len(tokens) or tokens[i] not in _SAYING:
        return None, start
    i += 1
    while i < len(tokens) and tokens[i] in _LINKS:
        i += 1
    return (tokens[i], i + 1) if i < len(tokens) else (None, start)


def _assign(mentioned: Sequence[Mention], things: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the mentions can be matched with different objects."""
    if len(mentioned) > len(things):
        return False
    fitting = [[i for i, thing in enumerate(things) if mention.fits(thing)] for mention in mentioned]
    return most_pairs(fitting) == len(mentioned)
