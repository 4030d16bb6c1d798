"""Intervals and tests against closed forms, scipy, and simulated coverage."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats

from pipeline.report import statistics


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 20), (7, 20), (20, 20), (299, 300), (5000, 10000)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_is_scipys(successes, n, level):
    share, low, high = statistics.wilson(successes, n, level)
    reference = scipy.stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert share == successes / n
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert 0 <= low <= share <= high <= 1


def test_nothing_measured_has_no_interval():
    assert all(math.isnan(value) for value in statistics.wilson(0, 0))
    assert all(math.isnan(value) for value in statistics.bootstrap([], statistics.median))
    value, low, high = statistics.bootstrap([0.3], statistics.median)
    assert value == 0.3
    assert math.isnan(low) and math.isnan(high)


def test_bootstrap_is_bca_of_scipy():
    values = np.random.default_rng(0).exponential(size=60)
    reference = scipy.stats.bootstrap(
        (np.arange(60),), lambda i: values[i].mean(), n_resamples=2000, rng=np.random.default_rng(5), vectorized=False
    ).confidence_interval
    interval = statistics.bootstrap(values, statistics.mean, seed=5)
    assert interval == pytest.approx((values.mean(), reference.low, reference.high), rel=1e-9)


def test_bootstrap_is_deterministic_and_seeded():
    values = np.random.default_rng(1).normal(size=50)
    assert statistics.bootstrap(values, statistics.mean, seed=1) == statistics.bootstrap(
        values, statistics.mean, seed=1
    )
    assert statistics.bootstrap(values, statistics.mean, seed=1) != statistics.bootstrap(
        values, statistics.mean, seed=2
    )
    assert statistics.stream(0, "a", "bc") != statistics.stream(0, "ab", "c")


def test_coverage_of_the_median():
    generator = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        _, low, high = statistics.bootstrap(
            generator.exponential(size=50), statistics.median, seed=trial, resamples=500
        )
        hits += low <= math.log(2) <= high
    # 95 % expected; a fair coin of 0.95 falls outside of 0.89-0.99 in less than one of 1,000 runs.
    assert 0.89 <= hits / 200 <= 0.99


def test_medians_with_infinities():
    finite = statistics.bootstrap([1.0] * 30 + [2.0] * 30 + [math.inf] * 2, statistics.median)
    assert 1 <= finite.low <= finite.value <= finite.high <= 2
    half = statistics.bootstrap([1.0] * 29 + [2.0] * 4 + [math.inf] * 27, statistics.median)
    assert half.value == 2 if half.value < math.inf else True
    assert half.high == math.inf and half.low == 1
    never = statistics.bootstrap([math.inf] * 20, statistics.median)
    assert never == (math.inf, math.inf, math.inf)


def test_degenerate_data_fall_back_to_percentiles():
    assert statistics.bootstrap([0.7] * 40, statistics.mean) == pytest.approx((0.7, 0.7, 0.7))


def test_large_samples_agree_with_the_normal_interval():
    values = np.random.default_rng(3).normal(size=statistics.JACKKNIFE + 1)
    _, low, high = statistics.bootstrap(values, statistics.mean)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (values.mean() - low, high - values.mean()) == pytest.approx((half, half), rel=0.15)


def test_clusters_stay_together():
    # Twenty copies of a value per sample hold no more information than one.
    values = np.random.default_rng(4).normal(size=(40, 1))
    copies = np.repeat(values, 20, axis=1)
    clustered = statistics.bootstrap(copies, lambda v: v.mean(axis=(-2, -1)), seed=3)
    assert clustered == pytest.approx(statistics.bootstrap(values[:, 0], statistics.mean, seed=3), abs=1e-12)
    loose = statistics.bootstrap(copies.ravel(), statistics.mean, seed=3)
    assert clustered.high - clustered.low > 3 * (loose.high - loose.low)


def test_calibration_error_closed_forms():
    # Bin (0.6, 0.667]: confidence 0.65, accuracy 1/2; bin (0.933, 1]: confidence 0.95, accuracy 1.
    values = np.array([[0.65, 1], [0.65, 0], [0.95, 1], [0.95, 1]])
    assert statistics.calibration_error(values) == pytest.approx((2 * 0.15 + 2 * 0.05) / 4)
    # Over- and underconfidence cancel inside a bin, not across bins.
    assert statistics.calibration_error(np.array([[0.5, 1], [0.5, 0]])) == pytest.approx(0)
    assert statistics.calibration_error(np.array([[1.0, 1]] * 5)) == 0
    assert statistics.calibration_error(np.array([[1.0, 0]] * 5)) == 1
    # A confidence on a bin's edge belongs to the lower bin.
    edge = np.array([[0.2, 1], [0.2 + 1e-9, 0]])
    assert statistics.calibration_error(edge) == pytest.approx((0.8 + 0.2) / 2)
    stacked = np.stack([values, values[::-1]])
    assert statistics.calibration_error(stacked) == pytest.approx([0.1, 0.1])


def test_robust_accuracy_closed_forms():
    norms = [0.0, 0.1, 0.5, 2.0, math.inf]
    shares = [statistics.robust_accuracy(norms, epsilon).value for epsilon in (0, 0.1, 0.3, 1, 3)]
    assert shares == [0.8, 0.6, 0.6, 0.4, 0.2]
    assert all(one >= other for one, other in pairwise(shares))


def test_best_of_attacks():
    minimal = [0.0, 0.4, 0.9, math.inf]
    budget = [0.0, math.inf, 0.5000001, 0.3]
    assert statistics.smallest([minimal, budget], [None, 0.5]).tolist() == [0, 0.4, 0.5, 0.3]
    # Rounding above the budget does not rescue a sample at the budget itself.
    assert statistics.robust_accuracy(statistics.smallest([budget], [0.5]), 0.5).value == 0.25
    # An attack that failed within its budget says nothing beyond it.
    assert statistics.smallest([[math.inf]], [0.5]).tolist() == [math.inf]


def test_union_of_threats():
    first, second = [True, True, False, False], [True, False, True, False]
    assert statistics.survivors([first, second]).tolist() == [True, False, False, False]
    assert statistics.survivors([first]).tolist() == first


def test_sign_test_is_mcnemars():
    first = np.array([1] * 12 + [0] * 3 + [1] * 50 + [0] * 7, dtype=bool)
    second = np.array([0] * 12 + [1] * 3 + [1] * 50 + [0] * 7, dtype=bool)
    tail = sum(math.comb(15, k) for k in range(4)) / 2**15
    assert statistics.sign_test(first, second) == pytest.approx(2 * tail)
    assert statistics.sign_test(first, second) == statistics.sign_test(second, first)
    assert statistics.sign_test(first, first) == 1
    assert statistics.sign_test([math.inf, 1.0], [math.inf, 1.0]) == 1


def test_sign_flip_test():
    # All eight differences alike: only 2 of 2**8 sign patterns are as extreme.
    p = statistics.sign_flip_test([1.0] * 8, [0.0] * 8, seed=1)
    assert p == pytest.approx(2 / 2**8, rel=0.5)
    assert statistics.sign_flip_test([0.3, 0.1], [0.3, 0.1]) == 1
    generator = np.random.default_rng(0)
    rejected = [
        statistics.sign_flip_test(*generator.normal(size=(2, 30)), seed=trial, resamples=199) <= 0.05
        for trial in range(300)
    ]
    assert 0.01 <= np.mean(rejected) <= 0.10


def test_paired_difference():
    generator = np.random.default_rng(5)
    hardness = generator.normal(size=200)
    first, second = hardness + 0.1 + 0.01 * generator.normal(size=200), hardness
    gap = statistics.difference(first, second, statistics.mean)
    assert 0 < gap.low < 0.1 < gap.high < 0.11
    assert statistics.difference(second, first, statistics.mean).value == pytest.approx(-gap.value)
    infinite = statistics.difference([math.inf] * 9, [math.inf] * 9, statistics.median)
    assert infinite == (0, 0, 0)


def test_difference_of_shares():
    first = np.array([True] * 12 + [False] * 3 + [True] * 85)
    second = np.array([False] * 12 + [True] * 3 + [True] * 85)
    # Bonett and Price: one sample more that differs in either direction.
    one, other = 13 / 102, 4 / 102
    half = 1.959964 * math.sqrt((one + other - (one - other) ** 2) / 102)
    expected = (0.09, one - other - half, one - other + half)
    assert statistics.share_difference(first, second) == pytest.approx(expected)
    assert statistics.difference(first, second, statistics.mean) == pytest.approx(expected)
    assert statistics.difference(first * 1.0, second * 0.5, statistics.mean) != pytest.approx(expected)
    swapped = statistics.share_difference(second, first)
    assert swapped == pytest.approx((-expected[0], -expected[2], -expected[1]))
    # Where no sample differs, others may: the interval has a width. Nor does it leave [-1, 1].
    same = statistics.share_difference(first, first)
    assert same.value == 0 and same.low == -same.high < 0
    assert statistics.share_difference([True] * 3, [False] * 3).high == 1


def test_holm():
    assert statistics.holm([]) == []
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1, 1]


def test_rank_sets():
    n = 200
    strong, weak = np.arange(n) < 180, np.arange(n) < 60
    level = np.roll(strong, 1)
    assert statistics.rank_sets([weak, strong, level]) == [(3, 3), (1, 2), (1, 2)]
    assert statistics.rank_sets([strong, strong]) == [(1, 2), (1, 2)]
    assert statistics.rank_sets([strong]) == [(1, 1)]
