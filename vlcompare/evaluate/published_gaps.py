"""The published scores' gap between the two families by group and size, with and without the doubtful cells.

Everything is computed from the registry; nothing is measured here. A gap is Transformer minus Mamba, in points of the
benchmark's own scale. Means are over the benchmarks that count right answers: CIDEr-D points are another scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import get_args

from vlcompare.evaluate.published import group_of
from vlcompare.runtime.loading.registry import Checkpoint, registry
from vlcompare.tasks.prompts import Group
from vlcompare.units import listed

GROUPS: tuple[Group, ...] = tuple(reversed(get_args(Group)))  # retrieval first
_UNLIKE = 1.1  # times as many parameters: pairs further apart are said to differ in size


@dataclass(frozen=True)
class BenchmarkGap:
    """One benchmark's gaps, from the smallest pair to the largest; doubtful: pairs whose cell is doubted -> why."""

    name: str
    group: Group
    counted: bool  # into the group's mean
    gaps: tuple[float, ...]
    doubtful: dict[int, str]


@dataclass(frozen=True)
class Gaps:
    """All published gaps of the finetuned pairs."""

    pairs: tuple[tuple[Checkpoint, Checkpoint], ...]
    benchmarks: tuple[BenchmarkGap, ...]
    source: str
    url: str

    def of(self, group: Group) -> tuple[BenchmarkGap, ...]:
        return tuple(one for one in self.benchmarks if one.group == group)

    def means(self, group: Group, *, doubtful: bool = True) -> tuple[float, ...]:
        """The mean gap of a group at each pair; without the benchmarks that have a doubtful cell anywhere if asked."""
        kept = [one for one in self.of(group) if one.counted and (doubtful or not one.doubtful)]
        return tuple(mean(gaps) for gaps in zip(*(one.gaps for one in kept), strict=True))


def published_gaps() -> Gaps:
    """The gaps of all benchmarks that both models of every finetuned pair were scored on."""
    known = registry()
    pairs = known.pairs("finetuned")
    found = []
    for benchmark in known.benchmarks:
        scores = [[(side.scores or {}).get(benchmark.name) for side in pair] for pair in pairs]
        gaps = tuple(a - b for a, b in scores if a is not None and b is not None)
        if len(gaps) < len(pairs):
            continue
        doubts = {
            index: f"{side.title} {(side.scores or {})[benchmark.name]:.2f}: {side.doubtful[benchmark.name]}"
            for index, pair in enumerate(pairs)
            for side in pair
            if benchmark.name in side.doubtful
        }
        counted = benchmark.metric != "cider_d"
        found.append(BenchmarkGap(benchmark.name, group_of(benchmark.name), counted, gaps, doubts))
    return Gaps(pairs, tuple(found), known.score_source, known.score_url)


def sentences(gaps: Gaps, group: Group) -> list[str]:
    """What the group's means say about scale: with all cells, and, where one is doubtful, without its benchmark."""
    sizes = [transformer.size for transformer, _ in gaps.pairs]
    whole, careful = gaps.means(group), gaps.means(group, doubtful=False)
    first = f"the mean gap is {_amounts(whole)} points at {listed(sizes)}{_favour(whole)}: {_shape(whole, sizes)}."
    if whole == careful:
        return [first[0].upper() + first[1:]]
    names = " and ".join(one.name for one in gaps.of(group) if one.counted and one.doubtful)
    second = f"Without {names} it is {_amounts(careful)}{_favour(careful)}: {_shape(careful, sizes)}."
    counts = [side.parameters or 0 for side in gaps.pairs[0]]
    if careful[0] == max(careful) and min(counts) and max(counts) > _UNLIKE * min(counts):
        more = " and ".join(f"{count / 1e9:.2f}" for count in counts)
        second += f" That smallest pair is an unequal one: {more} billion parameters."
    return [f"With all cells {first}", second]


def _favour(values: Sequence[float]) -> str:
    if all(value > 0 for value in values):
        return ", in the Transformer's favour"
    return ", in Mamba's favour" if all(value < 0 for value in values) else ""


def _shape(values: Sequence[float], sizes: Sequence[str]) -> str:
    """How a gap changes from the smallest size to the largest."""
    if min(values) < 0 < max(values):
        return "it changes sides"
    amounts = [abs(value) for value in values]
    steps = [b - a for a, b in pairwise(amounts)]
    if all(step > 0 for step in steps):
        return "it widens with every step"
    if all(step < 0 for step in steps):
        return "it narrows with every step"
    most = max(range(len(amounts)), key=amounts.__getitem__)
    start = next(index for index in range(len(steps), -1, -1) if index == 0 or steps[index - 1] <= 0)
    grows = f", and widens from {sizes[start]} to {sizes[-1]} alone" if start < len(steps) else ""
    return f"it is largest at {sizes[most]}{grows}"


def _amounts(values: Sequence[float]) -> str:
    """The amounts; with signs where these differ."""
    mixed = min(values) < 0 < max(values)
    return listed([f"{value:+.2f}" if mixed else f"{abs(value):.2f}" for value in values])
