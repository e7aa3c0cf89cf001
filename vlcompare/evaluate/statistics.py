"""Figures with their uncertainty: means, paired differences and corpus figures, each with a 95 % interval.

Takes numbers and cluster labels. Rows of one picture are not independent (a referring-expression set asks several
phrases a picture), so every variance here is taken over pictures, not over rows.

    m    mean of the n values x_i                       C   number of clusters (pictures)
    V    cluster-robust variance of m:  C / (C - 1) * sum_c (sum_{i in c} (x_i - m))^2 / n^2
         (Liang and Zeger 1986, for a mean; the same as the ratio estimator of a cluster sample)
    z    1.96, the 97.5 % point of the normal distribution

Fractions (values within 0..1) get Wilson's score interval (Wilson 1927) at the effective sample size
n' = m (1 - m) / V (Korn and Graubard 1998): to first order it is m +- z sqrt(V), it stays within 0..1, and it does not
collapse to a point where all values are alike (there n' = C). Paired differences of fractions join two such intervals
by the square-and-add rule with the pairs' own correlation (Newcombe 1998, method 10; Zou and Donner 2008). Other means
get m +- z sqrt(V). Figures that are no mean (BLEU, F1) get a seeded bootstrap over clusters (percentiles).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z95 = 1.959963984540054
BOOTSTRAP_DRAWS = 1000
BOOTSTRAP_SEED = 20240905
_WEIGHTS_AT_ONCE = 4_000_000  # bootstrap weights held in memory at a time: 32 MB

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    low: float
    high: float


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


def cluster_sums(values: Floats, clusters: NDArray[np.int64], count: int) -> Floats:
    return np.bincount(clusters, weights=values, minlength=count).astype(np.float64)


def mean_and_variance(values: ArrayLike, clusters: NDArray[np.int64]) -> tuple[float, float, int]:
    """(mean, cluster-robust variance of the mean, number of clusters). The variance of one cluster alone is nan."""
    x = np.asarray(values, dtype=np.float64)
    covariance, means, count = _covariance(x[None, :], clusters)
    return float(means[0]), float(covariance[0, 0]), count


def mean_interval(values: ArrayLike, clusters: NDArray[np.int64], *, fraction: bool = True) -> Interval:
    """The 95 % interval of a mean, clustered. `fraction`: the values lie within 0..1."""
    if len(np.asarray(values)) == 0:
        return Interval(float("nan"), float("nan"))
    mean, variance, count = mean_and_variance(values, clusters)
    if fraction:
        return wilson(mean, effective_size(mean, variance, count))
    half = Z95 * np.sqrt(variance) if count > 1 else float("inf")
    return Interval(float(mean - half), float(mean + half))


def effective_size(mean: float, variance: float, clusters: int) -> float:
    """How many independent 0/1 values would know the mean this well; the number of clusters where all are alike."""
    spread = mean * (1 - mean)
    if not np.isfinite(variance) or variance <= 1e-15 or spread <= 1e-15:
        return float(clusters)
    return spread / variance


def wilson(mean: float, n: float) -> Interval:
    """Wilson's score interval of a fraction seen on n independent values."""
    centre = (mean + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n**2))
    return Interval(float(max(0.0, min(mean, centre - half))), float(min(1.0, max(mean, centre + half))))


def paired_difference(
    left: ArrayLike, right: ArrayLike, clusters: NDArray[np.int64], *, fraction: bool = True
) -> tuple[float, Interval]:
    """Mean of left - right over the same rows, with its 95 % interval, clustered."""
    a, b = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if len(a) == 0:
        return float("nan"), Interval(float("nan"), float("nan"))
    difference = float(a.mean() - b.mean())
    if not fraction:
        low, high = mean_interval(a - b, clusters, fraction=False)
        return difference, Interval(low, high)
    covariance, (mean_a, mean_b), count = _covariance(np.stack([a, b]), clusters)
    low_a, high_a = wilson(mean_a, effective_size(mean_a, covariance[0, 0], count))
    low_b, high_b = wilson(mean_b, effective_size(mean_b, covariance[1, 1], count))
    product = covariance[0, 0] * covariance[1, 1]
    correlation = covariance[0, 1] / np.sqrt(product) if product > 1e-30 else 0.0
    low = difference - _square_and_add(mean_a - low_a, high_b - mean_b, correlation)
    high = difference + _square_and_add(high_a - mean_a, mean_b - low_b, correlation)
    return difference, Interval(float(max(-1.0, low)), float(min(1.0, high)))


def paired(
    left: ArrayLike, right: ArrayLike, clusters: NDArray[np.int64], *, fraction: bool = True, right_at: float = 0.5
) -> Paired:
    """The paired difference, with the four counts; a row is right where its value reaches `right_at`."""
    a, b = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    difference, interval = paired_difference(a, b, clusters, fraction=fraction)
    return Paired(difference, interval, len(a), _count(clusters), *quadrants(a, b, right_at))


def quadrants(left: Floats, right: Floats, right_at: float = 0.5) -> tuple[int, int, int, int]:
    """(both right, only left, only right, neither)."""
    a, b = left >= right_at - 1e-9, right >= right_at - 1e-9
    return int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum())


def bootstrap_interval(
    statistic: Callable[[Floats], Floats],
    columns: Floats,
    clusters: NDArray[np.int64],
    *,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = BOOTSTRAP_SEED,
) -> Interval:
    """Percentile interval of a figure that is a function of column sums, resampling whole clusters.

    `columns` is (n, k): what each row adds to the sums. `statistic` maps sums (draws, k) to figures (draws,).
    """
    if len(columns) == 0:
        return Interval(float("nan"), float("nan"))
    _, clusters = np.unique(clusters, return_inverse=True)
    count = int(clusters.max()) + 1
    sums = np.stack([cluster_sums(columns[:, k], clusters, count) for k in range(columns.shape[1])], axis=1)
    rng = np.random.default_rng(seed)
    figures = []
    step = max(1, _WEIGHTS_AT_ONCE // count)
    for start in range(0, draws, step):
        picked = rng.multinomial(count, np.full(count, 1 / count), size=min(step, draws - start))
        figures.append(statistic(picked @ sums))
    low, high = np.percentile(np.concatenate(figures), [2.5, 97.5])
    return Interval(float(low), float(high))


def _square_and_add(a: float, b: float, correlation: float) -> float:
    return float(np.sqrt(max(0.0, a * a + b * b - 2 * correlation * a * b)))


def _covariance(rows: Floats, clusters: NDArray[np.int64]) -> tuple[Floats, Floats, int]:
    """Cluster-robust covariance of the means of k columns of values, given as (k, n)."""
    n, count = rows.shape[1], _count(clusters)
    means = rows.mean(axis=1)
    if count < 2:
        return np.full((len(rows), len(rows)), np.nan), means, count
    residuals = np.stack([cluster_sums(row - mean, clusters, count) for row, mean in zip(rows, means, strict=True)])
    return residuals @ residuals.T * (count / (count - 1) / n**2), means, count


def _count(clusters: NDArray[np.int64]) -> int:
    """Number of clusters that occur (labels may have gaps in a slice of a larger set)."""
    return int(len(np.unique(clusters)))
