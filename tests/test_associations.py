"""Rank correlations over samples and over classifiers, against SciPy and by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from pipeline.report import _associations


def sample_frames(classifiers: int = 3, n: int = 40, seed: int = 0) -> list[pd.DataFrame]:
    generator = np.random.default_rng(seed)
    frames = []
    for number in range(classifiers):
        base = generator.normal(size=n)
        frame = pd.DataFrame(
            {
                "a": base,
                "b": base + generator.normal(size=n),
                "c": np.round(generator.normal(size=n)),
                "d": generator.normal(size=n),
            },
            index=[f"s{i}" for i in range(number, number + n)],
        )
        frame.loc[frame["a"] > 1.2, "a"] = math.inf
        frame.loc[frame.index[:7], "d"] = math.nan
        frames.append(frame)
    return frames


def test_correlations_are_those_of_scipy() -> None:
    frames = sample_frames()
    found = _associations.correlations(frames, 0)
    for (i, one), (j, other) in itertools.combinations(enumerate(found.columns), 2):
        each = []
        for number, frame in enumerate(frames):
            pair = frame[[one, other]].dropna()
            each.append(scipy.stats.spearmanr(pair[one].rank(), pair[other].rank()).statistic)
            assert found.each[number, i, j] == pytest.approx(each[-1], abs=1e-12)
        value = found.interval(one, other)
        assert value.value == pytest.approx(np.mean(each))
        assert value.low < value.value < value.high
        assert found.n[i, j] == (33 if "d" in (one, other) else 40)
    assert found.interval("a", "b").low > 0.4
    assert found.p[0, 1] < 1e-6 < 0.01 < found.p[0, 3]


def test_weights_count_samples_as_often() -> None:
    generator = np.random.default_rng(1)
    values = np.round(generator.normal(size=(12, 3)), 1)
    values[2, 0] = values[5, 0] = math.inf
    weights = generator.integers(0, 4, size=(5, 12))
    found = _associations._weighted(values, weights.astype(float))
    for weight, matrix in zip(weights, found, strict=True):
        ranks = pd.DataFrame(np.repeat(values, weight, axis=0)).rank()
        np.testing.assert_allclose(matrix, ranks.corr(), atol=1e-12)


def test_bootstrap_interval_covers_and_narrows() -> None:
    """The interval's width follows the known standard error of a correlation, and shared images widen it."""
    generator = np.random.default_rng(0)
    pairs = generator.normal(size=(400, 2))
    frame = pd.DataFrame(pairs, columns=["a", "b"], index=[f"s{i:03}" for i in range(400)])
    one = _associations.correlations([frame], 0).interval("a", "b")
    assert one.high - one.low == pytest.approx(2 * 1.96 / math.sqrt(400), rel=0.2)
    same = _associations.correlations([frame] * 4, 0).interval("a", "b")
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=1e-6)  # nothing is learnt from a copy
    mixed = [frame, *(pd.DataFrame(generator.permutation(pairs), columns=["a", "b"], index=frame.index) for _ in "123")]
    other = _associations.correlations(mixed, 0).interval("a", "b")
    assert other.high - other.low == pytest.approx((one.high - one.low) / 2, rel=0.3)


def test_constant_and_missing_columns_have_no_correlation() -> None:
    frames = sample_frames(2)
    frames[0]["c"] = 1.0
    frames[1].loc[frames[1].index[3:], "d"] = math.nan
    for frame in frames:
        frame["e"] = 0.0
    found = _associations.correlations(frames, 0)
    assert math.isnan(found.interval("a", "e").value) and math.isnan(found.interval("a", "e").low)
    second = scipy.stats.spearmanr(frames[1]["a"].rank(), frames[1]["c"]).statistic
    assert found.interval("a", "c").value == pytest.approx(second)
    first = frames[0][["b", "d"]].dropna()
    assert found.interval("b", "d").value == pytest.approx(scipy.stats.spearmanr(first["b"], first["d"]).statistic)
    assert found.n[found.columns.index("a"), found.columns.index("e")] == 0


def test_permutations_over_classifiers() -> None:
    found = _associations.across([1, 2, 3, 4], [10, 20, 30, math.inf], 0)
    assert (found.value, found.n) == (pytest.approx(1), 4)
    assert found.p == pytest.approx(2 / 24)  # the order itself and its reverse
    assert found.chance == pytest.approx(1)
    other = _associations.across([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0)
    exact = [scipy.stats.spearmanr(range(5), order).statistic for order in itertools.permutations(range(5))]
    assert other.value == pytest.approx(0.8)
    assert other.p == pytest.approx(np.mean(np.abs(exact) >= 0.8 - 1e-9))
    many = _associations.across(range(12), [1, 0, 2, 4, 3, 5, 7, 6, 8, 9, 11, 10], 0)
    assert many.p < 0.001
    for one, two in (([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, math.nan], [1, 2, 3, 4])):
        assert math.isnan(_associations.across(one, two, 0).value)
