"""Margins in subspaces that need no images: along known features, orthogonal to them, and at random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report import subspace_figures
from pipeline.report.blocks import quotient
from pipeline.report.claims import Claim, judge
from pipeline.report.leaderboard import NUMBER
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval
from pipeline.report.style import Chart, Look
from pipeline.report.subspaces import COMPLEMENT, FIRST, SECOND, Subspaces, families, features, gather, median

KIND = "subspace_margin"
SECTION = "Margins in subspaces"
TEXT = (
    "How far the decision boundary is if a sample may change inside one subspace alone. Of synthetic data it is known "
    "which directions tell the classes apart: there the margin should be the data's own, and orthogonal to them far "
    "larger, as nothing holds the boundary close."
)


def draw(rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Margins per subspace of one data set; none where features are known, as `draw_across` shows those together.

    Args:
        rows: of one data set.
        classifiers: of the data set.
        look: colours and markers of its classifiers.
        seed: of the bootstrap.
    """
    everything = [s for s in gather(rows, classifiers) if FIRST not in s.margins]
    extra = [s.outcomes for s in everything if s.outcomes not in classifiers]
    look = Look([*classifiers, *extra], [*classifiers, *extra]) if extra else look
    for name in dict.fromkeys(s.measurement for s in everything):
        yield subspace_figures.margins([s for s in everything if s.measurement == name], {}, look, SECTION, seed)


def draw_across(
    rows: pd.DataFrame, classifiers: Sequence[Outcomes], config: Mapping[str, Any], seed: int
) -> Iterator[Chart]:
    """Figures of data sets whose features are known: margins per subspace, and against the second feature's size.

    Args:
        rows: of all data sets.
        classifiers: of all data sets.
        config: as the user wrote it: `datasets` is read.
        seed: of the bootstrap.
    """
    everything = [s for s in gather(rows, classifiers) if FIRST in s.margins]
    members = [s.outcomes for s in everything]
    look, known = Look(members, [*classifiers, *members]), features(config)
    for name in dict.fromkeys(s.measurement for s in everything):
        mine = [s for s in everything if s.measurement == name]
        yield subspace_figures.margins(mine, known, look, SECTION, seed)
        for family in families(config):
            shown = [s for s in mine if s.outcomes.dataset in family]
            if any(SECOND in s.margins and known[s.outcomes.dataset].rho for s in shown):
                yield subspace_figures.elasticity(shown, known, look, SECTION, seed)


def claims(
    rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int, config: Mapping[str, Any] | None = None
) -> Iterator[Claim]:
    """Claims on margins along known features and orthogonal to them, and what was measured.

    The claim on the discriminative direction is judged on data with one feature alone: with a second one the widest
    margin is (epsilon^2 + rho^2) / epsilon.

    Args:
        rows: of all data sets.
        classifiers: of all data sets.
        seed: of the bootstrap.
        config: as the user wrote it; without it the sizes of the features are not known.
    """
    known = features(config)
    for s in gather(rows, classifiers):
        feature = known.get(s.outcomes.dataset)
        if FIRST in s.margins and feature and not feature.rho:
            value, n = s.interval(lambda one, size=feature.epsilon: median(one) / size, seed, FIRST)
            what = f"median margin along the direction over epsilon = {feature.epsilon:g} ({s.measurement})"
            yield _claim("discriminative", s, what, n, value, judge(value, above=0.95, below=1.05))
        if FIRST in s.margins and COMPLEMENT in s.margins:
            value, n = s.interval(lambda one, other: quotient(median(other), median(one)), seed, FIRST, COMPLEMENT)
            what = f"median margin in {s.dimensions[COMPLEMENT]} orthogonal dimensions over that along the direction"
            yield _claim("orthogonal", s, f"{what} ({s.measurement})", n, value, judge(value, above=10))
        if SECOND in s.margins and COMPLEMENT in s.margins and feature and feature.rho:
            value, n = s.interval(lambda two, other: quotient(median(two), median(other)), seed, SECOND, COMPLEMENT)
            what = f"median margin along the second feature, of size {feature.rho:g}, over that in "
            what += f"{s.dimensions[COMPLEMENT]} dimensions orthogonal to both ({s.measurement})"
            yield _claim("elasticity", s, what, n, value, judge(value, below=0.5))


def _claim(key: str, s: Subspaces, measured: str, n: int, value: Interval, verdict: str) -> Claim:
    return Claim(key, s.outcomes.dataset, s.outcomes.classifier, measured, n, value, NUMBER, verdict)
