"""Rank correlations between quantities of the same samples, pooled over classifiers, and between classifiers."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import ArrayLike

from pipeline.report import statistics
from pipeline.report.statistics import Array, Interval

RESAMPLES = (200, 1000)  # least and most
WORK = 300_000  # resamples times samples, about what one column is to cost
CHUNK = 100_000  # of these, held in memory at a time for each column and set of missing samples
ENUMERATED = 7  # classifiers up to which all orders are tried
ORDERS = 5000  # tried at random above that
FEWEST = 5  # samples of a correlation


class Correlations(NamedTuple):
    """Spearman's rank correlation of each pair of columns, (k, k) each; NaN where there is none.

    Attributes:
        columns: names.
        each: (classifiers, k, k), of every classifier.
        mean: over the classifiers that have it.
        low: lower limit of the 95 % interval of the mean.
        high: upper limit.
        p: of a mean of 0, two-sided.
        n: samples, the fewest of a classifier that counts.
    """

    columns: Sequence[str]
    each: Array
    mean: Array
    low: Array
    high: Array
    p: Array
    n: Array

    def interval(self, one: str, other: str) -> Interval:
        """The mean correlation of two columns."""
        place = self.columns.index(one), self.columns.index(other)
        return Interval(*(float(part[place]) for part in (self.mean, self.low, self.high)))


def correlations(frames: Sequence[pd.DataFrame], seed: int) -> Correlations:
    """Correlations over samples within each classifier, and their mean over classifiers.

    The bootstrap draws samples, the same for all classifiers, so that what classifiers share by being shown the same
    images is in the interval (percentiles). The p-value is that of Wald's test with the bootstrap's standard error.

    Args:
        frames: one per classifier, indexed by sample, with the same columns; NaN is missing, and a pair of columns is
            correlated over the samples that have both. Infinite values are ranked.
        seed: of the bootstrap.
    """
    names = list(frames[0].columns)
    everyone = sorted(set().union(*(frame.index for frame in frames)))
    places = [np.searchsorted(everyone, frame.index.to_numpy()) for frame in frames]
    arrays = [frame.to_numpy(dtype=float) for frame in frames]
    each = np.stack([_weighted(array, np.ones((1, len(array))))[0] for array in arrays])
    counts = np.stack([(~np.isnan(array)).T.astype(int) @ (~np.isnan(array)).astype(int) for array in arrays])
    each[counts < FEWEST] = np.nan
    size = int(np.clip(WORK // len(everyone), *RESAMPLES))
    generator = np.random.default_rng(seed)
    chance = np.full(len(everyone), 1 / len(everyone))
    drawn = []
    for start in range(0, size, chunk := max(1, CHUNK // len(everyone))):
        weights = generator.multinomial(len(everyone), chance, size=min(chunk, size - start)).astype(float)
        own = np.stack([_weighted(array, weights[:, place]) for array, place in zip(arrays, places, strict=True)])
        drawn.append(_mean(np.where(np.isnan(each)[:, None], np.nan, own)))
    resampled = np.concatenate(drawn)
    mean = _mean(each)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pairs that have no correlation
        tails = (1 - statistics.LEVEL) / 2, (1 + statistics.LEVEL) / 2
        low, high = np.nanquantile(resampled, tails, axis=0)
        spread = np.nanstd(resampled, axis=0)
        p = 2 * scipy.stats.norm.sf(np.abs(mean) / np.where(spread > 0, spread, np.nan))
    n = np.where(np.isnan(each), np.iinfo(int).max, counts).min(axis=0)
    n[np.isnan(mean)] = 0
    return Correlations(names, each, mean, np.fmin(low, mean), np.fmax(high, mean), p, n)


def _mean(values: Array) -> Array:
    """Mean over the first axis of what is known, NaN where nothing is."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=0)
    return np.asarray(np.divide(total, known.sum(axis=0), out=np.full(total.shape, np.nan), where=known.any(axis=0)))


def _weighted(values: Array, weights: Array) -> Array:
    """Spearman correlations of samples that count several times or not at all.

    Args:
        values: (n, k), NaN is missing.
        weights: (b, n), whole numbers.

    Returns:
        (b, k, k); NaN where a column has but one value.
    """
    missing = np.isnan(values)
    k = values.shape[1]
    found = np.full((len(weights), k, k), np.nan)
    scores: dict[tuple[int, bytes], Array] = {}
    for one, other in itertools.combinations_with_replacement(range(k), 2):
        keep = ~(missing[:, one] | missing[:, other])
        pair = []
        for column in (one, other):
            key = column, keep.tobytes()
            if key not in scores:
                scores[key] = _scores(values[keep, column], weights[:, keep])
            pair.append(scores[key])
        found[:, one, other] = found[:, other, one] = np.einsum("bn,bn->b", *pair)
    return found


def _scores(values: Array, weights: Array) -> Array:
    """Ranks, in the middle of ties, centred, times the roots of the weights, of unit length: (n,), (b, n) -> (b, n)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    below = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights[:, order], axis=1)], axis=1)
    first, last = (np.searchsorted(ordered, ordered, side=side) for side in ("left", "right"))
    ranks = np.empty_like(weights)
    ranks[:, order] = (below[:, first] + below[:, last] + 1) / 2
    total = weights.sum(axis=1, keepdims=True)
    ranks -= np.divide((weights * ranks).sum(axis=1, keepdims=True), total, out=np.zeros_like(total), where=total > 0)
    ranks *= np.sqrt(weights)
    length = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    return np.asarray(np.divide(ranks, length, out=np.full_like(ranks, np.nan), where=length > 1e-9))


class Across(NamedTuple):
    """Spearman's correlation over classifiers, and what chance would give.

    Attributes:
        value: the correlation; NaN if one of the two is constant or there are fewer than four classifiers.
        chance: 95 % of the orders of the classifiers give at most this in absolute value.
        p: share of the orders that give at least as much as was found.
        n: classifiers.
    """

    value: float
    chance: float
    p: float
    n: int


def across(one: ArrayLike, other: ArrayLike, seed: int) -> Across:
    """Correlation of two quantities over classifiers with its permutation test: exact up to seven, else by sampling.

    Args:
        one: (n,) one value per classifier, NaN is missing.
        other: (n,) likewise.
        seed: of the orders that are tried.
    """
    pairs = np.stack([np.asarray(one, dtype=float), np.asarray(other, dtype=float)])
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    n = pairs.shape[1]
    first, second = _scores(pairs[0], np.ones((1, n)))[0], _scores(pairs[1], np.ones((1, n)))[0]
    if n < 4 or np.isnan(first).any() or np.isnan(second).any():
        return Across(math.nan, math.nan, math.nan, n)
    exact = n <= ENUMERATED
    if exact:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        generator = np.random.default_rng(seed)
        orders = generator.permuted(np.tile(np.arange(n), (ORDERS, 1)), axis=1)
    value = float(first @ second)
    sizes = np.abs(second[orders] @ first)
    extreme = int(np.sum(sizes >= abs(value) - 1e-9))
    p = extreme / len(orders) if exact else (1 + extreme) / (1 + len(orders))
    return Across(value, float(np.quantile(sizes, statistics.LEVEL, method="higher")), p, n)


def adjusted(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm-adjusted p-values, of those that there are."""
    known = {name: p for name, p in p_values.items() if not math.isnan(p)}
    return dict(zip(known, statistics.holm(list(known.values())), strict=True))
