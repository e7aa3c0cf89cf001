"""Intervals: against closed forms, against a plain bootstrap, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from vlcompare.evaluate import statistics

ALONE = np.arange


def test_wilson_by_hand():
    # 15 of 20: a textbook value
    low, high = statistics.wilson(0.75, 20)
    assert (low, high) == pytest.approx((0.5313, 0.8881), abs=1e-4)


def test_independent_fractions_get_about_wilsons_interval():
    values = np.array([1.0] * 75 + [0.0] * 25)
    low, high = statistics.mean_interval(values, ALONE(100))
    assert (low, high) == pytest.approx(statistics.wilson(0.75, 99), abs=1e-9)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_alike_values_do_not_collapse_to_a_point(value):
    low, high = statistics.mean_interval(np.full(30, value), ALONE(30))
    assert low <= value <= high and high - low > 0.05


def test_repeated_rows_of_a_picture_do_not_narrow_the_interval():
    values = np.array([1.0, 0, 1, 1, 0, 1, 1, 0, 1, 1])
    once = statistics.mean_interval(values, ALONE(10))
    ten_times = statistics.mean_interval(np.repeat(values, 10), np.repeat(ALONE(10), 10))
    assert ten_times == pytest.approx(once, abs=1e-9)


def test_clustered_interval_is_that_of_a_bootstrap_over_pictures():
    dice = np.random.default_rng(1)
    clusters = np.repeat(ALONE(300), 4)
    values = (dice.random(300)[clusters] + 0.3 * dice.random(1200) > 0.6).astype(float)
    means = []
    for _ in range(2000):
        means.append(values.reshape(300, 4)[dice.integers(0, 300, 300)].mean())
    assert statistics.mean_interval(values, clusters) == pytest.approx(
        tuple(np.percentile(means, [2.5, 97.5])), abs=0.01
    )


def test_paired_difference_against_a_bootstrap_over_pictures():
    dice = np.random.default_rng(2)
    clusters = np.repeat(ALONE(250), 3)
    hard = dice.random(250)[clusters]
    left = (hard + 0.4 * dice.random(750) < 0.9).astype(float)
    right = (hard + 0.4 * dice.random(750) < 0.7).astype(float)
    difference, interval = statistics.paired_difference(left, right, clusters)
    grouped = (left - right).reshape(250, 3)
    boot = [grouped[dice.integers(0, 250, 250)].mean() for _ in range(3000)]
    assert difference == pytest.approx((left - right).mean())
    assert interval == pytest.approx(tuple(np.percentile(boot, [2.5, 97.5])), abs=0.012)


def test_paired_counts_and_sign():
    left, right = [1, 1, 0, 0, 1], [1, 0, 1, 0, 0]
    result = statistics.paired(left, right, ALONE(5))
    assert (result.both, result.only_left, result.only_right, result.neither) == (1, 2, 1, 1)
    assert result.difference == pytest.approx(0.2)
    assert result.ci95.low < 0.2 < result.ci95.high
    assert (result.n, result.n_images) == (5, 5)
    swapped = statistics.paired(right, left, ALONE(5))
    assert swapped.difference == -result.difference
    assert (swapped.ci95.low, swapped.ci95.high) == pytest.approx((-result.ci95.high, -result.ci95.low))


def test_pairing_narrows_the_interval_where_both_sides_agree():
    dice = np.random.default_rng(3)
    right = (dice.random(400) < 0.5).astype(float)
    left = right.copy()
    left[:20] = 1 - left[:20]
    _, paired = statistics.paired_difference(left, right, ALONE(400))
    _, shuffled = statistics.paired_difference(left, dice.permutation(right), ALONE(400))
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


def test_two_perfect_sides_keep_an_interval_around_zero():
    difference, (low, high) = statistics.paired_difference(np.ones(50), np.ones(50), ALONE(50))
    assert difference == 0 and low < 0 < high


def test_coverage_of_a_clustered_fraction():
    dice = np.random.default_rng(4)
    hits = 0
    for _ in range(300):
        rate = dice.beta(4, 2, size=60)
        values = (dice.random((60, 5)) < rate[:, None]).astype(float).ravel()
        low, high = statistics.mean_interval(values, np.repeat(ALONE(60), 5))
        hits += low <= 4 / 6 <= high
    assert 0.91 <= hits / 300 <= 0.99


def test_bootstrap_of_a_mean_is_near_the_closed_form_and_repeats():
    dice = np.random.default_rng(5)
    values = dice.normal(2.0, 1.0, size=400)
    columns = np.stack([values, np.ones(400)], axis=1)
    first = statistics.bootstrap_interval(lambda sums: sums[..., 0] / sums[..., 1], columns, ALONE(400))
    assert first == statistics.bootstrap_interval(lambda sums: sums[..., 0] / sums[..., 1], columns, ALONE(400))
    assert first == pytest.approx(statistics.mean_interval(values, ALONE(400), fraction=False), abs=0.02)


def test_labels_with_gaps_and_empty_sets():
    values = np.array([1.0, 0.0, 1.0])
    assert statistics.mean_interval(values, np.array([5, 90, 7])) == statistics.mean_interval(values, ALONE(3))
    assert all(np.isnan(statistics.mean_interval([], ALONE(0))))
    one = statistics.bootstrap_interval(lambda s: s[..., 0], values[:, None], np.array([5, 90, 7]))
    assert one == statistics.bootstrap_interval(lambda s: s[..., 0], values[:, None], ALONE(3))


def test_cluster_codes_follow_first_appearance():
    assert list(statistics.cluster_codes(["b", "a", "b", "c"])) == [0, 1, 0, 2]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_pictures_give_wide_intervals_not_errors(n):
    low, high = statistics.mean_interval(np.ones(n), ALONE(n))
    assert 0 <= low < 1 == high
