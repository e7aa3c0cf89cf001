"""The words for what is in a scene: noun phrases, numbers, lists, and the closed vocabulary of all sentences.

Which phrase points at only one thing is in `referring`.
All phrases are lower-case except what a sign says; answers are lower-case and without a full stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from vlcompare.synth.scenes.documents import DOCUMENTS, KEYS, Document
from vlcompare.synth.scenes.scene import SIGN_WORDS, SceneObject
from vlcompare.synth.scenes.shapes import COLORS, KINDS, SIGN, SIZES
from vlcompare.tasks.boxes import format_box
from vlcompare.units import listed

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
SUPERLATIVES = {"left": "leftmost", "right": "rightmost", "top": "highest", "bottom": "lowest"}
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
CORNERS = ("top left", "top right", "bottom left", "bottom right")
THING = "thing"
ALL_KEYS: tuple[str, ...] = tuple(key for keys in KEYS.values() for key in keys)
_PLURALS = {"fish": "fish", "butterfly": "butterflies"}
_GRAMMAR = """
    a an the of is are there and with that says say what which how many color size kind this does exactly more than
    left right above below closest to from leftmost rightmost highest lowest largest smallest larger smaller
    top bottom where in picture thing things yes no true false line lines value word document on has shows box
"""


def plural(kind: str) -> str:
    return _PLURALS.get(kind, kind + "s")


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def noun(kind: str, color: str | None = None, size: str | None = None) -> str:
    """`small red car`, with what is given."""
    return " ".join(word for word in (size, color, kind) if word)


def described(thing: SceneObject) -> str:
    """A thing by all that is true of it: `a small red car`, `a blue sign that says open`."""
    if thing.text is not None:
        return f"{article(noun(thing.kind, thing.color))} that says {thing.text.lower()}"
    return article(noun(thing.kind, thing.color, thing.size))


def group_phrase(group: Sequence[SceneObject]) -> str:
    """Things alike in kind and colour: `a red car`, `two blue stars`, `a red sign that says open`."""
    first = group[0]
    if len(group) > 1:
        return f"{NUMBER_WORDS[len(group)]} {first.color} {plural(first.kind)}"
    return described(first) if first.text is not None else article(noun(first.kind, first.color))


def caption(things: Iterable[SceneObject], most: int = 4) -> str:
    """The things in the order given, those alike in kind and colour counted together; `most` groups are named."""
    groups: dict[tuple[str, str, str | None], list[SceneObject]] = {}
    for thing in things:
        groups.setdefault((thing.kind, thing.color, thing.text), []).append(thing)
    return listed([group_phrase(group) for group in list(groups.values())[:most]])


def document_caption(document: Document) -> str:
    return f"a {document.kind} with {listed([line.key for line in document.lines])}"


def in_bars(phrases: Sequence[str], boxes: Sequence[Sequence[float]]) -> str:
    """Phrases with their boxes in the bar form: `||a red car [0.10,0.60,0.35,0.87]|| and ||...||.`"""
    marked = [f"||{phrase} {format_box(box)}||" for phrase, box in zip(phrases, boxes, strict=True)]  # type: ignore[arg-type]
    return listed(marked) + "."


def words_of(text: str) -> list[str]:
    """The words and numbers of a sentence, lower-case, without boxes and punctuation."""
    return re.findall(r"[a-z]+|\d+", re.sub(r"\[[^\]]*\]", " ", text.lower()))


def _vocabulary() -> tuple[str, ...]:
    things = (*KINDS, SIGN)
    words = [*things, *map(plural, things), *COLORS, *SIZES, *(word.lower() for word in SIGN_WORDS)]
    words += [*DOCUMENTS, *ALL_KEYS, *NUMBER_WORDS, *ORDINALS, *SUPERLATIVES.values(), *_GRAMMAR.split()]
    return tuple(sorted(set(words)))


# Every word that questions, statements, captions and answers can contain, lower-case; beside them stand numbers of up
# to three digits, option letters, boxes and punctuation. What a sign says is upper-case in expressions ("says OPEN").
VOCABULARY: tuple[str, ...] = _vocabulary()


def unknown_words(text: str) -> list[str]:
    """The words of a text, as they stand there, that no sentence on a scene contains: a model trained on scenes alone
    has never read them. Upper and lower case are alike; letters on their own and numbers are left out."""
    words = dict.fromkeys(re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text))
    return [word for word in words if len(word) > 1 and word.lower() not in VOCABULARY]
