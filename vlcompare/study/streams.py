"""Random numbers that depend on (key, seed, index) alone, and the rule that parts training sequences from evaluation's.

Every item has its own stretch of a counter-based generator (Philox 4x64, Salmon et al. 2011, in numpy's raw form, which
does not change between versions): item i is the same however many are drawn at once, and any stretch costs the same.
Every sequence belongs to one of the two streams for good, by a hash of its symbols; a stream keeps drawing until it has
one of its own. So no sequence of the evaluation stream is ever trained on, whatever the seeds.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

RandomWords = NDArray[np.uint64]
Integers = NDArray[np.int64]

HELD_OUT = 8  # one sequence in eight belongs to evaluation
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64's finaliser (Steele et al. 2014)
_FACTORS = np.random.Philox(key=[20240905, 0]).random_raw(4096) | np.uint64(1)


class Stream(IntEnum):
    TRAINING = 0
    EVALUATION = 1


def words(key: str, seed: int, stream: Stream, attempt: int, start: int, count: int, size: int) -> RandomWords:
    """(count, size) random words for items start .. start + count - 1; `attempt` numbers the draws of one item."""
    digest = hashlib.blake2b(f"{key}/{seed}/{int(stream)}/{attempt}".encode(), digest_size=16).digest()
    generator = np.random.Philox(key=np.frombuffer(digest, np.uint64))
    blocks = -(-size // 4)  # a step of the counter gives four words
    generator.advance(start * blocks)
    return generator.random_raw(count * blocks * 4).reshape(count, blocks * 4)[:, :size]


def below(word: RandomWords, bound: int) -> Integers:
    """Whole numbers in 0 .. bound - 1, equally likely to within bound / 2^32 (Lemire's multiplication)."""
    return (((word >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def stream_of(sequences: Integers) -> Integers:
    """(B, L) symbols -> (B,): the Stream to which each sequence belongs; other lengths are other sequences."""
    length = sequences.shape[1]
    value = ((sequences + 1).astype(np.uint64) * _FACTORS[:length]).sum(1, dtype=np.uint64) + np.uint64(length)
    for shift, factor in zip((30, 27), _MIX, strict=True):
        value = (value ^ (value >> np.uint64(shift))) * factor
    value ^= value >> np.uint64(31)
    return np.where(value % np.uint64(HELD_OUT) == 0, Stream.EVALUATION, Stream.TRAINING).astype(np.int64)
