"""How many of one kind can each have one of another kind to itself. Knows only which fits which."""

from __future__ import annotations

from collections.abc import Sequence


def most_pairs(fitting: Sequence[Sequence[int]]) -> int:
    """The most pairs there can be where `fitting[i]` are the partners that fit i (bipartite, by augmenting paths).

    Without recursion: a path may lead through thousands of pairs.
    """
    owner: dict[int, int] = {}  # partner -> who has it
    partner_of: dict[int, int] = {}
    for one in range(len(fitting)):
        wanted_by: dict[int, int] = {}  # partner -> who would take it, on the shortest path from `one`
        waiting: list[int] = [one]
        free: int | None = None
        for who in waiting:
            for partner in fitting[who]:
                if partner in wanted_by:
                    continue
                wanted_by[partner] = who
                if partner not in owner:
                    free = partner
                    break
                waiting.append(owner[partner])
            if free is not None:
                break
        while free is not None:  # everybody on the path moves on to the partner that was found for them
            who, taken = wanted_by[free], free
            free = partner_of.get(who)
            owner[taken], partner_of[who] = who, taken
    return len(partner_of)
