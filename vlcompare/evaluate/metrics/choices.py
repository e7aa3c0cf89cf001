"""Lenient reading of a multiple choice: the letter that an answer names anywhere, or the option whose text is in it.

The strict reading, a letter alone or set off from what follows, is `vlcompare.tasks.reading`. This one also reads what
chat models write ("Answer: B", "The answer is B.", "**B** the cell wall", "the cell wall"), as the harnesses that
infer an answer do (VLMEvalKit's `can_infer`, MMMU's `parse_multi_choice_response`), but never by chance: an answer
that names two options is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MARKS = re.compile(r"[*_`#]+")
# "answer: B", "the answer is (B)", "option B", "choice would be B"; a word in between ends it
_NAMED = re.compile(
    r"\b(?:answer|option|choice)s?\b(?:\s+(?:is|would\s+be|should\s+be|must\s+be|letter|option|choice)\b|\s*[:=]){0,5}"
    r"\s*[\"'(\[]*([A-Z])(?![A-Za-z0-9'])(?:\s+((?-i:[a-z]+)))?",
    re.IGNORECASE,
)
# a single capital letter and the lower-case word after it; at the beginning also "b) .." and "(b) .."
_AHEAD = re.compile(r"\s*[\"'(\[]*(?:([A-Z])(?![A-Za-z0-9'])|([a-z])(?=[).:](?:\s|\Z)))(?:\s+([a-z]+))?")
_SET_OFF = re.compile(r"(?<![A-Za-z0-9'])([A-Z])(?![A-Za-z0-9'])(?:\s+([a-z]+))?")
_WORDS_TOO = frozenset("AI")  # capitals that are words, too: "A ribosome", "I see"
_AFTER_A_LETTER = frozenset(["and", "or", "is", "are", "because", "since", "as", "but"])  # "A is right"
_WORD = re.compile(r"\w+(?:['.,:/-]\w+)*")
_ARTICLES = frozenset(["a", "an", "the"])


def lenient_letter(text: str, options: Sequence[object]) -> str | None:
    """The letter of the option that an answer chooses; None where it names none, or more than one.

    In this order: a letter after "answer", "option" or "choice"; a letter at the beginning, a capital or before a
    bracket, full stop or colon; the one option whose text the answer contains (in lower case, without articles and
    punctuation; where one option contains another, the longest); the one capital letter that is a word by itself. "A"
    and "I" before a lower-case word count as words, not letters, except before "is", "and" and the like.
    """
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]
    plain = _MARKS.sub(" ", text)
    named = _one(found[1].upper() for found in _NAMED.finditer(plain) if not _is_word(found[1].upper(), found[2]))
    if named is not None:
        return named if named in letters else None
    if ahead := _AHEAD.match(plain):
        letter = (ahead[1] or ahead[2]).upper()
        if letter in letters and not _is_word(letter, ahead[3]):
            return letter
    by_text = _option_in(plain, [option for option in options if isinstance(option, str)])
    if by_text is not None:
        return letters[by_text]
    alone = _one(found[1] for found in _SET_OFF.finditer(plain) if not _is_word(found[1], found[2]))
    return alone if alone is not None and alone in letters else None


def _one(found: Iterable[str]) -> str | None:
    distinct = set(found)
    return distinct.pop() if len(distinct) == 1 else None


def _is_word(letter: str, following: str | None) -> bool:
    """Whether a letter is the article or the pronoun: not in "answer a", but in "the answer is a cell"."""
    return letter in _WORDS_TOO and following is not None and following not in _AFTER_A_LETTER


def _option_in(text: str, options: Sequence[str]) -> int | None:
    """The index of the one option that the text contains as a sequence of words; None for none or several."""
    padded = f" {_words(text)} "
    keys = [_words(option) for option in options]
    contained = {index: key for index, key in enumerate(keys) if key and f" {key} " in padded}
    longest = max(contained, key=lambda index: len(contained[index]), default=None)
    if longest is None or any(f" {key} " not in f" {contained[longest]} " for key in contained.values()):
        return None
    return longest if list(contained.values()).count(contained[longest]) == 1 else None


def _words(text: str) -> str:
    return " ".join(word for word in _WORD.findall(text.lower()) if word not in _ARTICLES)
