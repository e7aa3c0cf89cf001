"""Questions about rendered documents: values, lines, the largest and the smallest, the kind of document.

A document's keys are written with a capital in the picture and lower-case here.
"""

from __future__ import annotations

from collections.abc import Callable

from vlcompare.synth.scenes.dice import Dice
from vlcompare.synth.scenes.documents import DOCUMENTS, Document, DocumentLine
from vlcompare.synth.scenes.drafts import Draft, Facts, with_choices
from vlcompare.synth.scenes.phrases import ALL_KEYS, NUMBER_WORDS, ORDINALS, document_caption, in_bars
from vlcompare.synth.scenes.statements import document_statements, mistaken_values

COUNTS = {"document_vqa": 4, "grounding": 3}  # rows of a document
VALUES = 2  # document questions that ask for a value


def _document(facts: Facts) -> Document:
    assert facts.document is not None
    return facts.document


def _captioning(facts: Facts, dice: Dice) -> list[Draft]:
    return [Draft("caption", (f"{document_caption(_document(facts))}.",))]


def _grounded_captioning(facts: Facts, dice: Dice) -> list[Draft]:
    document = _document(facts)
    sentence = in_bars([f"a {document.kind} with {NUMBER_WORDS[len(document.lines)]} lines"], [document.card])
    return [Draft("caption", (sentence,), boxes=(document.card,))]


def _region_description(facts: Facts, dice: Dice) -> list[Draft]:
    line = dice.one(_document(facts).lines)
    tags = {"distractors": len(_document(facts).lines) - 1}
    return [Draft("line", (f"the line that says {line.key}",), boxes=(line.box,), target=line.box, tags=tags)]


def _value(document: Document, dice: Dice, count: int) -> list[Draft]:
    return [
        Draft("value", (str(line.value),), f"What is the value of {line.key}?", target=line.box)
        for line in dice.some(document.lines, count)
    ]


def _extreme_line(document: Document, dice: Dice) -> Draft:
    word, line = _extreme(document, dice)
    return Draft("extreme", (line.key,), f"Which line has the {word} value?", target=line.box)


def _extreme_value(document: Document, dice: Dice) -> Draft:
    word, line = _extreme(document, dice)
    return Draft("extreme", (str(line.value),), f"What is the {word} value?", target=line.box)


def _extreme(document: Document, dice: Dice) -> tuple[str, DocumentLine]:
    lines = sorted(document.lines, key=lambda line: line.value)
    return ("largest", lines[-1]) if dice.share() < 0.5 else ("smallest", lines[0])


def _line_of_value(document: Document, dice: Dice) -> Draft:
    line = dice.one(document.lines)
    return Draft("line", (line.key,), f"Which line has the value {line.value}?", target=line.box)


def _word_of_line(document: Document, dice: Dice) -> Draft:
    index = dice.below(len(document.lines))
    line = document.lines[index]
    return Draft("line", (line.key,), f"Which word is on the {ORDINALS[index]} line?", target=line.box)


def _kind(document: Document, dice: Dice) -> Draft:
    return Draft("document", (document.kind,), "What kind of document is this?", target=document.card)


def _count(document: Document, dice: Dice) -> Draft:
    number = len(document.lines)
    return Draft("count", (str(number),), "How many lines are there?", target=document.card, tags={"count": number})


_OTHER = (_extreme_line, _extreme_value, _line_of_value, _word_of_line, _kind, _count)


def _document_vqa(facts: Facts, dice: Dice) -> list[Draft]:
    document = _document(facts)
    drafts = _value(document, dice, VALUES)
    return drafts + [make(document, dice) for make in dice.some(_OTHER, COUNTS["document_vqa"] - len(drafts))]


def _grounding(facts: Facts, dice: Dice) -> list[Draft]:
    """Lines described by their text, value, position, or as the one with the largest or smallest value."""
    document = _document(facts)
    distractors = len(document.lines) - 1

    def row(family: str, text: str, index: int) -> Draft:
        box = document.lines[index].box
        tags = {"family": family, "relation": None, "distractors": distractors}
        return Draft(family, (), text, boxes=(box,), target=box, tags=tags)

    def by_text(index: int) -> Draft:
        return row("text", f"the line that says {document.lines[index].key}", index)

    def by_value(index: int) -> Draft:
        return row("value", f"the line with the value {document.lines[index].value}", index)

    def by_place(index: int) -> Draft:
        return row("ordinal", f"the {ORDINALS[index]} line from the top", index)

    def by_size(index: int) -> Draft:
        word, line = _extreme(document, dice)
        return row("superlative", f"the line with the {word} value", document.lines.index(line))

    makers = dice.some((by_text, by_value, by_place, by_size), COUNTS["grounding"])
    return [make(dice.below(len(document.lines))) for make in makers]


def _pointing(facts: Facts, dice: Dice) -> list[Draft]:
    """Which of four lines' boxes shows the line with a word; for documents of at least four lines."""
    document = _document(facts)
    if len(document.lines) < 4:
        return []
    line, *others = dice.some(document.lines, 4)
    choices, letter = with_choices(dice, line.box, [other.box for other in others])
    text, tags = f"Which box shows the line that says {line.key}?", {"distractors": len(document.lines) - 1}
    return [Draft("text", (letter,), text, choices, boxes=(line.box,), target=line.box, tags=tags)]


def _multiple_choice(facts: Facts, dice: Dice) -> list[Draft]:
    """The kind of document, a value, or a line, among four."""
    document = _document(facts)
    present = [line.value for line in document.lines]
    drafts = []
    for make in dice.some((_kind, _value_of_one, _word_of_line, _line_of_value), 2):
        draft = make(document, dice)
        answer = draft.references[0]
        if make is _kind:
            wrong: list[str] = [kind for kind in DOCUMENTS if kind != answer]
        elif answer.isdigit():
            wrong = [str(value) for value in mistaken_values(int(answer), present, dice)]
        else:
            shown = dice.some([line.key for line in document.lines if line.key != answer], 3)
            absent = [key for key in ALL_KEYS if key != answer and key not in shown]
            wrong = [*shown, *dice.some(absent, 3 - len(shown))]
        choices, letter = with_choices(dice, answer, dice.some(wrong, 3))
        tags = draft.tags | {"answer": answer}
        drafts.append(Draft(draft.type, (letter,), draft.text, choices, target=draft.target, tags=tags))
    return drafts


def _value_of_one(document: Document, dice: Dice) -> Draft:
    return _value(document, dice, 1)[0]


MAKERS: dict[str, Callable[[Facts, Dice], list[Draft]]] = {
    "captioning": _captioning,
    "grounded_captioning": _grounded_captioning,
    "region_description": _region_description,
    "document_vqa": _document_vqa,
    "multiple_choice": _multiple_choice,
    "pointing": _pointing,
    "grounding": _grounding,
    "image_text_match": document_statements,
}
