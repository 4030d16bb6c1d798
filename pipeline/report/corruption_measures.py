"""Errors under common corruptions, per classifier and suite, and their differences, all with intervals over samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.report import outcomes as sources
from pipeline.report import resampling, statistics
from pipeline.report.baseline import Baseline, choose
from pipeline.report.outcomes import BROUGHT, Outcomes
from pipeline.report.resampling import Draws
from pipeline.report.statistics import NOTHING, Interval

Array = NDArray[Any]
View = tuple[str, int]  # (corruption, severity)
CLEAN = ("", 0)  # the clean image's column beside those of the views
ORDER = ("noise", "blur", "weather", "digital")  # families in Hendrycks and Dietterich's order, others after them
UNKNOWN = "other"


class Errors(NamedTuple):
    """What a classifier does on one suite of corruptions; shares from 0 to 1.

    Attributes:
        outcomes: of the classifier.
        suite: id of the suite.
        baseline: name of what the errors are divided by.
        n: samples that every view has.
        mean: error, mean over corruptions and severities.
        mce: mean over corruptions of the error summed over severities, divided by the baseline's.
        relative: likewise of the errors minus those on clean images.
        corruptions: corruption -> accuracy, mean over its severities.
        families: family -> accuracy, mean over its corruptions and severities.
        notes: why a number is missing, or not comparable.
    """

    outcomes: Outcomes
    suite: str
    baseline: str
    n: int
    mean: Interval
    mce: Interval
    relative: Interval
    corruptions: Mapping[str, Interval]
    families: Mapping[str, Interval]
    notes: Sequence[str]


class Difference(NamedTuple):
    """Mean error of one classifier minus that of another on the same samples and views.

    Attributes:
        one: id of the one.
        other: id of the other.
        n: samples that both have.
        gap: the difference with its paired interval.
        p: of the paired permutation test.
        adjusted: p by Holm's method over all differences of the suite and data set.
    """

    one: str
    other: str
    n: int
    gap: Interval
    p: float
    adjusted: float

    @property
    def real(self) -> bool:
        """Whether the test shows a difference, and the interval does not say otherwise."""
        return self.adjusted < 1 - statistics.LEVEL and not self.gap.low <= 0 <= self.gap.high

    @property
    def verdict(self) -> str:
        """Which of them makes fewer errors, in words."""
        if not self.real:
            return "no difference shown"
        return "fewer errors" if self.gap.value < 0 else "more errors"


def everything(classifiers: Sequence[Outcomes], config: Mapping[str, Any] | None, seed: int) -> list[Errors]:
    """Errors of all classifiers on all suites; of those that have no sample with every view of a suite, none."""
    found = []
    for dataset in sources.datasets(classifiers):
        members = sources.shared(classifiers, dataset)
        baseline = choose(members, config)
        for suite in sources.suites(members):
            found += errors(members, suite, baseline, statistics.stream(seed, dataset, suite, "corruptions"))
    return found


def errors(members: Sequence[Outcomes], suite: str, baseline: Baseline, seed: int) -> list[Errors]:
    """Errors of the classifiers of one data set on one suite.

    Hendrycks, Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", ICLR 2019:
    mCE and relative mCE. Departures: the mean is over the corruptions and severities of the suite that were measured,
    not over their fifteen at five, and the baseline is one of the run unless the config names AlexNet. A number that
    divides by 0 or, for the relative one, by less is not defined: it is left out, with a note. So it is where the
    baseline lacks a view that the classifier has.

    Args:
        members: the classifiers, in order.
        suite: its id.
        baseline: what the mCE divides by; a classifier of the run is resampled together with the others.
        seed: of the resampling.
    """
    frames = {o.classifier: _frame(o, suite) for o in members if o.views(suite)}
    every = {view for frame in frames.values() for view in frame.columns} - {CLEAN}
    frames = {name: frame for name, frame in frames.items() if len(frame)}
    base = frames.get(baseline.name) if baseline.outcomes is not None else None
    paired = {}
    for name, frame in frames.items():
        joined = frame if base is None else frame.join(base.set_axis(_other(base.columns), axis=1), how="inner")
        paired[name] = joined
    draws = dict(zip(frames, resampling.draw([*frames.values()], seed), strict=True))
    ratios = dict(zip(frames, resampling.draw([*paired.values()], seed), strict=True))
    found = []
    for outcomes in (o for o in members if o.classifier in frames):
        name = outcomes.classifier
        views = [view for view in outcomes.views(suite) if view in frames[name]]
        notes = [f"lacks {len(every) - len(views)} of {len(every)} views"] if len(views) < len(every) else []
        mce, relative, reasons = _ratios(ratios[name], list(paired[name].columns), views, baseline)
        groups = {view[0]: outcomes.families.get(view[0], UNKNOWN) for view in views}
        accuracies = _accuracies(draws[name], views, lambda view: view[0])
        families = _accuracies(draws[name], views, lambda view, groups=groups: groups[view[0]])  # type: ignore[misc]
        mean = draws[name].interval(_mean(range(len(views))))
        own = (mean, mce, relative, accuracies, families, [*notes, *reasons])
        found.append(Errors(outcomes, suite, baseline.name, len(frames[name]), *own))
    return found


def order(families: Mapping[str, str], corruptions: Sequence[str]) -> list[str]:
    """Corruptions by family, then by name."""

    def place(corruption: str) -> tuple[int, str, str]:
        family = families.get(corruption, UNKNOWN)
        rank = ORDER.index(family) if family in ORDER else len(ORDER) + (family == UNKNOWN)
        return rank, family, corruption

    return sorted(set(corruptions), key=place)


def differences(members: Sequence[Outcomes], suite: str, seed: int) -> list[Difference]:
    """All pairs of trainings of one architecture and seed, on the views and samples that both have."""
    pairs = [
        (one, other)
        for other, one in itertools.combinations((o for o in members if o.training != BROUGHT), 2)
        if (one.architecture, one.seed) == (other.architecture, other.seed)
    ]
    gaps = []
    for one, other in pairs:
        views = [view for view in one.views(suite) if view in other.views(suite)]
        if views:
            joined = 1 - one.corrupted[views].dropna(), 1 - other.corrupted[views].dropna()
            gaps.append((one, other, (joined[0].mean(axis=1) - joined[1].mean(axis=1)).dropna().to_frame()))
    gaps = [gap for gap in gaps if len(gap[2])]
    if not gaps:
        return []
    draws = resampling.draw([gap for _, _, gap in gaps], seed)
    wide = pd.concat([gap for _, _, gap in gaps], axis=1).sort_index().fillna(0).to_numpy()
    chances = statistics.sign_flip_tests(wide, seed)
    adjusted = statistics.holm(chances)
    return [
        Difference(one.classifier, other.classifier, len(gap), own.interval(lambda means: means[..., 0]), p, holm)
        for (one, other, gap), own, p, holm in zip(gaps, draws, chances, adjusted, strict=True)
    ]


def _frame(outcomes: Outcomes, suite: str) -> pd.DataFrame:
    """Errors, sample x view, of the samples that every view has; with the clean images' if all of them have one."""
    wrong = 1 - outcomes.complete(suite)
    wrong.columns = pd.Index(list(wrong.columns), tupleize_cols=False)
    if outcomes.clean is not None:
        clean = 1 - outcomes.clean["correct"].astype(float).reindex(wrong.index)
        if not clean.isna().any():
            wrong[CLEAN] = clean
    return wrong


