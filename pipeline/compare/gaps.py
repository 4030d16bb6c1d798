"""How much a number changed between two runs, with its interval and a test: paired where the images are the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from pipeline.report import resampling, statistics
from pipeline.report.statistics import CHUNK, Array, Interval

SWAPS = 9999  # of a permutation test
LIMITS = "limits"  # name of the test of a number of which the interval alone is known
SHARED = 0.5  # of the images of the run with fewer of them, from which on images are paired

Function = Callable[[Array], Array]


class Values(NamedTuple):
    """What a number is made of.

    Attributes:
        rows: sample x k.
        kind: `outcome`: the number is the share of ones, k = 1. `median`: it is the median, k = 1. `means`, and
            `biased` if resampling makes it larger: it is a function of the k means.
        of: that function, (..., k) -> (...).
    """

    rows: pd.DataFrame
    kind: Literal["outcome", "median", "means", "biased"]
    of: Function


class Gap(NamedTuple):
    """A number of two runs.

    Attributes:
        before: in the first run; of paired numbers, on the images that both have.
        after: in the second run.
        gap: after minus before.
        test: name of the test; "" if there is none.
        p: its p-value; NaN if there is none.
        n: images of the first and of the second run that it is from.
        paired: whether the same images were compared.
        equal: whether the numbers are made of the same values, bit for bit.
    """

    before: float
    after: float
    gap: Interval
    test: str
    p: float
    n: tuple[int, int]
    paired: bool
    equal: bool


def single(series: pd.Series, kind: Literal["outcome", "median", "means"]) -> Values:
    """A number that is made of one value a sample."""
    return Values(series.astype(float).to_frame(), kind, lambda means: means[..., 0])


def compared(before: Values, after: Values, *, same: bool, level: float, seed: int) -> Gap:
    """The change of a number.

    Paired: Bonett and Price's interval and McNemar's exact test for shares of outcomes, a bootstrap over images and the
    sign test for medians, a bootstrap and a test that swaps the two runs image by image for what is made of means.
    Else: the limits of both numbers joined as in `apart`, Fisher's exact test, the Mann-Whitney test and a permutation
    of the images over both runs.

    Args:
        before: of the first run.
        after: of the second run, of the same kind and the same k.
        same: whether equal ids stand for the same images.
        level: of the interval.
        seed: of resampling and permutations.
    """
    shared = before.rows.index.intersection(after.rows.index, sort=True)
    if not same or len(shared) < SHARED * min(len(before.rows), len(after.rows)) or not len(shared):
        return _unpaired(before, after, level, seed)
    one, other = before.rows.loc[shared].to_numpy(float), after.rows.loc[shared].to_numpy(float)
    n, equal = len(shared), len(before.rows) == len(after.rows) == len(shared) and bool(np.array_equal(one, other))
    first, second = _number(one, before), _number(other, after)
    if np.array_equal(one, other):
        return Gap(first, second, Interval(0.0, 0.0, 0.0), "", 1.0, (n, n), True, equal)
    if before.kind == "outcome":
        gap, test = statistics.share_difference(other[:, 0], one[:, 0], level), "exact McNemar"
        p = statistics.sign_test(other[:, 0], one[:, 0])
    elif before.kind == "median":
        gap, test = statistics.difference(other[:, 0], one[:, 0], statistics.median, level, seed), "sign"
        p = statistics.sign_test(other[:, 0], one[:, 0])
    else:
        gap, test = _bootstrap(one, other, before, level, seed), "permutation, paired"
        p = swap_test(one, other, before.of, seed)
    return Gap(first, second, gap, test, p, (n, n), True, False)


def of_limits(before: Interval, after: Interval, n: tuple[int, int], level: float, equal: bool) -> Gap:
    """The change of a number of which the interval alone is known: as if the images were others.

    Args:
        before: of the first run.
        after: of the second run.
        n: images or rows of both.
        level: of the interval; that of the limits given is `statistics.LEVEL`.
        equal: whether both are made of the same rows.
    """
    if equal:
        return Gap(before.value, after.value, Interval(0.0, 0.0, 0.0), "", 1.0, n, False, True)
    gap = apart(before, after)
    towards = gap.value - gap.low if gap.value > 0 else gap.high - gap.value
    z, wanted = (float(scipy.stats.norm.ppf((1 + share) / 2)) for share in (statistics.LEVEL, level))
    known = math.isfinite(gap.value) and math.isfinite(towards) and towards > 0
    p = 2 * float(scipy.stats.norm.sf(z * abs(gap.value) / towards)) if known else math.nan
    low, high = ((limit - gap.value) * wanted / z + gap.value for limit in (gap.low, gap.high))
    gap = Interval(gap.value, low, high)
    return Gap(before.value, after.value, gap, LIMITS if known else "", p, n, False, False)


def apart(before: Interval, after: Interval) -> Interval:
    """Difference of two numbers from different images, after minus before, from the limits of both.

    Zou, Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27 (2008); for shares
    with Wilson's limits it is Newcombe's hybrid score interval (method 10 of "Interval estimation for the difference
    between independent proportions", Statistics in Medicine 17, 1998). Too wide where the images are the same.
    """
    value = 0.0 if before.value == after.value else after.value - before.value
    if not (math.isfinite(before.value) and math.isfinite(after.value)):
        return Interval(value, math.nan, math.nan)
    low = math.hypot(after.value - after.low, before.high - before.value)
    high = math.hypot(after.high - after.value, before.value - before.low)
    return Interval(value, value - low, value + high)


def swap_test(before: Array, after: Array, of: Function, seed: int) -> float:
    """Two-sided test of a function of means: the two runs are swapped at random, image by image.

    Where no swap is as extreme as what was found, the p-value is the normal tail with the swaps' standard deviation, if
    that is lower than 1 / (SWAPS + 1): adjusted for hundreds of numbers, that could never be significant.

    Args:
        before: (n, k).
        after: (n, k), of the same images.
        of: (..., k) -> (...).
        seed: of the swaps.
    """
    n, change = len(before), after - before
    own = change[(change != 0).any(axis=1)]
    first, second = before.sum(axis=0), after.sum(axis=0)
    generator = np.random.default_rng(seed)
    found = []
    for count in _chunks(len(own)):
        moved = generator.integers(0, 2, size=(count, len(own)), dtype=np.int8).astype(float) @ own
        found.append(of((second - moved) / n) - of((first + moved) / n))
    return _p(float(of(second / n) - of(first / n)), np.concatenate(found))


def group_test(before: Array, after: Array, of: Function, seed: int) -> float:
    """Two-sided test of a function of means of different images, which are put into two groups at random.

    Args:
        before: (n, k).
        after: (m, k).
        of: (..., k) -> (...).
        seed: of the groups.
    """
    pooled = np.concatenate([before, after])
    total, n, m = pooled.sum(axis=0), len(before), len(after)
    members = (np.arange(n + m) < n).astype(np.int8)
    generator = np.random.default_rng(seed)
    found = []
    for count in _chunks(n + m):
        chosen = generator.permuted(np.tile(members, (count, 1)), axis=1).astype(float) @ pooled
        found.append(of((total - chosen) / m) - of(chosen / n))
    return _p(float(of(after.mean(axis=0)) - of(before.mean(axis=0))), np.concatenate(found))


def _chunks(size: int) -> list[int]:
    rows = max(1, CHUNK // max(size, 1))
    return [min(rows, SWAPS - start) for start in range(0, SWAPS, rows)]


def _p(observed: float, found: Array) -> float:
    """What is undefined in a permutation counts as extreme, as do ties, which rounding may break."""
    extreme = int(np.sum(~(np.abs(found) < abs(observed) * (1 - 1e-9))))
    p = (1 + extreme) / (1 + len(found))
    if extreme or not (spread := float(np.sqrt(np.mean(found**2)))):
        return p
    return min(p, 2 * float(scipy.stats.norm.sf(abs(observed) / spread)))


def _bootstrap(one: Array, other: Array, values: Values, level: float, seed: int) -> Interval:
    k = one.shape[1]
    (draws,) = resampling.draw([pd.DataFrame(np.concatenate([one, other], axis=1))], seed)

    def change(means: Array) -> Array:
        return np.asarray(values.of(means[..., k:]) - values.of(means[..., :k]))

    if values.kind == "means":
        return draws.interval(change, level)
    # Quantiles of what resampling makes larger lie on one side: normal limits instead.
    estimate = float(change(draws.means))
    spread = float(np.std(change(draws.resampled), ddof=1))
    half = spread * float(scipy.stats.norm.ppf((1 + level) / 2))
    return Interval(estimate, estimate - half, estimate + half)


def _unpaired(before: Values, after: Values, level: float, seed: int) -> Gap:
    one, other = before.rows.to_numpy(float), after.rows.to_numpy(float)
    limits = [_limits(rows, before, level, seed + place) for place, rows in enumerate((one, other))]
    if before.kind == "outcome":
        table = [[int(rows.sum()), len(rows) - int(rows.sum())] for rows in (one, other)]
        test, p = "Fisher's exact", float(scipy.stats.fisher_exact(table).pvalue)
    elif before.kind == "median":
        test = "Mann-Whitney"
        p = float(scipy.stats.mannwhitneyu(_finite(one[:, 0]), _finite(other[:, 0])).pvalue)
    else:
        test, p = "permutation", group_test(one, other, before.of, seed)
    p = p if math.isfinite(p) else math.nan
    first, second = limits
    return Gap(first.value, second.value, apart(first, second), test, p, (len(one), len(other)), False, False)


def _finite(values: Array) -> Array:
    """Values of which ranks alone count: infinite ones as the largest number."""
    return np.minimum(values, np.finfo(float).max)


def _limits(rows: Array, values: Values, level: float, seed: int) -> Interval:
    if values.kind == "outcome":
        return statistics.share(rows[:, 0], level)
    if values.kind == "median":
        return statistics.bootstrap(rows[:, 0], statistics.median, level, seed)
    (draws,) = resampling.draw([pd.DataFrame(rows)], seed)
    return draws.interval(values.of, level) if values.kind == "means" else draws.symmetric(values.of, level)


def _number(rows: Array, values: Values) -> float:
    return float(np.median(rows)) if values.kind == "median" else float(values.of(rows.mean(axis=0)))
