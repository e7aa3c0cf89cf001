"""Caption metrics over tokenised text: CIDEr-D, BLEU-4 and ROUGE-L, equal to the COCO caption evaluation's package.

Takes tokens joined by spaces (see `ptb`).

CIDEr-D  Vedantam, Zitnick and Parikh 2015 (arXiv 1411.5726), section 5: 10 x the mean over n = 1..4 and over the
         references of the clipped TF-IDF cosine times exp(-(length difference)^2 / (2 * 6^2)). Document frequencies
         come from the references that are evaluated, so the figure of a subset is another figure.
BLEU-4   Papineni et al. 2002, over the whole set, with the closest reference length.
ROUGE-L  Lin 2004, beta 1.2, the best precision and the best recall over the references.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from vlcompare.evaluate.intervals import CorpusFigure

MAX_N = 4
CIDER_SIGMA = 6.0
ROUGE_BETA = 1.2

Floats = NDArray[np.float64]
Grams = list[Counter[tuple[str, ...]]]
_Vector = tuple[list[dict[tuple[str, ...], float]], list[float], int]

BLEU_COLUMNS = 2 + 2 * MAX_N  # candidate length, reference length, then n-grams there and n-grams matched, n = 1..4


def _grams(words: Sequence[str]) -> Grams:
    """Counts of the n-grams of each n, [0] for n = 1."""
    return [Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in range(1, MAX_N + 1)]


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """CIDEr-D of each candidate; the set's figure is their mean (1.0 is about 100 in papers that multiply by 100)."""
    reference_grams = [[_grams(text.split()) for text in texts] for texts in references]
    frequency: Counter[tuple[str, ...]] = Counter()
    for texts in reference_grams:
        frequency.update(set(chain.from_iterable(counts for grams in texts for counts in grams)))
    log_count = math.log(len(references)) if references else 0.0

    def vector(grams: Grams) -> _Vector:
        """TF-IDF vector of each n, its norm, and the length (in the package: the number of bigrams)."""
        weights = [
            {gram: count * (log_count - math.log(max(1.0, frequency[gram]))) for gram, count in counts.items()}
            for counts in grams
        ]
        norms = [math.sqrt(sum(value * value for value in part.values())) for part in weights]
        return weights, norms, sum(grams[1].values())

    scores = []
    for candidate, texts in zip(candidates, reference_grams, strict=True):
        ours = vector(_grams(candidate.split()))
        total = sum(_similarity(ours, vector(grams)) for grams in texts)
        scores.append(10.0 * total / MAX_N / len(texts))
    return np.array(scores)


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Sum over n of the clipped cosine, times the length penalty."""
    total = 0.0
    for ours, theirs, our_norm, their_norm in zip(candidate[0], reference[0], candidate[1], reference[1], strict=True):
        shared = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs)
        total += shared / (our_norm * their_norm) if our_norm and their_norm else shared
    return total * math.exp(-((candidate[2] - reference[2]) ** 2) / (2 * CIDER_SIGMA**2))


def bleu_columns(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """What each candidate adds to the set's BLEU: (n, BLEU_COLUMNS)."""
    rows = []
    for candidate, texts in zip(candidates, references, strict=True):
        words = candidate.split()
        theirs = [text.split() for text in texts]
        closest = min((abs(len(other) - len(words)), len(other)) for other in theirs)[1]
        allowed: Grams = [Counter() for _ in range(MAX_N)]
        for grams in map(_grams, theirs):
            for most, counts in zip(allowed, grams, strict=True):
                most |= counts
        matched = [(counts & most).total() for counts, most in zip(_grams(words), allowed, strict=True)]
        there = [max(0, len(words) - n) for n in range(MAX_N)]
        rows.append([len(words), closest, *there, *matched])
    return np.array(rows, dtype=np.float64).reshape(len(rows), BLEU_COLUMNS)


def bleu4(sums: Floats) -> Floats:
    """BLEU-4 of sums of `bleu_columns`, along the last axis. The tiny constants are the package's, against 0/0."""
    length, closest = sums[..., 0], sums[..., 1]
    there, matched = sums[..., 2 : 2 + MAX_N], sums[..., 2 + MAX_N :]
    precision = np.prod((matched + 1e-15) / (there + 1e-9), axis=-1) ** (1 / MAX_N)
    ratio = (length + 1e-15) / (closest + 1e-9)
    return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def _bleu4_extremes(mean: Floats) -> tuple[Floats, Floats]:
    """A caption as long as its closest reference, with every n-gram matched, and with none."""
    closest = mean[..., 1:2]
    there = np.maximum(closest - np.arange(MAX_N), 0.1)
    lengths = np.concatenate([closest, closest, there], axis=-1)
    return np.concatenate([lengths, there], axis=-1), np.concatenate([lengths, np.zeros_like(there)], axis=-1)


BLEU4 = CorpusFigure(bleu4, _bleu4_extremes)


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """ROUGE-L of each candidate."""
    return np.array([_rouge_one(text, texts) for text, texts in zip(candidates, references, strict=True)])


def _rouge_one(candidate: str, references: Sequence[str]) -> float:
    words = candidate.split(" ")
    theirs = [text.split(" ") for text in references]
    common = [_longest_common_subsequence(words, other) for other in theirs]
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, theirs, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table as the bits of one number (Hyyrö 2004, "Bit-parallel
    LCS-length computation revisited"): long texts take no longer than reading them does."""
    places: dict[str, int] = {}
    for j, word in enumerate(b):
        places[word] = places.get(word, 0) | 1 << j
    full = row = (1 << len(b)) - 1
    for word in a:
        common = row & places.get(word, 0)
        row = ((row + common) | (row - common)) & full
    return len(b) - row.bit_count()