def _other(columns: pd.Index[Any]) -> pd.Index[Any]:
    """Names for the baseline's columns beside a classifier's own."""
    return pd.Index([("baseline", *column) for column in columns], tupleize_cols=False)


def _mean(places: Sequence[int]) -> Callable[[Array], Array]:
    chosen = list(places)
    return lambda means: np.asarray(means[..., chosen].mean(axis=-1))


def _accuracies(draws: Draws, views: Sequence[View], group: Callable[[View], str]) -> dict[str, Interval]:
    """Name of a group of views -> accuracy, mean over them."""
    found = {}
    for name in dict.fromkeys(map(group, views)):
        value = draws.interval(_mean([place for place, view in enumerate(views) if group(view) == name]))
        found[name] = Interval(1 - value.value, 1 - value.high, 1 - value.low)
    return found


def _ratios(
    draws: Draws, columns: Sequence[Any], views: Sequence[View], baseline: Baseline
) -> tuple[Interval, Interval, list[str]]:
    """mCE, relative mCE, and why they are missing."""
    groups = [[view for view in views if view[0] == name] for name in dict.fromkeys(view[0] for view in views)]

    def below(view: View, means: Array) -> Array | float | None:
        if baseline.published is not None:
            return baseline.published.clean if view == CLEAN else baseline.known(view)
        column = ("baseline", *view)
        return means[..., columns.index(column)] if column in columns else None

    unknown = [group[0][0] for group in groups if any(below(view, draws.means) is None for view in group)]
    if unknown:
        return NOTHING, NOTHING, [f"no mCE: {baseline.name} was not measured on {', '.join(unknown)}"]

    def parts(means: Array, relative: bool) -> tuple[list[Array], list[Array]]:
        own, base = [], []
        for group in groups:
            over = sum(means[..., columns.index(view)] for view in group)
            under = sum(np.asarray(below(view, means)) for view in group)
            if relative:
                over = over - len(group) * means[..., columns.index(CLEAN)]
                under = under - len(group) * np.asarray(below(CLEAN, means))
            own.append(np.asarray(over))
            base.append(np.broadcast_to(np.asarray(under), np.shape(over)))
        return own, base

    def ratio(means: Array, relative: bool) -> Array:
        own, base = parts(means, relative)
        return np.asarray(np.mean([a / np.where(b > 1e-12, b, math.nan) for a, b in zip(own, base, strict=True)], 0))

    notes = []
    mce = draws.interval(lambda means: ratio(means, False))
    names = [group[0][0] for group in groups]
    zero = [name for name, b in zip(names, parts(draws.means, False)[1], strict=True) if b <= 1e-12]
    notes += [f"no mCE: {baseline.name} makes no error under {', '.join(zero)}"] * bool(zero)
    if CLEAN not in columns or below(CLEAN, draws.means) is None:
        return mce, NOTHING, [*notes, "no relative mCE: no clean images of the same samples"]
    relative = draws.interval(lambda means: ratio(means, True))
    worse = [name for name, b in zip(names, parts(draws.means, True)[1], strict=True) if b <= 1e-12]
    if worse:
        notes.append(f"no relative mCE: {baseline.name} is no worse than on clean images under {', '.join(worse)}")
    for what, value in (("mCE", mce), ("relative mCE", relative)):
        if not math.isnan(value.value) and math.isnan(value.low):
            notes.append(f"no interval of the {what}: in more than 1 % of the resamples it divides by 0 or less")
    return mce, relative, notes
