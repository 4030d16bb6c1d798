"""Ranks that paired tests leave open, of outcomes, of medians and of means."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline.report import statistics
from pipeline.report.board_columns import Column, Key
from pipeline.report.statistics import Array

RESAMPLES = 9999  # of the permutation test

Sets = list[tuple[int, int]]
# (classifiers, n) values of the same samples and a seed -> ranks that are open to each
Test = Callable[[Array, int], Sets]


class Ranks(NamedTuple):
    """Ranks of the classifiers of all data sets.

    Attributes:
        sets: classifier -> best and worst rank that are open to it.
        ranked_by: data set -> name of the column.
    """

    sets: Mapping[Key, tuple[int, int]]
    ranked_by: Mapping[str, str]


class Criterion(NamedTuple):
    """What the classifiers of one data set are ranked by; more is better.

    Attributes:
        column: the number.
        by_sample: classifier -> what it is made of, by sample.
        test: tells classifiers apart.
    """

    column: Column
    by_sample: Mapping[str, pd.Series[float] | pd.Series[bool]]
    test: Test


def ranks(criteria: Mapping[str, Criterion], seed: int) -> Ranks:
    """Ranks on each data set, from the samples that all its ranked classifiers share.

    Args:
        criteria: data set -> criterion; one without values ranks nothing.
        seed: of the permutation tests.
    """
    sets: dict[Key, tuple[int, int]] = {}
    criteria = {dataset: criterion for dataset, criterion in criteria.items() if criterion.by_sample}
    for dataset, criterion in criteria.items():
        values = pd.concat(criterion.by_sample, axis=1, join="inner").to_numpy(dtype=float).T
        found = criterion.test(values, statistics.stream(seed, dataset, criterion.column.name, "ranks"))
        sets |= {(dataset, name): own for name, own in zip(criterion.by_sample, found, strict=True)}
    return Ranks(sets, {dataset: criterion.column.name for dataset, criterion in criteria.items()})


def of_outcomes(values: Array, seed: int) -> Sets:
    """By the share of 1 among 0 and 1: McNemar's exact test."""
    return statistics.rank_sets(list(values))


def of_medians(values: Array, seed: int) -> Sets:
    """By which of two classifiers has the larger value on more samples: exact sign test; values may be infinite."""
    pairs = list(itertools.combinations(range(len(values)), 2))
    lead = [int(np.sum(values[i] > values[j])) - int(np.sum(values[i] < values[j])) for i, j in pairs]
    return _open(len(values), pairs, [statistics.sign_test(values[i], values[j]) for i, j in pairs], lead)


def of_means(values: Array, seed: int) -> Sets:
    """By the mean: the sign-flip permutation test.

    With so many pairs that no permutation could give a p small enough for Holm's method, p is bounded instead: the sum
    of differences with random signs exceeds z times its standard deviation with a chance of at most 2 exp(-z^2 / 2)
    (Hoeffding, "Probability inequalities for sums of bounded random variables", JASA 58, 1963).
    """
    pairs = list(itertools.combinations(range(len(values)), 2))
    if not pairs:
        return _open(len(values), [], [], [])
    gaps = np.stack([values[i] - values[j] for i, j in pairs], axis=1)
    total = gaps.sum(axis=0)
    if len(pairs) < (1 - statistics.LEVEL) * (RESAMPLES + 1):
        chances = statistics.sign_flip_tests(gaps, seed, RESAMPLES)
    else:
        squares = np.sum(gaps**2, axis=0)
        bounds = 2 * np.exp(-(total**2) / np.where(squares > 0, 2 * squares, math.inf))
        chances = np.minimum(1, bounds).tolist()
    return _open(len(values), pairs, chances, total.tolist())


def _open(count: int, pairs: Sequence[tuple[int, int]], chances: Sequence[float], lead: Sequence[float]) -> Sets:
    """Rank sets as in `statistics.rank_sets`, from p and the lead of the first over the second of each pair."""
    better, worse = [0] * count, [0] * count
    for (i, j), p, ahead in zip(pairs, statistics.holm(chances), lead, strict=True):
        if p < 1 - statistics.LEVEL and ahead:
            winner, loser = (i, j) if ahead > 0 else (j, i)
            better[loser] += 1
            worse[winner] += 1
    return [(1 + b, count - w) for b, w in zip(better, worse, strict=True)]
