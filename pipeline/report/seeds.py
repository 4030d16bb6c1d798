"""Trainings over their seeds: numbers that hold for another draw of images and another draw of training seeds.

All classifiers of a training are measured on the same images, so images and seeds are crossed random effects: a value
is that of the training, plus what the seed adds, what the image adds, and what the two add together. The number of
seeds is small, and an interval over images alone says nothing of the next seed (Bouthillier et al., "Accounting for
variance in machine learning benchmarks", MLSys 2021).

The variance of a mean over S seeds and n images is the sum of two parts. That of the seeds is the variance of the
seeds' own numbers over S, with S - 1 degrees of freedom; it holds what seed and image add together. That of the
images is the variance over images of the mean over seeds, without what seed and image add together. (Means: the mean
squares of the analysis of variance of two crossed random effects. Medians: the same from a bootstrap over images,
which draws the same images for all seeds.) The half-width of the interval is the root of the sum times the mean of
the two t quantiles, weighted by the two parts: Cochran, "Approximate significance levels of the Behrens-Fisher test",
Biometrics 20 (1964).

Measured coverage of the 95 % interval of a mean (normal effects, 300 images, variance of the seeds' effect from 0 to
50 times that of the mean over images): 94 to 98 % for 2 seeds and for 3, 94 to 97 % for 5 and for 10. It is highest
where images matter most. Of differences of two trainings: 94 to 99 %. Tried and left: Satterthwaite's degrees of
freedom (Biometrics 2, 1946) fall to 87 % for 2 seeds and to 92 % for 3; a t interval over the seeds' numbers leaves
out the images and falls to 35 % for 10 seeds; Owen's pigeonhole bootstrap (Annals of Applied Statistics 1, 2007),
which resamples both, falls to 75 % for 2 seeds and to 87 % for 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from pipeline.report import statistics
from pipeline.report.statistics import CHUNK, LEVEL, NOTHING, Interval

Array = NDArray[Any]
RESAMPLES = 1000
UNDEFINED = 0.01  # share of resamples with an infinite median up to which there is an interval
SMALLEST = 1e-15  # p-value
COUNTED = 1 / 12  # variance within a step of counts, whose medians hide what is smaller (Sheppard's correction)


class Difference(NamedTuple):
    """The difference of two trainings.

    Attributes:
        value: of the means over seeds, with its interval for other images and other seeds.
        p: of no difference, two-sided; NaN where there is no interval.
    """

    value: Interval
    p: float


class _Parts(NamedTuple):
    """Centre of an interval, and (variance, degrees of freedom) of what seeds and what images add to its variance."""

    centre: float
    parts: Sequence[tuple[float, float]]

    @property
    def variance(self) -> float:
        """Of the estimate."""
        return float(sum(variance for variance, _ in self.parts))

    def quantile(self, chance: float) -> float:
        """Cochran's: the two-sided t quantiles, weighted by the parts of the variance."""
        if self.variance == 0:
            return 0.0
        tails = (variance * -float(scipy.special.stdtrit(free, chance / 2)) for variance, free in self.parts)
        return sum(tails) / self.variance


def estimate(values: Array, statistic: Callable[[Array], Array], seed: int = 0) -> Interval:
    """Mean over seeds of a statistic over images, with its interval for other images and other seeds.

    Outcomes (0 or 1) get two images more that all seeds get right and two that none does, for the interval alone, so
    that it has a width where all are right (Agresti, Coull, "Approximate is better than exact for interval estimation
    of binomial proportions", The American Statistician 52, 1998). Infinite medians have no interval. Medians of counts,
    such as pixels, are whole numbers, and two equal ones do not say that seeds do not matter: a twelfth is added to the
    variance of the seeds' numbers.

    Args:
        values: (seeds, images), of two seeds at least.
        statistic: `statistics.mean` or `statistics.median`.
        seed: of the bootstrap, which the median takes.
    """
    return _estimated([(1.0, np.asarray(values, dtype=float))], statistic, seed)[0]


def difference(first: Array, second: Array, statistic: Callable[[Array], Array], seed: int = 0) -> Difference:
    """Number of one training minus that of another on the same images, for other images and other seeds of both.

    Paired over images, not over seeds: the same seed in two trainings gives two draws that have next to nothing in
    common. Outcomes get one image more that all seeds of the one and none of the other get right, and one the other way
    round (Bonett, Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired
    data", Journal of Educational and Behavioral Statistics 37, 2012).

    Args:
        first: (seeds, images), of two seeds at least.
        second: (seeds, images), the same images; the seeds may be others, and as many as they like from two on.
        statistic: as for `estimate`.
        seed: as for `estimate`.
    """
    groups = [(1.0, np.asarray(first, dtype=float)), (-1.0, np.asarray(second, dtype=float))]
    value, parts = _estimated(groups, statistic, seed)
    return Difference(value, _chance(parts))


