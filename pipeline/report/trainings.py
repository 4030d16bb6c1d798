"""What a training does, whatever its seed: its classifiers over seeds, and trainings against each other."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report import outcomes as sources
from pipeline.report import seeds, statistics
from pipeline.report._training_figures import Gap, Measure, Training, against, overview
from pipeline.report.leaderboard import CLEAN, CORRUPTED, NUMBER, SHARE, WORST, of_suite
from pipeline.report.outcomes import BROUGHT, NORMS, Outcomes
from pipeline.report.statistics import Array, Interval
from pipeline.report.style import Chart, Look

SECTION = "Trainings over seeds"
TEXT = (
    "A training with another seed gives another classifier, so that one classifier says little of its training. Here a "
    "training is the mean over its seeds, and the interval is for other images and other seeds. With two seeds it is "
    "wide, as two numbers hardly tell how far a third would lie: that is what is known. Trainings with a single seed, "
    "of whose spread nothing is known, and classifiers that were brought are left out."
)
FEWEST = 2  # seeds of a training, and images


def measures(members: Sequence[Outcomes]) -> list[Measure]:
    """What the classifiers of one data set are compared in: numbers that mean the same for all that have them."""
    found = []
    if any(o.clean is not None for o in members):
        found.append(
            Measure(CLEAN.header, SHARE, lambda o: None if o.clean is None else o.clean["correct"].astype(bool))
        )
    suites = sources.suites(members)
    for suite in suites:
        given = [set(o.views(suite)) for o in members if o.views(suite)]
        views = sorted(set.intersection(*given))
        if views:
            found.append(Measure(of_suite(CORRUPTED, suite, suites).header, SHARE, _corrupted(views)))
    threats = Counter(tuple(o.fixed) for o in members if o.fixed)
    if threats:
        usual = threats.most_common(1)[0][0]
        found.append(Measure(WORST.header, SHARE, lambda o: o.worst_case if tuple(o.fixed) == usual else None))
    for threat in sorted({threat for o in members for threat in o.minimal}):
        header = f"Median {threat.symbol}, {threat.attack} [{NORMS[threat.norm][2]}]"
        found.append(Measure(header, NUMBER, lambda o, threat=threat: o.norms.get(threat)))  # type: ignore[misc]
    return found


def _corrupted(views: Sequence[tuple[str, int]]) -> Callable[[Outcomes], pd.Series[Any] | None]:
    def values(outcomes: Outcomes) -> pd.Series[Any] | None:
        if not set(views) <= set(outcomes.corrupted.columns):
            return None
        return outcomes.corrupted[list(views)].dropna().mean(axis=1)

    return values


def groups(members: Sequence[Outcomes]) -> list[list[Outcomes]]:
    """Classifiers of each training of each architecture, of one data set, where they are of two seeds at least."""
    found: dict[tuple[str, str], list[Outcomes]] = {}
    for outcomes in members:
        if outcomes.training != BROUGHT and outcomes.seed is not None:
            found.setdefault((outcomes.architecture, outcomes.training), []).append(outcomes)
    return [own for own in found.values() if len(own) >= FEWEST]


def trainings(members: Sequence[Outcomes], seed: int) -> list[Training]:
    """Every training of one data set in every measure that two of its seeds have."""
    found = []
    for measure in measures(members):
        for group in groups(members):
            given = {o.classifier: line for o in group if (line := measure.values(o)) is not None}
            table = pd.concat(given, axis=1, join="inner") if len(given) >= FEWEST else pd.DataFrame()
            if len(table) < FEWEST:
                continue
            own = [o for o in group if o.classifier in given]
            names = (own[0].dataset, own[0].architecture, own[0].training, measure.header)
            stream = statistics.stream(seed, *names, "seeds")
            array = table.to_numpy(dtype=float).T
            each = [
                _own(line, measure, statistics.stream(seed, *names, o.classifier))
                for o, line in zip(own, array, strict=True)
            ]
            mean = seeds.estimate(array, measure.statistic, stream)
            spread = seeds.deviation([value.value for value in each])
            found.append(Training(own, measure, table, each, mean, spread))
    return found


def _own(values: Array, measure: Measure, seed: int) -> Interval:
    """A seed's number with its interval for other images."""
    if np.isin(values, (0, 1)).all() and measure.kind == SHARE:
        return statistics.share(values)
    return statistics.bootstrap(values, measure.statistic, seed=seed)


def gaps(found: Sequence[Training], seed: int) -> list[Gap]:
    """All pairs of trainings of one architecture and measure, of one data set."""
    results = []
    for one, other in itertools.combinations(found, 2):
        first = one.members[0]
        if one.measure is not other.measure or first.architecture != other.members[0].architecture:
            continue
        samples = one.table.index.intersection(other.table.index).sort_values()
        if len(samples) < FEWEST:
            continue
        stream = statistics.stream(seed, first.dataset, one.name, other.name, one.measure.header)
        mine, theirs = (part.table.loc[samples].to_numpy(dtype=float).T for part in (other, one))
        gap = seeds.difference(mine, theirs, one.measure.statistic, stream)
        results.append(Gap(other, one, len(samples), gap.value, gap.p, gap.p))
    known = [place for place, gap in enumerate(results) if not math.isnan(gap.p)]
    for place, p in zip(known, statistics.holm([results[place].p for place in known]), strict=True):
        results[place] = results[place]._replace(adjusted=p)
    return results


def draw(classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Trainings of one data set over their seeds, and their differences; none where every training has one seed.

    Args:
        classifiers: of one data set.
        look: colours and markers.
        seed: of the bootstrap.
    """
    found = trainings(classifiers, seed)
    if not found:
        return
    yield overview(found, look)
    if differences := gaps(found, seed):
        yield against(differences)
