"""Figures with their uncertainty: means, paired differences and corpus figures, each with a 95 % interval.

Takes numbers and cluster labels. Rows of one picture are not independent (a referring-expression set asks several
phrases a picture), so every interval here is taken over pictures, not over rows; `intervals` has the method and its
sources.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vlcompare.evaluate import intervals
from vlcompare.evaluate.intervals import FEW_CLUSTERS, CorpusFigure
from vlcompare.units import how_many

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    low: float
    high: float

    @property
    def says_nothing(self) -> bool:
        """Whether it is the whole range of shares, or of their differences: there are too few pictures."""
        return self.high >= 1.0 and (self.low == 0.0 or self.low <= -1.0)


@dataclass(frozen=True, slots=True)
class Paired:
    """Left minus right over the same rows, with the counts of rows that both, one or neither have right."""

    difference: float
    ci95: Interval
    n: int
    n_images: int
    both: int
    only_left: int
    only_right: int
    neither: int


def cluster_codes(keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """Number the distinct keys 0, 1, .. in order of first appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)


def mean_interval(values: ArrayLike, clusters: NDArray[np.int64], *, fraction: bool = True) -> Interval:
    """The 95 % interval of a mean, clustered; nan of no values. `fraction`: the values lie within 0..1."""
    x = np.asarray(values, dtype=np.float64)
    return _interval(intervals.mean_intervals(x, clusters, fraction=fraction))


def paired_difference(
    left: ArrayLike, right: ArrayLike, clusters: NDArray[np.int64], *, fraction: bool = True
) -> tuple[float, Interval]:
    """Mean of left - right over the same rows, with its 95 % interval, clustered; nan of no rows."""
    a, b = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    difference = float(a.mean() - b.mean()) if len(a) else math.nan
    return difference, _interval(intervals.paired_intervals(a, b, clusters, fraction=fraction))


def paired(
    left: ArrayLike, right: ArrayLike, clusters: NDArray[np.int64], *, fraction: bool = True, right_at: float = 0.5
) -> Paired:
    """The paired difference, with the four counts; a row is right where its value reaches `right_at`."""
    a, b = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    difference, interval = paired_difference(a, b, clusters, fraction=fraction)
    return Paired(difference, interval, len(a), len(np.unique(clusters)), *quadrants(a, b, right_at))


def quadrants(left: Floats, right: Floats, right_at: float = 0.5) -> tuple[int, int, int, int]:
    """(both right, only left, only right, neither)."""
    a, b = left >= right_at - 1e-9, right >= right_at - 1e-9
    return int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum())


def corpus_interval(figure: CorpusFigure, columns: Floats, clusters: NDArray[np.int64]) -> Interval:
    """The 95 % interval of a corpus figure, clustered. `columns` is (n, k): what each row adds to the sums."""
    return _interval(intervals.corpus_intervals(figure, columns, clusters))


def corpus_paired_interval(figure: CorpusFigure, left: Floats, right: Floats, clusters: NDArray[np.int64]) -> Interval:
    """The 95 % interval of the left minus the right corpus figure over the same rows, clustered."""
    return _interval(intervals.corpus_paired_intervals(figure, left, right, clusters))


def caution(clusters: NDArray[np.int64]) -> str:
    """What to say beside intervals over few pictures; "" where there are enough.

    Pictures with many more rows than the others count for less: see `intervals.cluster_count`.
    """
    count = intervals.cluster_count(clusters)
    seen = len(np.unique(clusters))
    if count >= FEW_CLUSTERS - 1e-9:
        if count >= intervals.UNEVEN * seen:
            return ""
        return f"{how_many(seen, 'picture')}, as uneven as {count:.1f} alike: widened by {intervals.WIDER - 1:.0%}"
    if count < 2 - 1e-9:
        return f"{how_many(seen, 'picture')}: too few for an interval, it is the whole range"
    uneven = "" if seen - count < 0.5 else f", as uneven as {count:.1f} alike"
    freedom = int(count - 1 + 1e-9)
    return (
        f"{how_many(seen, 'picture')} only{uneven}: wide by Student's t with {how_many(freedom, 'degree')} of freedom"
    )


def _interval(bounds: Floats) -> Interval:
    return Interval(float(bounds[0]), float(bounds[1]))
