"""Intervals: against closed forms, against a plain bootstrap, by their coverage, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from vlcompare.evaluate import intervals, statistics
from vlcompare.evaluate.metrics.answers import F1, f1_columns
from vlcompare.evaluate.metrics.captions import BLEU4, bleu_columns

ALONE = np.arange


@pytest.mark.parametrize(
    ("degrees", "point"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (5, 2.57058),
        (9, 2.26216),
        (10, 2.22814),
        (15, 2.13145),
        (29, 2.04523),
        (99, 1.98422),
    ],
)
def test_points_of_students_t(degrees, point):
    assert intervals.t975(degrees) == pytest.approx(point, rel=1e-5)
    assert intervals.t975(degrees + 0.9) == intervals.t975(degrees)


def test_independent_fractions_get_the_interval_of_agresti_and_coull():
    values = np.array([1.0] * 75 + [0.0] * 25)
    added = 1.959964**2 / 2
    n, share = 100 + 2 * added, (75 + added) / (100 + 2 * added)
    half = 1.984217 * np.sqrt(share * (1 - share) / n)
    assert statistics.mean_interval(values, ALONE(100)) == pytest.approx((share - half, share + half), abs=1e-5)


def test_paired_fractions_get_bonett_and_prices_interval_with_its_own_count_of_pseudo_pairs():
    left = np.array([1.0] * 12 + [0.0] * 3 + [1.0] * 35)
    right = np.array([0.0] * 12 + [1.0] * 3 + [1.0] * 35)
    n, centre = 50 + 3, 9 / 53
    half = 2.009575 * np.sqrt((15 + 3 - 9**2 / n) / n**2)
    assert statistics.paired_difference(left, right, ALONE(50))[1] == pytest.approx(
        (centre - half, centre + half), abs=1e-5
    )


@pytest.mark.parametrize("rows", [30, 100, 1000])
def test_the_paired_interval_first_excludes_zero_where_mcnemars_exact_test_does(rows):
    """Five rows against none: p = .0625; six: p = .03125."""
    right = np.ones(rows)
    for lost, clear in ((5, False), (6, True)):
        left = right.copy()
        left[:lost] = 0
        _, (_, high) = statistics.paired_difference(left, right, ALONE(rows))
        assert (high < 0) == clear


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_alike_values_do_not_collapse_to_a_point(value):
    low, high = statistics.mean_interval(np.full(30, value), ALONE(30))
    assert low <= value <= high and high - low > 0.05


def test_repeated_rows_of_a_picture_do_not_narrow_the_interval():
    values = np.array([1.0, 0, 1, 1, 0, 1, 1, 0, 1, 1])
    once = statistics.mean_interval(values, ALONE(10))
    ten_times = statistics.mean_interval(np.repeat(values, 10), np.repeat(ALONE(10), 10))
    assert ten_times == pytest.approx(once, abs=0.02)


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


def test_f1_interval_is_near_that_of_a_bootstrap_over_pictures():
    dice = np.random.default_rng(5)
    truth, clusters = dice.random(900) < 0.4, np.repeat(ALONE(300), 3)
    said = np.where(dice.random(300)[clusters] < 0.7, truth, dice.random(900) < 0.5)
    columns = f1_columns(said, truth)
    grouped = columns.reshape(300, 3, 3).sum(axis=1)
    boot = [F1.of_sums(grouped[dice.integers(0, 300, 300)].sum(axis=0)) for _ in range(3000)]
    found = statistics.corpus_interval(F1, columns, clusters)
    assert found == pytest.approx(tuple(np.percentile(boot, [2.5, 97.5])), abs=0.015)


def test_bleu_interval_is_near_that_of_a_bootstrap():
    dice = np.random.default_rng(6)
    words = np.array(list("abcdefgh"))
    references = [[" ".join(dice.choice(words, 12))] for _ in range(250)]
    said = [" ".join(np.where(dice.random(12) < 0.8, texts[0].split(), dice.choice(words, 12))) for texts in references]
    columns = bleu_columns(said, references)
    boot = [BLEU4.of_sums(columns[dice.integers(0, 250, 250)].sum(axis=0)) for _ in range(3000)]
    found = statistics.corpus_interval(BLEU4, columns, ALONE(250))
    assert found == pytest.approx(tuple(np.percentile(boot, [2.5, 97.5])), abs=0.015)
    assert found == statistics.corpus_interval(BLEU4, columns, ALONE(250))


def test_the_gradient_of_a_figure():
    sums = np.array([7.0, 2.0, 3.0])
    total = 2 * 7 + 2 + 3
    expected = [2 / total - 2 * 14 / total**2, -14 / total**2, -14 / total**2]
    assert intervals._gradient(F1.of_sums, sums) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("figure", "row"), [(F1, [1.0, 0, 0]), (BLEU4, [8.0, 8, 8, 7, 6, 5, 8, 7, 6, 5])])
def test_perfect_corpus_figures_keep_an_interval(figure, row):
    columns = np.tile(np.array(row), (30, 1))
    low, high = statistics.corpus_interval(figure, columns, ALONE(30))
    assert low < 0.95 and high == pytest.approx(1.0)
    low, high = statistics.corpus_paired_interval(figure, columns, columns, ALONE(30))
    assert -0.2 < low < -0.02 and high == pytest.approx(-low)


def test_captions_of_few_words_keep_a_wide_interval():
    """No caption has a 4-gram, so BLEU-4 is 0 and says nothing."""
    columns = bleu_columns(["a b"] * 40, [["a b"]] * 40)
    low, high = statistics.corpus_interval(BLEU4, columns, ALONE(40))
    assert low == pytest.approx(0.0, abs=1e-3) and high > 0.3


def test_clusters_of_uneven_size_count_for_less():
    assert intervals.cluster_count(np.repeat(ALONE(6), 5)) == pytest.approx(6)
    assert intervals.cluster_count(np.array([0] * 50 + [1, 2, 3])) == pytest.approx(53**2 / (50**2 + 3))
    assert intervals.cluster_count(ALONE(0)) == 0


def test_few_pictures_are_said():
    assert statistics.caution(ALONE(30)) == ""
    assert "6 pictures only" in statistics.caution(np.repeat(ALONE(6), 5))
    assert "5 degrees of freedom" in statistics.caution(np.repeat(ALONE(6), 5))
    assert "whole range" in statistics.caution(np.zeros(9, dtype=np.int64))
    assert "as uneven as" in statistics.caution(np.array([0] * 20 + list(range(1, 20))))


def test_intervals_over_very_uneven_pictures_are_wider_marked_and_hold():
    sizes = [10] * 20 + [1] * 100
    clusters = np.repeat(np.arange(120), sizes).astype(np.int64)
    assert "widened by 25%" in statistics.caution(clusters) and statistics.caution(np.arange(120)) == ""
    dice, lost = np.random.default_rng(11), 0.1
    spread = 1 / 0.8 - 1  # an intraclass correlation of .8, by the beta-binomial distribution
    share = dice.beta(lost * spread, (1 - lost) * spread, (1000, 120))
    right = dice.random((1000, 300)) >= np.repeat(share, sizes, axis=1)
    found = intervals.paired_intervals(np.ones((1000, 300)), right.astype(float), clusters)
    assert ((found[:, 0] <= lost) & (lost <= found[:, 1])).mean() >= 0.93 - 2 * (0.93 * 0.07 / 1000) ** 0.5


def test_the_order_of_rows_does_not_matter():
    dice = np.random.default_rng(7)
    clusters, values = dice.integers(0, 40, 200), dice.random(200)
    order = dice.permutation(200)
    assert statistics.mean_interval(values[order], clusters[order]) == pytest.approx(
        statistics.mean_interval(values, clusters)
    )


def test_figures_that_are_no_fraction_do_not_collapse():
    low, high = statistics.mean_interval(np.zeros(30), ALONE(30), fraction=False)
    assert low == 0 < high
    values = np.full(30, 2.5)
    _, (low, high) = statistics.paired_difference(values, values, ALONE(30), fraction=False)
    assert -0.5 < low < 0 < high < 0.5


def test_labels_with_gaps_and_empty_sets():
    values = np.array([1.0, 0.0, 1.0])
    assert statistics.mean_interval(values, np.array([5, 90, 7])) == statistics.mean_interval(values, ALONE(3))
    assert all(np.isnan(statistics.mean_interval([], ALONE(0))))
    assert all(np.isnan(statistics.paired_difference([], [], ALONE(0), fraction=False)[1]))
    assert all(np.isnan(statistics.corpus_interval(F1, np.zeros((0, 3)), ALONE(0))))


def test_cluster_codes_follow_first_appearance():
    assert list(statistics.cluster_codes(["b", "a", "b", "c"])) == [0, 1, 0, 2]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_pictures_give_wide_intervals_not_errors(n):
    low, high = statistics.mean_interval(np.ones(n), ALONE(n))
    assert 0 <= low < 1 == high
