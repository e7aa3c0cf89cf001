"""What an answer says: its text, its boxes, the phrases beside them, and whether the task's structure was found.

Total: any text gives a Reading, and one text has one reading, never the better of two. "unparseable" is kept apart
from a wrong answer, and "none" is for tasks that ask for no structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vlcompare.tasks.boxes import find_boxes
from vlcompare.tasks.prompts import SPECS, Reads
from vlcompare.types import Box, Parse, Request

# "B", "B.", "(B)", "b" alone in the first line; or a capital set off from what follows: "B: a nucleus", "(C) a cell"
_LETTER_ALONE = re.compile(r"\W*([A-Za-z])\W*\Z")
_LETTER_AHEAD = re.compile(r"\(?([A-Z])[).:]")
_TRUTH = re.compile(r"\W{0,20}(true|false)\b", re.IGNORECASE)
_BARS = re.compile(r"\|\|")
_CLAUSE = re.compile(r"[.,;:!?|]")
_LEADING_WORDS = "and or near with of on in at by to is are next behind beside under above over from while"
_DETERMINER_WORDS = (
    "a an the this that these those some his her its their my your our one two three four five six seven eight"
)
_LEADING, _DETERMINERS = frozenset(_LEADING_WORDS.split()), frozenset(_DETERMINER_WORDS.split())


# what a text lacks that is "unparseable", by what its task reads
MISSING: dict[Reads, str] = {
    "boxes": "no box",
    "phrases": "no phrase with a box",
    "letter": "none of the letters",
    "truth": "neither True nor False",
}


@dataclass(frozen=True, slots=True)
class Reading:
    text: str
    boxes: tuple[Box, ...] = ()  # clipped to 0..1; inverted ones are kept, their area is 0
    phrases: tuple[str, ...] = ()  # beside `boxes` in grounded captions
    parse: Parse = "none"


def read_answer(request: Request, text: str) -> Reading:
    """Read what a model wrote in answer to a request; of an unknown task, as plain text."""
    spec = SPECS.get(request.task)
    if spec is None:
        return Reading(text.strip())
    text = text.strip()
    if spec.stops_at_newline:
        text = text.partition("\n")[0].rstrip()
    return _READERS[spec.reads](request, text)


def link_phrases(text: str) -> tuple[tuple[str, Box], ...]:
    """(phrase, box) pairs of a grounded caption, in order.

    With bars, `||a blue box [..]||`, a phrase is the text between them. Without, it is the words before the box
    from their last article on: "a dog [..] near the red car [..]" gives "a dog" and "the red car". Boxes that follow
    one another share their phrase.
    """
    pairs: list[tuple[str, Box]] = []
    bars = [match.start() for match in _BARS.finditer(text)]
    before, phrase, passed = 0, "", 0
    for found in find_boxes(text):
        seen = passed
        while passed < len(bars) and bars[passed] < found.start:
            passed += 1
        own = _phrase_before(text, before, found.start, bars[max(0, passed - 2) : passed], opened=passed % 2 == 1)
        phrase = own or (phrase if passed == seen else "")
        pairs.append((phrase, found.box))
        before = found.stop
    return tuple(pairs)


def _phrase_before(text: str, before: int, start: int, last_bars: list[int], *, opened: bool) -> str:
    """The phrase of the box at `start`; text up to `before` belongs to the box before it."""
    if opened:  # ||a dog [..]||
        return _tidy(text[max(before, last_bars[-1] + 2) : start])
    if last_bars and not text[last_bars[-1] + 2 : start].strip():  # ||a dog|| [..]
        return _tidy(text[max(before, last_bars[0] + 2) : last_bars[-1]])
    words = _CLAUSE.split(text[before:start])[-1].split()
    starts = [index for index, word in enumerate(words) if word.lower() in _DETERMINERS]
    if starts and starts[-1] < len(words) - 1:
        words = words[starts[-1] :]
    while words and words[0].lower() in _LEADING:
        words = words[1:]
    return _tidy(" ".join(words))


def _tidy(phrase: str) -> str:
    return " ".join(phrase.replace("||", " ").split()).strip(" ,;:.")


def _text(request: Request, text: str) -> Reading:
    return Reading(text)


def _answer(request: Request, text: str) -> Reading:
    return Reading(text.removesuffix(".").rstrip())


def _boxes(request: Request, text: str) -> Reading:
    boxes = tuple(found.box for found in find_boxes(text))
    return Reading(text, boxes, (), "ok" if boxes else "unparseable")


def _phrases(request: Request, text: str) -> Reading:
    pairs = link_phrases(text)
    boxes, phrases = tuple(box for _, box in pairs), tuple(phrase for phrase, _ in pairs)
    return Reading(text, boxes, phrases, "ok" if pairs else "unparseable")


def _truth(request: Request, text: str) -> Reading:
    match = _TRUTH.match(text)
    return Reading(match.group(1).capitalize(), (), (), "ok") if match else Reading(text, (), (), "unparseable")


def _letter(request: Request, text: str) -> Reading:
    match = _LETTER_ALONE.match(text.partition("\n")[0]) or _LETTER_AHEAD.match(text)
    choices = request.choices or ()
    letter = match.group(1).upper() if match else ""
    index = ord(letter) - ord("A") if letter else len(choices)
    if index >= len(choices):
        return Reading(text, (), (), "unparseable")
    if request.task != "pointing":
        return Reading(letter, (), (), "ok")
    return Reading(letter, (Box(*choices[index]),), (), "ok")


_READERS: dict[Reads, Callable[[Request, str], Reading]] = {
    "text": _text,
    "answer": _answer,
    "letter": _letter,
    "truth": _truth,
    "boxes": _boxes,
    "phrases": _phrases,
}
