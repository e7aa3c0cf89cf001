"""Random choices from a seed: the same on every machine, in two streams that share no scene.

The streams "evaluation" and "training" take their numbers from SeedSequence children with different spawn keys, so no
seed of one gives the numbers of the other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from vlcompare.errors import RequestError

StreamName = Literal["evaluation", "training"]
STREAMS: dict[str, int] = {"evaluation": 1, "training": 2}  # spawn keys
_T = TypeVar("_T")


class Dice:
    """Random choices that use nothing but `Random.random`, whose numbers are the same in every Python.

    Raises RequestError for a negative seed or an unknown stream.
    """

    def __init__(self, seed: int, stream: str, purpose: int) -> None:
        if stream not in STREAMS:
            raise RequestError(f"Unknown stream {stream!r}; the streams are {', '.join(STREAMS)}.")
        if seed < 0:
            raise RequestError(f"A seed is a whole number from 0 on, not {seed}.")
        state = np.random.SeedSequence(seed, spawn_key=(STREAMS[stream], purpose)).generate_state(4)
        self.share = random.Random(int.from_bytes(state.astype("<u4").tobytes(), "little")).random  # 0 <= share() < 1

    def child(self) -> Dice:
        """New dice, seeded by these: what they choose does not change what these choose next."""
        dice = Dice.__new__(Dice)
        dice.share = random.Random(int(self.share() * 2**53)).random
        return dice

    def below(self, count: int) -> int:
        return int(self.share() * count)

    def place(self, count: int) -> int:
        """The place of a chosen item among `count`: each is as likely."""
        return self.below(count)

    def one(self, items: Sequence[_T]) -> _T:
        return items[self.place(len(items))]

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.share()

    def some(self, items: Sequence[_T], count: int) -> list[_T]:
        """`count` different items, in random order."""
        rest = list(items)
        return [rest.pop(self.place(len(rest))) for _ in range(min(count, len(rest)))]


class LongTailDice(Dice):
    """Dice that take the n-th of several items 1/n times as often as the first: Zipf's law.

    A choice uses as many random numbers as with plain dice.
    """

    def place(self, count: int) -> int:
        weights = [1 / rank for rank in range(1, count + 1)]
        left = self.share() * sum(weights)
        for place, weight in enumerate(weights[:-1]):
            left -= weight
            if left < 0:
                return place
        return count - 1
