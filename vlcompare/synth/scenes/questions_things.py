"""Questions about scenes of things: captions, boxes, attributes, counts, relations, signs.

Answers are chosen before questions wherever the question's words alone would tell (yes and no, counts, true and
false), so that guessing without the picture gains little.
"""

from __future__ import annotations

from collections.abc import Callable

from vlcompare.synth.scenes.dice import Dice
from vlcompare.synth.scenes.drafts import Draft, Facts, reference_tags, with_choices
from vlcompare.synth.scenes.phrases import CORNERS, RELATIONS, THING, article, caption, described, in_bars, noun, plural
from vlcompare.synth.scenes.referring import PHRASE_FAMILIES, Reference, members, related, relation
from vlcompare.synth.scenes.scene import SIGN_NUMBERS, SIGN_WORDS, SceneObject
from vlcompare.synth.scenes.shapes import COLORS, KINDS, SIGN, SIZES
from vlcompare.synth.scenes.statements import statements

PLACED = ("relation", "closest", "ordinal", "superlative")  # families that say where a thing is
COUNTS = {"vqa": 5, "grounding": 4, "region_description": 2, "multiple_choice": 2, "pointing": 1}  # rows of a scene
CORNER_MARGIN = 0.08  # least distance of a centre from the picture's middle lines


def _captioning(facts: Facts, dice: Dice) -> list[Draft]:
    """The first reference is the one in reading order, which training uses."""
    across = sorted(facts.things, key=lambda thing: thing.box.center[0])
    largest = sorted(facts.things, key=lambda thing: -thing.box.area)
    references = dict.fromkeys(f"{caption(things)}." for things in (facts.things, across, largest))
    return [Draft("caption", tuple(references))]


def _grounded_captioning(facts: Facts, dice: Dice) -> list[Draft]:
    named = facts.things[:3]
    sentence = in_bars([described(thing) for thing in named], [thing.box for thing in named])
    return [Draft("caption", (sentence,), boxes=tuple(thing.box for thing in named))]


def _region_description(facts: Facts, dice: Dice) -> list[Draft]:
    return [
        Draft("region", (described(thing),), boxes=(thing.box,), target=thing, tags=_likeness(facts, thing))
        for thing in dice.some(facts.things, COUNTS["region_description"])
    ]


def _likeness(facts: Facts, thing: SceneObject) -> dict[str, int]:
    return {"distractors": len(members(facts.things, (None, None, thing.kind))) - 1}


def _grounding(facts: Facts, dice: Dice) -> list[Draft]:
    """One row for each of several families, as far as the scene has phrases of them."""
    drafts: list[Draft] = []
    for family in dice.some(tuple(PHRASE_FAMILIES), len(PHRASE_FAMILIES)):
        reference = facts.pick(dice, (family,)) if len(drafts) < COUNTS["grounding"] else None
        if reference:
            target = facts.things[reference.target]
            tags = reference_tags(reference)
            drafts.append(Draft(family, (), reference.text, boxes=(target.box,), target=target, tags=tags))
    return drafts


def _pointing(facts: Facts, dice: Dice) -> list[Draft]:
    """Four boxes of things; which one the phrase describes."""
    reference = facts.pick(dice, tuple(PHRASE_FAMILIES))
    if reference is None or len(facts.things) < 4:
        return []
    target = facts.things[reference.target]
    others = [thing.box for index, thing in enumerate(facts.things) if index != reference.target]
    choices, letter = with_choices(dice, target.box, dice.some(others, 3))
    # lower-case, sign included: this form keeps the case of its question, and the others do not
    text, tags = f"Which box shows {reference.text.lower()}?", reference_tags(reference)
    return [Draft(reference.family, (letter,), text, choices, boxes=(target.box,), target=target, tags=tags)]


# --- questions with an answer of a word -------------------------------------------------------------------------------


def _about(reference: Reference, facts: Facts, kind: str, text: str, answer: str) -> Draft:
    target = facts.things[reference.target]
    return Draft(kind, (answer,), text, target=target, tags=reference_tags(reference))


def _color(facts: Facts, dice: Dice) -> Draft | None:
    reference = facts.pick(dice, ("attribute", *PLACED), hiding="color", naming="kind")
    if reference is None:
        return None
    answer = facts.things[reference.target].color
    return _about(reference, facts, "color", f"What color is {reference.text}?", answer)


def _size(facts: Facts, dice: Dice) -> Draft | None:
    reference = facts.pick(dice, ("attribute", *PLACED), hiding="size", naming="kind")
    if reference is None or facts.things[reference.target].kind == SIGN:
        return None
    answer = facts.things[reference.target].size
    return _about(reference, facts, "size", f"What size is {reference.text}?", answer)


