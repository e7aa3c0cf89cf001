"""Statements that match a picture or do not: of every two rows one is true, one is false by a single changed word.

Which of the two comes first is a matter of chance, and the changed word is another of its own sort (a colour for a
colour), so that the words alone do not tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlcompare.synth.scenes.dice import Dice
from vlcompare.synth.scenes.documents import DOCUMENTS
from vlcompare.synth.scenes.drafts import Draft, Facts
from vlcompare.synth.scenes.phrases import NUMBER_WORDS, OPPOSITE, ORDINALS, article, noun, plural
from vlcompare.synth.scenes.referring import members
from vlcompare.synth.scenes.scene import SIGN_NUMBERS, SIGN_WORDS, SceneObject
from vlcompare.synth.scenes.shapes import COLORS, KINDS, SIGN
from vlcompare.types import Box

# large things are fewer; chosen like this, every size is named as often in false statements as in true ones
_OTHER_SIZES = {
    "small": ("medium", "medium", "large"),
    "medium": ("small", "small", "small", "large"),
    "large": ("small", "small", "small", "medium", "medium"),
}
Pair = tuple[str, str, str, SceneObject | None]  # phrases of two things, the first's relation to the second, the first


@dataclass(frozen=True, slots=True)
class Statement:
    """A true sentence, one word of it, and the words that make it false in its place."""

    type: str
    before: str
    word: str
    after: str
    others: tuple[str, ...]
    target: SceneObject | Box | None = None

    def says(self, word: str) -> str:
        text = f"{self.before} {word}{self.after}"
        return text[0].upper() + text[1:]

    def draft(self, dice: Dice, true: bool) -> Draft:
        word = self.word if true else dice.one(self.others)
        changed = None if true else f"{self.word} -> {word}"
        tags = {"changed": changed, "true_text": self.says(self.word)}
        return Draft(self.type, ("True" if true else "False",), self.says(word), target=self.target, tags=tags)


def _there_is(facts: Facts, dice: Dice) -> Statement | None:
    thing = dice.one(facts.things)
    if dice.share() < 0.5 or thing.kind == SIGN:
        vowel = thing.color[0] in "aeiou"
        colors = [color for color in COLORS if (color[0] in "aeiou") == vowel]
        wrong = tuple(color for color in colors if not members(facts.things, (None, color, thing.kind)))
        start = "there is an" if vowel else "there is a"
        return Statement("existence", start, thing.color, f" {thing.kind}.", wrong, thing) if wrong else None
    wrong = tuple(kind for kind in KINDS if not members(facts.things, (None, thing.color, kind)))
    start = f"there is {article(noun('', thing.color))}"
    return Statement("existence", start, thing.kind, ".", wrong, thing) if wrong else None


def _there_are(facts: Facts, dice: Dice) -> Statement | None:
    """The changed word is the kind, not the number: numbers are mostly small, which would tell."""
    numbers = {kind: len(members(facts.things, (None, None, kind))) for kind in KINDS}
    several = [kind for kind, number in numbers.items() if number > 1]
    if not several:
        return None
    kind = dice.one(several)
    others = [other for other, number in numbers.items() if number != numbers[kind]]
    there = [other for other in others if numbers[other]]
    wrong = tuple(plural(other) for other in there or others)
    return Statement("count", f"there are exactly {NUMBER_WORDS[numbers[kind]]}", plural(kind), ".", wrong)


def _is_colored(facts: Facts, dice: Dice) -> Statement | None:
    reference = facts.pick(dice, ("attribute", "relation", "ordinal", "superlative"), hiding="color", naming="kind")
    if reference is None:
        return None
    target = facts.things[reference.target]
    others = tuple(color for color in COLORS if color != target.color)
    return Statement("color", f"{reference.text} is", target.color, ".", others, target)


def _is_sized(facts: Facts, dice: Dice) -> Statement | None:
    reference = facts.pick(dice, ("attribute",), hiding="size", naming="kind")
    if reference is None or facts.things[reference.target].kind == SIGN:
        return None
    target = facts.things[reference.target]
    return Statement("size", f"{reference.text} is", target.size, ".", _OTHER_SIZES[target.size], target)


def _says(facts: Facts, dice: Dice) -> Statement | None:
    signs = [thing for thing in facts.things if thing.text is not None]
    if len(signs) != 1:
        return None
    text = signs[0].text or ""
    options = SIGN_NUMBERS if text.isdigit() else SIGN_WORDS
    others = tuple(word for word in options if word != text)
    return Statement("reading", "the sign says", text, ".", others, signs[0])


def _related(pair: Pair | None) -> Statement | None:
    if pair is None:
        return None
    first, second, relation, target = pair
    word, _, rest = relation.partition(" ")
    after = f" {rest} {second}." if rest else f" {second}."
    return Statement("relation", f"{first} is", word, after, (OPPOSITE[word],), target)


_MAKERS: tuple[Callable[[Facts, Dice], Statement | None], ...] = (_there_is, _there_are, _is_colored, _is_sized, _says)


def statements(facts: Facts, dice: Dice, pair: Pair | None) -> list[Draft]:
    """Two statements of different types about things, one true and one false, in either order."""
    makers = [*_MAKERS, lambda facts, dice: _related(pair)]
    made = [statement for make in dice.some(makers, len(makers)) if (statement := make(facts, dice))]
    return _true_and_false(made, dice)


def document_statements(facts: Facts, dice: Dice) -> list[Draft]:
    """Two statements about a document, one true and one false."""
    document = facts.document
    assert document is not None
    line = dice.one(document.lines)
    place = dice.below(len(document.lines))
    near = tuple(str(value) for value in _mistaken(line.value, [other.value for other in document.lines]))
    key = document.lines[place].key
    wrong_places = tuple(word for word in ORDINALS[: len(document.lines)] if word != ORDINALS[place])
    wrong_kinds = tuple(kind for kind in DOCUMENTS if kind != document.kind)
    made = [
        Statement("value", f"the value of {line.key} is", str(line.value), ".", near, line.box),
        Statement("place", f"{key} is on the", ORDINALS[place], " line.", wrong_places, document.lines[place].box),
        Statement("document", "the document is a", document.kind, ".", wrong_kinds, document.card),
    ]
    return _true_and_false(dice.some(made, len(made)), dice)


def _mistaken(value: int, present: list[int]) -> list[int]:
    """Numbers that a hasty reader may take for `value`: the other lines', and those with one digit changed."""
    digits = str(value)
    changed = [
        int(digits[:place] + str((int(digit) + step) % 10) + digits[place + 1 :])
        for place, digit in enumerate(digits)
        for step in (1, 3, 7)
    ]
    shown = [other for other in present if other != value]
    alike = [other for other in changed if len(str(other)) == len(digits) and other and other not in (value, *shown)]
    return [*shown, *alike]


def mistaken_values(value: int, present: list[int], dice: Dice) -> list[int]:
    """Three wrong numbers for a choice: up to two from the document, the others one digit off."""
    candidates = _mistaken(value, present)
    shown = dice.some([other for other in candidates if other in present], 2)
    return [*shown, *dice.some([other for other in candidates if other not in present], 3 - len(shown))]


def _true_and_false(made: list[Statement], dice: Dice) -> list[Draft]:
    truths = [True, False] if dice.share() < 0.5 else [False, True]
    if len(made) == 1:
        return [made[0].draft(dice, truths[0])]
    return [statement.draft(dice, true) for statement, true in zip(made, truths, strict=False)]
