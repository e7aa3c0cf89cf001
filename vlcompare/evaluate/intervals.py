"""95 % intervals of means, paired differences and corpus figures over rows that come in clusters (pictures).

One method for all of them, because all are functions of column sums: a mean is sum(x) / sum(1), F1 and BLEU are ratios
of counts, and a paired difference is one such figure minus another.

    f(S)      the figure, as a function of the sums S of the rows' columns
    u_i       grad f(S) . row_i: how far row i moves the figure (the delta method; Binder 1983 for clusters)
    n, C      rows; clusters, counted as (sum n_c)^2 / sum n_c^2, which is their number where all are alike (Kish 1965)
    D         design effect: variance of f by the jackknife over clusters, over that of independent rows (Kish 1965), at
              least 1
    best,     two pseudo-rows at the two ends of what a row can be: x = 1 and x = 0 of a fraction, left right and right
    worst     wrong (and the reverse) of a pair, a perfect and an entirely wrong caption
    a         how many of each are added
    t         97.5 % point of Student's t with C - 1 degrees of freedom

The interval is f(S*) +- t sqrt(V*), of the sample enlarged by the pseudo-rows: S* = S / D + a (best + worst), and
V* = sum u_i^2 / D + a (u_best^2 + u_worst^2), with u at S*. It is then widened to hold f(S) and cut at the figure's
bounds. Why the pseudo-rows: without them the interval is a point where all rows are alike, though rows that differ may
only not have been drawn, and its coverage falls to one half and below (Brown, Cai and DasGupta 2001).

For a fraction of independent rows this is the interval of Agresti and Coull (1998), a = z^2 / 2. For a paired
difference of fractions a = 1 is that of Bonett and Price (2012); a = 1.5 holds .94 at every rate of disagreement from
30 rows on, and first excludes 0 at six rows against none, as McNemar's exact test does (1947). For means of values
between the bounds (IoU, soft accuracy) and for corpus figures it is the same with other columns.

D is estimated, and a few clusters say little about it: half a pseudo-cluster whose rows all go to one end together is
added, so that D is the size of a cluster where nothing varied, and the data's own where much did.

Where a few clusters hold most rows (C below half of the clusters), the normal approximation covers .89 to .93 at an
intraclass correlation of .8; such intervals are widened by a quarter, which brings them to .93 and above.

A simulation of the coverage is part of the benches: `vlcompare bench --what coverage`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
PSEUDO_ROWS = Z95**2 / 2  # of each kind, for one figure
PSEUDO_PAIRS = 1.5  # of each kind, for a paired difference
PSEUDO_CLUSTERS = 0.5
FEW_CLUSTERS = 10  # below this an interval is marked
UNEVEN, WIDER = 0.5, 1.25  # below this share of clusters that count, intervals are this much wider, and marked
_STEP = 1e-5  # of a sum, for the gradient
_T975 = (np.inf, 12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157)

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


class CorpusFigure(NamedTuple):
    """A figure that is a function of column sums.

    `of_sums` maps sums (..., k) to figures (...,). `extremes` maps the mean columns (..., k) to the two pseudo-rows
    (best, worst) that a row could be at its best and at its worst.
    """

    of_sums: Callable[[Floats], Floats]
    extremes: Callable[[Floats], tuple[Floats, Floats]]


class _Clusters(NamedTuple):
    """Rows put in order of their clusters: `order` (n,), or None where they are; where each cluster starts; sizes."""

    order: NDArray[np.intp] | None
    starts: NDArray[np.intp]
    sizes: Floats

    @classmethod
    def of(cls, codes: Codes) -> _Clusters:
        order = None if len(codes) < 2 or (codes[1:] >= codes[:-1]).all() else np.argsort(codes, kind="stable")
        ordered = codes if order is None else codes[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        return cls(order, starts, np.diff(np.r_[starts, len(codes)]).astype(np.float64))

    @property
    def kish(self) -> float:
        """How many clusters of one size would know as much."""
        return float(self.sizes.sum() ** 2 / (self.sizes**2).sum())

    @property
    def uneven(self) -> bool:
        """Whether a few large clusters decide the figure, while D is estimated from many small ones."""
        return self.kish < UNEVEN * len(self.sizes)

    def sums(self, rows: Floats) -> Floats:
        """(..., n) -> (..., clusters)."""
        return np.add.reduceat(rows if self.order is None else rows[..., self.order], self.starts, axis=-1)


def cluster_count(codes: Codes) -> float:
    """How many clusters of one size would know as much as these; 0 where there is no row."""
    return _Clusters.of(codes).kish if len(codes) else 0.0


def t975(degrees: float) -> float:
    """97.5 % point of Student's t; a part of a degree of freedom is dropped. Infinite below one degree.

    Exact to six digits: a table below ten degrees, and the Cornish-Fisher expansion from there on (Abramowitz and
    Stegun 1964, 26.7.5).
    """
    whole = int(degrees + 1e-9)
    if whole < len(_T975):
        return float(_T975[max(whole, 0)])
    z, terms = Z95, 0.0
    for power, polynomial in enumerate(
        (
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
        ),
        1,
    ):
        terms += polynomial / whole**power
    return z + terms


# ---- the method ------------------------------------------------------------------------------------------------------


def enlarged(
    figure: CorpusFigure, columns: Floats, codes: Codes, pseudo: float, bounds: tuple[Floats | float, Floats | float]
) -> Floats:
    """Intervals (..., 2) of a figure over rows `columns` (..., n, k) in clusters `codes` (n,); nan where n is 0.

    Leading axes are independent data sets in the same clusters. `pseudo` rows of each kind are added.
    """
    n = columns.shape[-2]
    if n == 0:
        return np.full((*columns.shape[:-2], 2), np.nan)
    clusters, sums = _Clusters.of(codes), columns.sum(axis=-2)
    best, worst = figure.extremes(sums / n)
    added = pseudo * (best + worst)
    effect = _design_effect(_moves(figure, sums + added, columns, best, worst), clusters)
    enlarged_sums = sums / effect[..., None] + added
    rows, at_best, at_worst = _moves(figure, enlarged_sums, columns, best, worst)
    variance = (rows**2).sum(axis=-1) / effect + pseudo * (at_best**2 + at_worst**2)
    half = t975(clusters.kish - 1) * np.sqrt(variance) * (WIDER if clusters.uneven else 1.0)
    seen, centre = figure.of_sums(sums), figure.of_sums(enlarged_sums)
    low = np.maximum(bounds[0], np.minimum(centre - half, seen))
    high = np.minimum(bounds[1], np.maximum(centre + half, seen))
    return np.stack([low, high], axis=-1)


def _moves(
    figure: CorpusFigure, sums: Floats, columns: Floats, best: Floats, worst: Floats
) -> tuple[Floats, Floats, Floats]:
    """How far each row (..., n), the best and the worst pseudo-row (...,) move the figure at `sums`."""
    gradient = _gradient(figure.of_sums, sums)
    rows = np.matmul(columns, gradient[..., None])[..., 0]
    return rows, (best * gradient).sum(axis=-1), (worst * gradient).sum(axis=-1)


def _gradient(of_sums: Callable[[Floats], Floats], sums: Floats) -> Floats:
    """Central differences of `of_sums` at sums (..., k)."""
    steps = _STEP * np.maximum(np.abs(sums), 1.0)
    parts = []
    for k in range(sums.shape[-1]):
        shift = np.zeros_like(sums)
        shift[..., k] = steps[..., k]
        parts.append((of_sums(sums + shift) - of_sums(sums - shift)) / (2 * steps[..., k]))
    return np.stack(parts, axis=-1)


def _design_effect(moves: tuple[Floats, Floats, Floats], clusters: _Clusters) -> Floats:
    """D of each data set, between 1 and n."""
    rows, at_best, at_worst = moves
    n, count = rows.shape[-1], len(clusters.sizes)
    if count in (1, n):
        return np.full(rows.shape[:-1], 1.0 if count == n else float(n))
    mean = rows.mean(axis=-1)
    residuals = rows - mean[..., None]
    left_out = clusters.sums(residuals) / (1 - clusters.sizes / n)  # how far the figure moves without a cluster
    together = (left_out**2).sum(axis=-1) * (count - 1) / count
    apart = (residuals**2).sum(axis=-1) * n / (n - 1)
    size = n / clusters.kish
    end = PSEUDO_CLUSTERS * np.maximum(np.abs(at_best - mean), np.abs(at_worst - mean)) ** 2
    return np.clip((together + end * size**2) / (apart + end * size), 1.0, float(n))


# ---- what it is used for ---------------------------------------------------------------------------------------------


def mean_intervals(values: Floats, codes: Codes, *, fraction: bool = True) -> Floats:
    """Intervals (..., 2) of the means of `values` (..., n).

    `fraction`: the values lie within 0..1. Others range from 0, or from the smallest seen if that is less, to the
    largest seen, or 1.
    """
    low, high = np.zeros(values.shape[:-1]), np.ones(values.shape[:-1])
    bounds = (low, high)
    if values.shape[-1] and not fraction:
        low, high = np.minimum(values.min(axis=-1), 0.0), np.maximum(values.max(axis=-1), 1.0)
        bounds = (np.where(low < 0, -np.inf, 0.0), np.full_like(high, np.inf))
    return enlarged(_mean_between(low, high), _with_ones(values), codes, PSEUDO_ROWS, bounds)


def paired_intervals(left: Floats, right: Floats, codes: Codes, *, fraction: bool = True) -> Floats:
    """Intervals (..., 2) of the means of left - right (..., n), over the same rows."""
    reach = np.ones(left.shape[:-1])
    if left.shape[-1] and not fraction:
        reach = np.maximum(np.maximum(np.abs(left).max(axis=-1), np.abs(right).max(axis=-1)), 1.0)
    bound = 1.0 if fraction else np.inf
    return enlarged(_mean_between(-reach, reach), _with_ones(left - right), codes, PSEUDO_PAIRS, (-bound, bound))


def corpus_intervals(figure: CorpusFigure, columns: Floats, codes: Codes) -> Floats:
    """Intervals (..., 2) of a corpus figure within 0..1, over rows `columns` (..., n, k)."""
    return enlarged(figure, columns, codes, PSEUDO_ROWS, (0.0, 1.0))


def corpus_paired_intervals(figure: CorpusFigure, left: Floats, right: Floats, codes: Codes) -> Floats:
    """Intervals (..., 2) of the left minus the right corpus figure, over rows `left` and `right` (..., n, k)."""
    k = left.shape[-1]

    def difference(sums: Floats) -> Floats:
        return figure.of_sums(sums[..., :k]) - figure.of_sums(sums[..., k:])

    def extremes(mean: Floats) -> tuple[Floats, Floats]:
        ours, theirs = figure.extremes(mean[..., :k]), figure.extremes(mean[..., k:])
        return np.concatenate([ours[0], theirs[1]], axis=-1), np.concatenate([ours[1], theirs[0]], axis=-1)

    return enlarged(
        CorpusFigure(difference, extremes), np.concatenate([left, right], axis=-1), codes, PSEUDO_PAIRS, (-1.0, 1.0)
    )


def _with_ones(values: Floats) -> Floats:
    return np.stack([values, np.ones_like(values)], axis=-1)


def _mean_between(low: Floats, high: Floats) -> CorpusFigure:
    """The mean, of columns (value, 1), where values lie between low and high (...,)."""
    ends = (_with_ones(high), _with_ones(low))
    return CorpusFigure(lambda sums: sums[..., 0] / sums[..., 1], lambda mean: ends)