def _kind(facts: Facts, dice: Dice) -> Draft | None:
    """`What is the pink thing?`, `What is the thing left of the tree?`"""
    found = [reference for reference in facts.references.get("attribute", ()) if "kind" not in reference.says]
    if not found or dice.share() < 0.5:
        found = relation(facts.things, any_kind=True) or found
    if not found:
        return None
    reference = dice.one(found)
    return _about(reference, facts, "kind", f"What is {reference.text}?", facts.things[reference.target].kind)


def _reading(facts: Facts, dice: Dice) -> Draft | None:
    signs = [thing for thing in facts.things if thing.text is not None]
    if not signs:
        return None
    sign = dice.one(signs)
    if len(signs) == 1:
        phrase = "the sign"
    elif len({thing.color for thing in signs}) == len(signs):
        phrase = f"the {sign.color} sign"
    else:
        return None
    return Draft("reading", ((sign.text or "").lower(),), f"What does {phrase} say?", target=sign)


def _absent(facts: Facts, dice: Dice) -> tuple[str, str]:
    """Colour and kind that do not occur together, though one of them does."""
    thing = dice.one(facts.things)
    by_color, by_kind = [(color, thing.kind) for color in COLORS], [(thing.color, kind) for kind in KINDS]
    pairs = by_color if dice.share() < 0.5 else by_kind
    # seven things cannot fill eight colours or twelve kinds: there is always such a pair
    return dice.one([pair for pair in pairs if not members(facts.things, (None, *pair))])


def _count(facts: Facts, dice: Dice) -> Draft:
    """The number is chosen first, among those that some class of the scene has, zero included."""
    rows = [*facts.classes, (plural(THING), len(facts.things))]
    number = dice.one(sorted({0, *(count for _, count in rows)}))
    words = dice.one([words for words, count in rows if count == number]) if number else _nowhere(facts, dice)
    text = f"How many {words} are {'in the picture' if words == plural(THING) else 'there'}?"
    return Draft("count", (str(number),), text, tags={"count": number})


def _nowhere(facts: Facts, dice: Dice) -> str:
    """The plural of what does not occur: a kind, a colour, or a kind in a colour."""
    form = dice.below(3)
    if form == 0:
        color, kind = _absent(facts, dice)
        return noun(plural(kind), color)
    if form == 1:
        return plural(dice.one([kind for kind in (*KINDS, SIGN) if not members(facts.things, (None, None, kind))]))
    return noun(plural(THING), dice.one([color for color in COLORS if not members(facts.things, (None, color, THING))]))


def _existence(facts: Facts, dice: Dice) -> Draft:
    """Of what is there and of what is nearly there, a colour and a kind each, equally often."""
    if dice.share() < 0.5:
        thing = dice.one(facts.things)
        return Draft("existence", ("yes",), f"Is there {article(noun(thing.kind, thing.color))}?", target=thing)
    color, kind = _absent(facts, dice)
    return Draft("existence", ("no",), f"Is there {article(noun(kind, color))}?")


def _comparison(facts: Facts, dice: Dice) -> Draft | None:
    """`Are there more cups than trees?`, `Is the red cup larger than the tree?`; yes and no by the order of the two."""
    kinds = sorted({thing.kind for thing in facts.things})
    numbers = {kind: len(members(facts.things, (None, None, kind))) for kind in kinds}
    pairs = [(a, b) for a in kinds for b in kinds if numbers[a] > numbers[b]]
    yes = dice.share() < 0.5
    answer = "yes" if yes else "no"
    if pairs and dice.share() < 0.5:
        more, fewer = dice.one(pairs)
        first, second = (more, fewer) if yes else (fewer, more)
        return Draft("comparison", (answer,), f"Are there more {plural(first)} than {plural(second)}?")
    order = list(SIZES)
    named = [
        (reference.text, facts.things[reference.target].size)
        for reference in facts.references.get("attribute", ())
        if "size" not in reference.says and "kind" in reference.says and facts.things[reference.target].kind != SIGN
    ]
    sized = [(a, b) for a, size in named for b, other in named if order.index(size) > order.index(other)]
    if not sized:
        return None
    large, small = dice.one(sized)
    word = dice.one(("larger", "smaller"))
    first, second = (large, small) if yes == (word == "larger") else (small, large)
    return Draft("comparison", (answer,), f"Is {first} {word} than {second}?")


