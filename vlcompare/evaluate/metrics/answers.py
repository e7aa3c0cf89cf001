"""Short answers against references: VQA soft accuracy, exact match, ANLS, yes / no.

Where a benchmark's own script and the usual harnesses differ, both are here, under two names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlcompare.evaluate.intervals import CorpusFigure

# ---- VQA soft accuracy: "VQA: Visual Question Answering" (Antol et al. 2015), and the official evaluation script -----

# The shortened words that the official table repairs, in their right spelling. Its wrong spellings are these with one
# apostrophe left out ("dont", "couldnt've", "couldn'tve"); words that exist without it ("shed", "well") are not in it.
_SHORTENED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, character in enumerate(word) if character == "'"]


CONTRACTIONS = {wrong: word for word in _SHORTENED.split() for wrong in _without_one_apostrophe(word)}
CONTRACTIONS["somebody'd"] = "somebodyd"  # so in the official table
NUMBER_WORDS = {
    word: str(value)
    for value, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
} | {"none": "0"}
ARTICLES = frozenset(["a", "an", "the"])
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")  # a full stop that no digit follows; the official pattern's look-behind has no effect


@lru_cache(maxsize=65536)
def normalise_vqa(answer: str) -> str:
    """The official normalisation in its order: white space, punctuation, case, numbers, articles, contractions."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    drop = _COMMA_IN_NUMBER.search(text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        # next to a space it goes, between letters it becomes a space; a number like 1,000 makes all of it go
        cleaned = cleaned.replace(mark, "" if drop or f"{mark} " in text or f" {mark}" in text else " ")
    words = (NUMBER_WORDS.get(word, word) for word in _PERIOD.sub("", cleaned).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """The usual harnesses' figure: `soft_accuracy` with both sides normalised, whatever the references are.

    An empty answer is never right.
    """
    if not answer.strip():
        return 0.0
    return soft_accuracy(normalise_vqa(answer), [normalise_vqa(reference) for reference in references])


def vqa_accuracy_official(answer: str, references: Sequence[str], usual: float | None = None) -> float:
    """The official script's figure: `soft_accuracy` with both sides normalised, or neither where all references agree.

    Ten times "yes" and the answer "Yes" is 0 there. Line breaks and tabs become spaces and outer spaces go either way.
    An empty answer is never right. `usual` is `vqa_accuracy` of the same, where it is known.
    """
    plain = [_spaced(reference) for reference in references]
    if len(set(plain)) > 1:
        return vqa_accuracy(answer, references) if usual is None else usual
    return soft_accuracy(_spaced(answer), plain) if answer.strip() else 0.0


def _spaced(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def soft_accuracy(answer: str, references: Sequence[str]) -> float:
    """Mean over the leave-one-out sets of min(1, others that agree / 3), of texts as they are.

    With ten references this is the official count. With fewer than four, three others cannot agree: then all the
    others must (so two of two, and one reference alone is an exact match).
    """
    if not references:
        return 0.0
    agree, needed = references.count(answer), min(3, len(references) - 1)
    if not needed:
        return float(agree)
    left_out_agrees = agree * min(1.0, (agree - 1) / needed)
    left_out_differs = (len(references) - agree) * min(1.0, agree / needed)
    return (left_out_agrees + left_out_differs) / len(references)


# ---- exact match and ANLS --------------------------------------------------------------------------------------------


def fold(text: str) -> str:
    """Lower case, white space folded, one final full stop dropped."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the answer equals a reference, both folded; an empty answer is never right."""
    return float(bool(answer.strip()) and fold(answer) in {fold(reference) for reference in references})


LEAST_SIMILARITY = 0.5  # below this an answer counts as another one
MAX_COMPARED = 1000  # characters; no document's answer is near it, and the time grows with their square


def anls(answer: str, references: Sequence[str]) -> float:
    """Average Normalised Levenshtein Similarity of one answer, as the benchmark's own script counts it.

    Sources: Biten et al. 2019, "Scene Text VQA", equation 1; the evaluation script of DocVQA and InfographicVQA. The
    best over the references of 1 - NL, and 0 where that is below 0.5. NL is the edit distance of both texts in lower
    case with white space folded, over the longer of both as they stand. An empty answer is never right. Texts are
    compared as far as MAX_COMPARED characters.
    """
    ours, best = _folded(answer), 0.0
    for reference in references if ours else ():
        theirs = _folded(reference)
        longer = max(len(answer[:MAX_COMPARED]), len(reference[:MAX_COMPARED]))
        if abs(len(ours) - len(theirs)) <= LEAST_SIMILARITY * longer:  # else the lengths alone decide
            best = max(best, 1 - edit_distance(ours, theirs) / longer)
    return best if best >= LEAST_SIMILARITY else 0.0


def anls_strict(similarities: ArrayLike) -> NDArray[np.float64]:
    """`anls` as the paper defines it, from values of `anls`: NL < 0.5, so that a similarity of exactly 0.5 is 0."""
    values = np.asarray(similarities, dtype=np.float64)
    return np.where(values > 0.5, values, 0.0)


def _folded(text: str) -> str:
    return " ".join(text[:MAX_COMPARED].lower().split())


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions of one character.

    A column of the table is two numbers whose bits are its steps up and down (Myers 1999, "A fast bit-vector algorithm
    for approximate string matching based on dynamic programming"; as written down by Hyyrö 2003).
    """
    if not a or not b:
        return len(a) + len(b)
    places: dict[str, int] = {}
    for i, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << i
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, distance = full, 0, len(a)
    for character in b:
        match = places.get(character, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        rises, falls = down | ~(diagonal | up) & full, up & diagonal
        distance += bool(rises & last) - bool(falls & last)
        rises, falls = (rises << 1 | 1) & full, falls << 1 & full
        up, down = falls | ~(diagonal | rises) & full, rises & diagonal
    return distance


# ---- yes / no --------------------------------------------------------------------------------------------------------


def read_yes_no(answer: str) -> str:
    """POPE's own reading (Li et al. 2023, arXiv 2305.10355, evaluate.py): everything that is not "no" is "yes".

    "no" where the text up to its first full stop, commas dropped and split at spaces, has the word No, no or not. So
    an empty answer is "yes", and "NO" is too.
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"}.intersection(words) else "yes"


def says_exactly(answer: str, truth: str) -> bool:
    """The usual harnesses' reading of yes / no: the whole answer is the true word, in lower case, outer spaces gone."""
    return answer.strip().lower() == truth.strip().lower()


def f1_columns(answered_yes: ArrayLike, truly_yes: ArrayLike) -> NDArray[np.float64]:
    """What each row adds to F1 with "yes" as the positive class: (true positives, false positives, false negatives)."""
    yes, truth = np.array(answered_yes, dtype=bool), np.array(truly_yes, dtype=bool)
    return np.stack([yes & truth, yes & ~truth, ~yes & truth], axis=-1).astype(np.float64)


def f1_of_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of sums of `f1_columns`, along the last axis; 0 where there is nothing to find and nothing found."""
    true, wrong, missed = sums[..., 0], sums[..., 1], sums[..., 2]
    return 2 * true / np.maximum(2 * true + wrong + missed, 1e-12)


def _f1_extremes(mean: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A row found, and a row half wrong and half missed: of the rows that count, F1 knows only these kinds."""
    return np.broadcast_to([1.0, 0.0, 0.0], mean.shape), np.broadcast_to([0.0, 0.5, 0.5], mean.shape)


F1 = CorpusFigure(f1_of_sums, _f1_extremes)