def deviation(numbers: Sequence[float]) -> Interval:
    """Standard deviation of the seeds' own numbers, with its chi-square interval for normal ones.

    The numbers are of the same images, so that what an image adds for all seeds is not in it; what an image adds for
    one seed alone is.
    """
    array = np.asarray(numbers, dtype=float)
    if len(array) < 2 or not np.isfinite(array).all():
        return NOTHING
    spread, free = float(np.std(array, ddof=1)), len(array) - 1
    if spread == 0:  # of rounding, or of a share of few images: that says nothing of how much it may be
        return Interval(0.0, math.nan, math.nan)
    low, high = (spread * math.sqrt(free / scipy.stats.chi2.ppf(q, free)) for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    return Interval(spread, float(low), float(high))


def _estimated(
    groups: Sequence[tuple[float, Array]], statistic: Callable[[Array], Array], seed: int
) -> tuple[Interval, _Parts]:
    with np.errstate(invalid="ignore"):
        value = float(sum(sign * statistic(values).mean() for sign, values in groups))
    if not math.isfinite(value):
        return Interval(value, math.nan, math.nan), _Parts(value, [(math.nan, 1)])
    outcomes = statistic is statistics.mean and all(np.isin(values, (0, 1)).all() for _, values in groups)
    if statistic is statistics.mean:
        found = _means(_padded(groups) if outcomes else groups)
    else:
        found = _resampled(groups, statistic, value, seed)
    if math.isnan(found.variance):
        return Interval(value, math.nan, math.nan), found
    half = found.quantile(1 - LEVEL) * math.sqrt(found.variance)
    low, high = found.centre - half, found.centre + half
    if outcomes:
        low, high = max(low, 1.0 - len(groups)), min(high, 1.0)
    return Interval(value, min(low, value), max(high, value)), found


def _padded(groups: Sequence[tuple[float, Array]]) -> list[tuple[float, Array]]:
    """Outcomes with the images that an adjusted Wald interval adds."""
    extra = [[1, 1, 0, 0]] if len(groups) == 1 else [[1, 0], [0, 1]]
    return [
        (sign, np.concatenate([values, np.tile(more, (len(values), 1))], axis=1))
        for (sign, values), more in zip(groups, extra, strict=True)
    ]


def _means(groups: Sequence[tuple[float, Array]]) -> _Parts:
    images = np.sum([sign * values.mean(axis=0) for sign, values in groups], axis=0)
    seeds, both = [], 0.0
    for _, values in groups:
        count, n = values.shape
        means = values.mean(axis=1)
        rest = values - means[:, None] - values.mean(axis=0) + values.mean()
        both += float(np.sum(rest**2)) / ((count - 1) * (n - 1)) / (n * count)
        seeds.append((float(np.var(means, ddof=1)) / count, count - 1))
    own = max(0.0, float(np.var(images, ddof=1)) / len(images) - both)
    return _Parts(float(images.mean()), [*_pooled(seeds), (own, len(images) - 1)])


def _resampled(
    groups: Sequence[tuple[float, Array]], statistic: Callable[[Array], Array], value: float, seed: int
) -> _Parts:
    n = groups[0][1].shape[1]
    generator = np.random.default_rng(seed)
    found: list[list[Array]] = [[] for _ in groups]
    rows = max(1, CHUNK // n)
    for start in range(0, RESAMPLES, rows):
        drawn = generator.integers(0, n, size=(min(rows, RESAMPLES - start), n))
        for own, (_, values) in zip(found, groups, strict=True):
            own.append(np.stack([statistic(line[drawn]) for line in values]))
    resampled = [np.concatenate(own, axis=1) for own in found]
    known = np.isfinite(np.concatenate(resampled)).all(axis=0)
    if known.mean() < 1 - UNDEFINED:
        return _Parts(value, [(math.nan, 1)])
    finite = np.concatenate([values[np.isfinite(values)] for _, values in groups])
    rounded = COUNTED if np.array_equal(finite, np.round(finite)) else 0.0
    total, both, seeds = np.zeros(int(known.sum())), 0.0, []
    for (sign, values), draws in zip(groups, resampled, strict=True):
        count, numbers = len(values), statistic(values)
        total += sign * draws[:, known].mean(axis=0)
        both += float(np.var(draws[:, known] - numbers[:, None], axis=0, ddof=1).mean()) / count
        seeds.append(((float(np.var(numbers, ddof=1)) + rounded) / count, count - 1))
    return _Parts(value, [*_pooled(seeds), (max(0.0, float(np.var(total, ddof=1)) - both), n - 1)])


def _pooled(parts: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """What the seeds of two trainings add, as one part: the sum, with Welch's degrees of freedom (Biometrika 34, 1947).

    Of trainings with unequal numbers of seeds the parts stay apart: Welch's interval is too narrow if the one with
    fewer varies more (90 % for 2 seeds against 5; apart 95 to 98 %).
    """
    total = sum(variance for variance, _ in parts)
    if total == 0 or len({free for _, free in parts}) > 1:
        return list(parts)
    return [(total, total**2 / sum(variance**2 / free for variance, free in parts))]


def _chance(found: _Parts) -> float:
    """The level at which the interval ends at 0."""
    if math.isnan(found.variance) or found.centre == 0:
        return math.nan if math.isnan(found.variance) else 1.0
    reached = abs(found.centre) / math.sqrt(found.variance) if found.variance > 0 else math.inf
    if found.quantile(SMALLEST) <= reached:
        return SMALLEST
    # On a logarithmic scale, where small p-values are as exact as large ones.
    solved: Any = scipy.optimize.brentq(
        lambda power: found.quantile(math.exp(power)) - reached, math.log(SMALLEST), 0.0
    )
    return math.exp(solved)