def _relation(facts: Facts, dice: Dice) -> Draft | None:
    """`Is the red cup left of the tree?`: yes where it clearly is, no where it clearly is on the other side."""
    found = two_in_relation(facts, dice)
    if found is None:
        return None
    first, second, name, target = found
    yes = dice.share() < 0.5
    if not yes:  # asked the other way round, the answer is as clearly no
        first, second, target = second, first, None
    tags = {"relation": name}
    return Draft("relation", ("yes" if yes else "no",), f"Is {first} {name} {second}?", target=target, tags=tags)


def two_in_relation(facts: Facts, dice: Dice) -> tuple[str, str, str, SceneObject | None] | None:
    """Phrases of two things, the first of which clearly is in a relation to the second."""
    named = [
        reference
        for reference in facts.references.get("attribute", ())
        if "kind" in reference.says and "size" not in reference.says
    ]
    for first in dice.some(named, len(named)):
        for second in dice.some(named, len(named)):
            a, b = facts.things[first.target], facts.things[second.target]
            names = [name for name in RELATIONS if first.target != second.target and related(a.box, name, b.box)]
            if names:
                return first.text, second.text, dice.one(names), a
    return None


_WORD_QUESTIONS: tuple[Callable[[Facts, Dice], Draft | None], ...] = (
    _color,
    _size,
    _kind,
    _count,
    _existence,
    _comparison,
    _relation,
    _reading,
)


def _vqa(facts: Facts, dice: Dice) -> list[Draft]:
    """Questions of different types, as many as there are rows for."""
    drafts: list[Draft] = []
    for make in dice.some(_WORD_QUESTIONS, len(_WORD_QUESTIONS)):
        draft = make(facts, dice) if len(drafts) < COUNTS["vqa"] else None
        if draft:
            drafts.append(draft)
    return drafts


# --- multiple choice --------------------------------------------------------------------------------------------------


def _corner(facts: Facts, dice: Dice) -> Draft | None:
    """`Where is the red cup?`, for things well inside a quarter of the picture."""
    reference = facts.pick(dice, ("attribute",), naming="kind")
    if reference is None:
        return None
    x, y = facts.things[reference.target].box.center
    if min(abs(x - 0.5), abs(y - 0.5)) < CORNER_MARGIN:
        return None
    answer = CORNERS[(x > 0.5) + 2 * (y > 0.5)]
    return _about(reference, facts, "place", f"Where is {reference.text}?", answer)


def _number_choices(facts: Facts, answer: str) -> tuple[str, ...]:
    low = max(0, min(4, int(answer) - 2))
    return tuple(str(number) for number in range(low, low + 5))


def _sign_choices(facts: Facts, answer: str) -> tuple[str, ...]:
    return tuple(option.lower() for option in (SIGN_NUMBERS if answer.isdigit() else SIGN_WORDS))


# a question's type, its maker, and what the wrong choices are taken from
_CHOICE_QUESTIONS: tuple[tuple[Callable[[Facts, Dice], Draft | None], Callable[[Facts, str], tuple[str, ...]]], ...] = (
    (_color, lambda facts, answer: tuple(COLORS)),
    (_kind, lambda facts, answer: (*KINDS, SIGN)),
    (_count, _number_choices),
    (_reading, _sign_choices),
    (_corner, lambda facts, answer: CORNERS),
)


def _multiple_choice(facts: Facts, dice: Dice) -> list[Draft]:
    """Four choices; what else is in the picture is among the wrong ones where it can be."""
    drafts: list[Draft] = []
    for make, options in dice.some(_CHOICE_QUESTIONS, len(_CHOICE_QUESTIONS)):
        draft = make(facts, dice) if len(drafts) < COUNTS["multiple_choice"] else None
        if draft is None:
            continue
        answer = draft.references[0]
        pool = [option for option in options(facts, answer) if option != answer]
        present = {thing.color for thing in facts.things} | {thing.kind for thing in facts.things}
        near = dice.some([option for option in pool if option in present], 2)
        far = dice.some(sorted({option for option in pool if option not in near}), 3 - len(near))
        choices, letter = with_choices(dice, answer, dice.some([*near, *far], 3))
        tags = draft.tags | {"answer": answer}
        drafts.append(Draft(draft.type, (letter,), draft.text, choices, target=draft.target, tags=tags))
    return drafts


def _image_text_match(facts: Facts, dice: Dice) -> list[Draft]:
    return statements(facts, dice, two_in_relation(facts, dice))


MAKERS: dict[str, Callable[[Facts, Dice], list[Draft]]] = {
    "captioning": _captioning,
    "grounded_captioning": _grounded_captioning,
    "region_description": _region_description,
    "vqa": _vqa,
    "multiple_choice": _multiple_choice,
    "pointing": _pointing,
    "grounding": _grounding,
    "image_text_match": _image_text_match,
}
