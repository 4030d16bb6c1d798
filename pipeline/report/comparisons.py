"""Whether classifiers differ on the same samples: from standard training, and each from each other by rank."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from pipeline.report import outcomes as sources
from pipeline.report import statistics
from pipeline.report.leaderboard import CLEAN, CORRUPTED, NUMBER, SHARE, WORST, criterion, of_suite
from pipeline.report.outcomes import NORMS, REFERENCE, Outcomes
from pipeline.report.statistics import Interval

Values = pd.Series  # per sample
MOST = 12  # classifiers of which every pair is shown


class Comparison(NamedTuple):
    """A classifier against another: the standard one of its architecture and seed, or a lower ranked one (`pairs`).

    Attributes:
        dataset: id of the data set.
        classifier: id of the classifier.
        reference: id of the other.
        measure: what is compared, in words.
        kind: `share` or `number`, as in the leaderboard.
        n: samples that both have.
        gap: classifier minus reference, with paired interval.
        test: name of the test.
        p: its p-value.
        adjusted: p-value adjusted by Holm's method over all comparisons of the data set.
    """

    dataset: str
    classifier: str
    reference: str
    measure: str
    kind: str
    n: int
    gap: Interval
    test: str
    p: float
    adjusted: float

    @property
    def verdict(self) -> str:
        """In a word; every measure compared is better when higher."""
        if self.adjusted >= 1 - statistics.LEVEL:
            return "no difference shown"
        return "differs" if self.gap.value == 0 else "higher" if self.gap.value > 0 else "lower"


def compare(classifiers: Sequence[Outcomes], seed: int = 0) -> list[Comparison]:
    """All comparisons; none for a classifier without a standard one of its data set, architecture and seed."""
    results = []
    suites = sources.suites(classifiers)
    for dataset in sources.datasets(classifiers):
        members = sources.shared(classifiers, dataset)
        standard = {(o.architecture, o.seed): o for o in members if o.training == REFERENCE}
        found = []
        for outcomes in members:
            reference = standard.get((outcomes.architecture, outcomes.seed))
            if reference is not None and outcomes.training != REFERENCE:
                found += list(_pair(outcomes, reference, suites, seed))
        adjusted = statistics.holm([comparison.p for comparison in found])
        results += [c._replace(adjusted=p) for c, p in zip(found, adjusted, strict=True)]
    return results


def pairs(classifiers: Sequence[Outcomes], seed: int = 0) -> list[Comparison]:
    """Differences of the classifiers of each data set in what they are ranked by, each against every lower ranked one.

    On the samples that all of them have, by the test of `statistics.rank_sets` and adjusted over all pairs as there, so
    that ranks and differences agree. Of more than `MOST` classifiers neighbours in rank alone are given.

    Args:
        classifiers: of any data sets.
        seed: of the bootstrap.
    """
    results = []
    for dataset in sources.datasets(classifiers):
        column, found = criterion(sources.shared(classifiers, dataset))
        frame = pd.concat(found, axis=1, join="inner") if found else pd.DataFrame()
        if frame.empty:
            continue
        order = frame.mean().sort_values(ascending=False, kind="stable").index.tolist()
        every = list(itertools.combinations(order, 2))
        gaps = [
            _compared(dataset, one, other, column.header, SHARE, frame[one], frame[other], seed) for one, other in every
        ]
        adjusted = statistics.holm([gap.p for gap in gaps])
        shown = every if len(order) <= MOST else list(itertools.pairwise(order))
        results += [
            gap._replace(adjusted=p) for pair, gap, p in zip(every, gaps, adjusted, strict=True) if pair in shown
        ]
    return results


def _pair(one: Outcomes, other: Outcomes, suites: Sequence[str], seed: int) -> Iterator[Comparison]:
    for name, kind, first, second in _measures(one, other, suites):
        pair = pd.concat([first, second], axis=1, join="inner")
        if pair.empty:
            continue
        stream = statistics.stream(seed, one.dataset, one.classifier, other.classifier, name)
        values = pair.iloc[:, 0], pair.iloc[:, 1]
        yield _compared(one.dataset, one.classifier, other.classifier, name, kind, *values, stream)


def _compared(
    dataset: str, one: str, other: str, measure: str, kind: str, first: Values, second: Values, seed: int
) -> Comparison:
    """Values of the same samples, row by row."""
    a, b = first.to_numpy(dtype=float), second.to_numpy(dtype=float)
    statistic: Callable[..., object] = statistics.median if kind == NUMBER else statistics.mean
    gap = statistics.difference(a, b, statistic, seed=seed)
    if first.dtype == float and kind == SHARE:  # means over views, not outcomes
        test, p = "sign-flip permutation", statistics.sign_flip_test(a, b, seed)
    else:
        test, p = ("sign" if kind == NUMBER else "exact McNemar"), statistics.sign_test(a, b)
    return Comparison(dataset, one, other, measure, kind, len(a), gap, test, p, p)


def _measures(one: Outcomes, other: Outcomes, suites: Sequence[str]) -> Iterator[tuple[str, str, Values, Values]]:
    if one.clean is not None and other.clean is not None:
        yield CLEAN.header, SHARE, one.clean["correct"].astype(bool), other.clean["correct"].astype(bool)
    for suite in suites:
        views = [view for view in one.views(suite) if view in other.views(suite)]
        if views:
            means = one.corrupted[views].dropna().mean(axis=1), other.corrupted[views].dropna().mean(axis=1)
            yield of_suite(CORRUPTED, suite, suites).header, SHARE, *means
    if one.fixed and one.fixed == other.fixed and one.worst_case is not None and other.worst_case is not None:
        yield WORST.header, SHARE, one.worst_case, other.worst_case
    for threat in one.minimal:
        if threat in other.norms:
            unit = NORMS[threat.norm][2]
            name = f"Median {threat.symbol} to misclassification, {threat.attack} [{unit}]"
            yield name, NUMBER, one.norms[threat], other.norms[threat]
