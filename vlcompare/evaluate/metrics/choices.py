"""Lenient reading of a multiple choice: the letter that an answer names somewhere, or the option whose text it holds.

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
    r"\b(?:answer|option|choice)s?\b(?:\s+(?:is|would\s+be|should\s+be|must\s+be|letter|option|choice)\b|\s*[:=])*"
    r"\s*[\"'(\[]*([A-Z])(?![A-Za-z0-9'])",
    re.IGNORECASE,
)
_AHEAD = re.compile(r"\s*[\"'(\[]*([A-Z])(?![A-Za-z0-9'])(\s+[a-z])?")
_SET_OFF = re.compile(r"(?<![A-Za-z0-9'])([A-Z])(?![A-Za-z0-9'])(\s+[a-z])?")
_WORDS_TOO = frozenset("AI")  # capitals that are words: "A ribosome", "I see"
_WORD = re.compile(r"\w+(?:['.,:/-]\w+)*")
_ARTICLES = frozenset(["a", "an", "the"])


def lenient_letter(text: str, options: Sequence[object]) -> str | None:
    """The letter of the option that an answer chooses; None where it names none, or more than one.

    In this order: a letter after "answer", "option" or "choice"; a capital letter ahead of the rest; the one option
    whose text the answer holds (in lower case, without articles and punctuation; of options that hold each other the
    longest); the one capital letter that stands alone. "A" and "I" before a word in lower case are words, no letters.
    """
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]
    plain = _MARKS.sub(" ", text)
    named = _one(match.group(1).upper() for match in _NAMED.finditer(plain) if _is_letter(match.group(1), plain, match))
    if named is not None:
        return named if named in letters else None
    ahead = _AHEAD.match(plain)
    if ahead and ahead.group(1) in letters and not _is_word(ahead):
        return ahead.group(1)
    by_text = _option_held(plain, [option for option in options if isinstance(option, str)])
    if by_text is not None:
        return letters[by_text]
    alone = _one(match.group(1) for match in _SET_OFF.finditer(plain) if not _is_word(match))
    return alone if alone is not None and alone in letters else None


def _one(found: Iterable[str]) -> str | None:
    distinct = set(found)
    return distinct.pop() if len(distinct) == 1 else None


def _is_word(match: re.Match[str]) -> bool:
    return match.group(1) in _WORDS_TOO and match.group(2) is not None


def _is_letter(letter: str, text: str, match: re.Match[str]) -> bool:
    """Whether what follows "answer" is a letter: "answer a" is, "the answer is a cell" is not."""
    follows = text[match.end() :]
    return not (letter.upper() in _WORDS_TOO and re.match(r"\s+[a-z]", follows))


def _option_held(text: str, options: Sequence[str]) -> int | None:
    """The place of the one option whose words stand in the text, one behind the other."""
    said = f" {_words(text)} "
    keys = [_words(option) for option in options]
    held = {place: key for place, key in enumerate(keys) if key and f" {key} " in said}
    longest = max(held, key=lambda place: len(held[place]), default=None)
    if longest is None or any(f" {key} " not in f" {held[longest]} " for key in held.values()):
        return None
    return longest if list(held.values()).count(held[longest]) == 1 else None


def _words(text: str) -> str:
    return " ".join(word for word in _WORD.findall(text.lower()) if word not in _ARTICLES)
