"""Numbers of attacks that several leaderboards share."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence

import pandas as pd

from pipeline.report import statistics
from pipeline.report.board_columns import NUMBER, SHARE, WORST, Column, Measure, slug
from pipeline.report.board_measures import each
from pipeline.report.outcomes import NORMS, THREAT, Outcomes, Threat
from pipeline.report.statistics import Interval

# column of the perturbation table -> what the name of its leaderboard column ends in
SMALLEST = {"l2": "l2", "linf": "linf", "l1": "l1", "l0_pixels": "l0", "l0_entries": "l0_entries"}


def worst_case(classifiers: Sequence[Outcomes], seed: int) -> Measure:
    """Accuracy under all attacks with a budget."""
    return each(WORST, classifiers, seed, lambda o, _: None if o.worst_case is None else statistics.share(o.worst_case))


def minimised(classifiers: Sequence[Outcomes]) -> list[str]:
    """Norms, as columns of the perturbation table, that attacks of the run minimise."""
    found = {NORMS[threat.norm][0] for o in classifiers for threat in o.minimal}
    return [column for column in SMALLEST if column in found]


def smallest(outcomes: Outcomes, column: str) -> pd.Series[float] | None:
    """Smallest norm with which any attack succeeded, whatever norm it aims at, of the samples that all attacks have.

    0 for images that are misclassified anyway, inf where no attack succeeded; None without attacks.
    """
    rows = outcomes.attacks
    if rows.empty:
        return None
    sizes = rows[column].astype(float).where(rows["converged"].astype(bool), math.inf).groupby(rows["sample"])
    attacks = len(rows[THREAT].drop_duplicates())
    return sizes.min()[sizes.size() == attacks]


def smallest_column(norm: str) -> Column:
    """The column of the smallest perturbations in a norm."""
    _, symbol, unit = NORMS[norm]
    return Column(
        slug("median_smallest", SMALLEST[norm]),
        f"Median smallest {symbol}, all attacks [{unit}]",
        NUMBER,
        f"median over all images of the smallest {symbol} norm ({unit}) with which any attack of the run succeeded, "
        "whatever norm it aims at: an upper bound, the closer the more attacks there are; an image that is "
        "misclassified anyway counts as 0, one that no attack perturbed with success as infinite",
        "perturbation",
    )


def median_smallest(classifiers: Sequence[Outcomes], norm: str, seed: int) -> Measure:
    """Median of the smallest perturbations in a norm, of classifiers on which an attack minimised it."""

    def estimate(outcomes: Outcomes, seed: int) -> Interval | None:
        values = smallest(outcomes, norm) if norm in minimised([outcomes]) else None
        return None if values is None else statistics.bootstrap(values, statistics.median, seed=seed)

    return each(smallest_column(norm), classifiers, seed, estimate)


def of_threat(threat: Threat, several: bool) -> str:
    """The rows of an attack; `several`: whether others have its id."""
    query = f"attack == {threat.attack!r} and norm == {threat.norm!r}"
    if threat.minimal:
        return query + (" and epsilon != epsilon" if several else "")
    return f"{query} and epsilon == {threat.epsilon!r}"


def by_attack(classifiers: Sequence[Outcomes], chosen: Collection[Threat], seed: int) -> Iterator[Measure]:
    """Some attacks, each for itself: accuracy under one with a budget, the median norm of one that minimises it."""
    threats = {threat for o in classifiers for threat in o.norms}
    for threat in sorted(chosen, key=lambda t: (t.minimal, t)):
        query = of_threat(threat, several=sum(t.attack == threat.attack for t in threats) > 1)
        yield each(_column(threat)._replace(query=query), classifiers, seed, _estimate(threat))


def _column(threat: Threat) -> Column:
    _, symbol, unit = NORMS[threat.norm]
    if threat.minimal:
        return Column(
            slug("median", threat.norm, threat.attack),
            f"Median {symbol} to misclassification, {threat.attack} [{unit}]",
            NUMBER,
            f"median over all images of the smallest {symbol} norm found by {threat.attack} ({unit}); an image that is "
            "misclassified anyway counts as 0, one without a perturbation found as infinite",
            "perturbation",
        )
    return Column(
        slug("robust_accuracy", threat.attack, threat.norm, f"{threat.epsilon:.4g}"),
        f"Robust accuracy, {threat} [%]",
        SHARE,
        f"share of images that survive {threat.attack} with {symbol} at most {threat.epsilon:.4g} (pixel range = 1)",
        "perturbation",
    )


def _estimate(threat: Threat) -> Callable[[Outcomes, int], Interval | None]:
    def estimate(outcomes: Outcomes, seed: int) -> Interval | None:
        if threat not in outcomes.norms:
            return None
        if threat.minimal:
            return statistics.bootstrap(outcomes.norms[threat], statistics.median, seed=seed)
        return statistics.share(outcomes.robust(threat))

    return estimate
