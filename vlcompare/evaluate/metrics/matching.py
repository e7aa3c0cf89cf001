"""How many of one kind can each have one of another kind to itself. Knows only which fits which."""

from __future__ import annotations

from collections.abc import Sequence


def most_pairs(fitting: Sequence[Sequence[int]]) -> int:
    """The most pairs there can be where `fitting[i]` are the partners that fit i (bipartite, by augmenting paths)."""
    taken: dict[int, int] = {}  # partner -> who has it

    def place(one: int, tried: set[int]) -> bool:
        for partner in fitting[one]:
            if partner not in tried:
                tried.add(partner)
                if partner not in taken or place(taken[partner], tried):
                    taken[partner] = one
                    return True
        return False

    return sum(place(one, set()) for one in range(len(fitting)))
