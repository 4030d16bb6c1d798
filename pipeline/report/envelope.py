"""How near each attack that minimises a norm comes to the smallest perturbation that any attack found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.report import heatmap, statistics
from pipeline.report.leaderboard import NUMBER
from pipeline.report.outcomes import NORMS, THREAT, Outcomes, Threat
from pipeline.report.pagetables import Table, estimate, whole, words
from pipeline.report.rendering import number
from pipeline.report.statistics import Interval
from pipeline.report.style import Chart, count, record, render

SECTION = "Attacks side by side"
WITHIN = 0.01  # share of the envelope by which a perturbation may exceed it and still count as the smallest


class Gap(NamedTuple):
    """An attack against the envelope of all attacks, on the images of one classifier.

    Attributes:
        outcomes: of the classifier.
        threat: the attack.
        n: images that are classified correctly and that some attack perturbed with success.
        envelope: median of the smallest norm that any attack found.
        ratio: median of the attack's norm divided by the smallest one.
        excess: median of the attack's norm minus the smallest one.
        within: share of images on which the attack's norm is within 1 % of the smallest one.
    """

    outcomes: Outcomes
    threat: Threat
    n: int
    envelope: Interval
    ratio: Interval
    excess: Interval
    within: Interval


def found(outcomes: Outcomes, column: str) -> pd.DataFrame:
    """A norm of what every attack found, sample x threat, of samples that all have; +inf where an attack failed.

    Args:
        outcomes: of a classifier.
        column: of the perturbation table.
    """
    rows = outcomes.attacks
    norms = rows.assign(norm_found=rows[column].astype(float).where(rows["converged"].astype(bool), math.inf))
    wide = norms.pivot_table(index="sample", columns=THREAT, values="norm_found").dropna()
    threats = [Threat(str(key[0]), str(key[1]), float(key[2])) for key in wide.columns.to_list()]
    return wide.set_axis(pd.Index(threats, tupleize_cols=False), axis=1)


def gaps(classifiers: Sequence[Outcomes], seed: int = 0) -> list[Gap]:
    """Every attack that minimises a norm against the smallest perturbation found, per classifier.

    The smallest perturbation in a norm is taken over the successful images of all attacks, those with a budget and
    those in other norms as well: each is a perturbation that fools. A failure counts as infinite. Left out are images
    that are misclassified anyway or that no attack perturbed with success, and classifiers with a single attack.

    After the local optimality of AttackBench (Cinà, Rony, Pintor, Demetrio, Demontis, Biggio, Ben Ayed, Roli, AAAI
    2025), which also compares attacks with the best result per image. Departures: that is one number, a ratio of areas
    under curves of robust accuracy, over a fixed collection of attacks at a fixed number of queries; here medians and a
    share over images, over the attacks of this run as they are configured.
    """
    return [
        gap
        for outcomes in classifiers
        for column in dict.fromkeys(NORMS[threat.norm][0] for threat in outcomes.minimal)
        for gap in _gaps(outcomes, column, seed)
    ]


def _gaps(outcomes: Outcomes, column: str, seed: int) -> Iterator[Gap]:
    norms = found(outcomes, column)
    smallest = norms.min(axis=1)
    known = (smallest > 0) & (smallest < math.inf)
    norms, best = norms[known], smallest[known].to_numpy(dtype=float)
    if not len(best) or norms.shape[1] < 2:
        return

    def median(values: Any, *names: str) -> Interval:
        stream = statistics.stream(seed, outcomes.dataset, outcomes.classifier, "envelope", column, *names)
        return statistics.bootstrap(values, statistics.median, seed=stream)

    envelope = median(best)
    for threat in outcomes.minimal:
        if NORMS[threat.norm][0] == column:
            own = norms[threat].to_numpy(dtype=float)
            within = statistics.share(own <= (1 + WITHIN) * best)
            ratio, excess = median(own / best, threat.attack, "ratio"), median(own - best, threat.attack, "excess")
            yield Gap(outcomes, threat, len(best), envelope, ratio, excess, within)


def draw(classifiers: Sequence[Outcomes], seed: int = 0) -> Iterator[Chart]:
    """The share of images on which each attack is as good as the best, for the classifiers of one data set."""
    results = gaps(classifiers, seed)
    if not results:
        return
    columns = [o.classifier for o in classifiers if o in {gap.outcomes for gap in results}]
    norms = dict.fromkeys(NORMS[gap.threat.norm][0] for gap in results)
    grids = [_grid([g for g in results if NORMS[g.threat.norm][0] == norm], columns) for norm in norms]
    with heatmap.drawn(grids) as figure:
        png, vector = render(figure)
    data = pd.DataFrame(map(_record, results))
    caption = (
        f"Attacks that minimise a norm on {classifiers[0].dataset}, each against the smallest successful perturbation "
        "that any attack of this run found for the same image, with or without a budget, whatever norm it aims at "
        f"({count(data['n'].tolist())} that are classified correctly and that some attack perturbed with success). "
        "Colour and first number: share of images on which the attack is within 1 % of the smallest perturbation; "
        "second: median ratio to it. A failure counts as infinite. The more attacks, the nearer the smallest "
        "perturbation found is to the true one. After AttackBench's local optimality (Cinà et al., AAAI 2025), which "
        "compares areas under curves instead. Table: 95 % intervals, Wilson for shares, bootstrap for medians."
    )
    alt = f"Heat maps of {len(results)} pairs of attack and classifier. " + "; ".join(
        f"{gap.threat} on {gap.outcomes.classifier} {100 * gap.within.value:.0f} %" for gap in results
    )
    yield Chart(
        "envelope", "Nearness to the smallest perturbation", caption, alt, png, vector, data, SECTION, _table(results)
    )


def _grid(results: Sequence[Gap], columns: Sequence[str]) -> heatmap.Grid:
    _, symbol, _ = NORMS[results[0].threat.norm]
    rows = list(dict.fromkeys(gap.threat.attack for gap in results))
    shares = np.full((len(rows), len(columns)), math.nan)
    texts = [["–"] * len(columns) for _ in rows]
    for gap in results:
        row, column = rows.index(gap.threat.attack), columns.index(gap.outcomes.classifier)
        shares[row, column] = gap.within.value
        texts[row][column] = f"{100 * gap.within.value:.0f} %\n×{number(gap.ratio.value, NUMBER)}"
    return heatmap.Grid(f"{symbol}: share within 1 % of the smallest, median ratio to it", rows, columns, shares, texts)


def _record(gap: Gap) -> dict[str, Any]:
    own = {"attack": gap.threat.attack, "norm": gap.threat.norm, "n": gap.n}
    for name in ("envelope", "ratio", "excess", "within"):
        value: Interval = getattr(gap, name)
        own |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    return record(gap.outcomes, **own)


def _table(results: Sequence[Gap]) -> Table:
    headers = (
        "Classifier",
        "Attack",
        "n",
        "Median of the smallest found",
        "Median ratio to it",
        "Median excess over it",
        "Within 1 % of it [%]",
    )
    rows = []
    for gap in results:
        numbers = [estimate(value, NUMBER) for value in (gap.envelope, gap.ratio, gap.excess)]
        rows.append([*words(gap.outcomes.classifier, str(gap.threat)), whole(gap.n), *numbers, estimate(gap.within)])
    return Table(headers, rows)
