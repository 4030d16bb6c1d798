"""Points of the decision boundary, as the report groups them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.report import statistics
from pipeline.report.blocks import bare
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval


class Points(NamedTuple):
    """Points of the boundary of one classifier's regions.

    Attributes:
        outcomes: the classifier.
        measurement: id of the measurement.
        view: id of the attack.
        rows: of all radii, of points that were found; `top` is the largest curvature in magnitude.
        radius: at which the numbers for the table are taken: the middle one of the differences (the lower one of two),
            NaN for exact derivatives if there are no others.
    """

    outcomes: Outcomes
    measurement: str
    view: str
    rows: pd.DataFrame
    radius: float

    def at(self, radius: float) -> pd.DataFrame:
        """Rows of one radius."""
        radii = self.rows["radius"]
        return self.rows[radii.isna() if math.isnan(radius) else radii == radius]

    def interval(self, values: pd.Series[Any], name: str, seed: int) -> Interval:
        """Median with a bootstrap interval over images."""
        o = self.outcomes
        stream = statistics.stream(seed, o.dataset, o.classifier, self.measurement, self.view, name)
        return statistics.bootstrap(values.to_numpy(dtype=float), statistics.median, seed=stream)


def gather(rows: pd.DataFrame, classifiers: Sequence[Outcomes]) -> list[Points]:
    """Points of every classifier, measurement and attack, in the order of the classifiers; none without a point."""
    known = {(o.dataset, o.classifier): o for o in classifiers}
    place = {key: at for at, key in enumerate(known)}
    found = []
    for (dataset, classifier, measurement, view), part in rows[rows["converged"].astype(bool)].groupby(
        ["dataset", "classifier", "measurement", "view"]
    ):
        key = (str(dataset), str(classifier))
        part = part.assign(radius=part["radius"].astype(float))
        part["top"] = np.maximum(part["largest"].abs(), part["smallest"].abs())
        radii = sorted(set(part["radius"].dropna()))
        middle = radii[(len(radii) - 1) // 2] if radii else math.nan
        points = Points(known.get(key) or bare(part), str(measurement), str(view), part, middle)
        found.append((place.get(key, len(place)), points))
    return [points for _, points in sorted(found, key=lambda pair: pair[0])]


def main(everything: Sequence[Points]) -> list[Points]:
    """Of several measurements of a data set with one attack, that with the most points (the first of equals)."""
    sizes: dict[tuple[str, str], dict[str, int]] = {}
    for points in everything:
        names = sizes.setdefault((points.outcomes.dataset, points.view), {})
        names[points.measurement] = names.get(points.measurement, 0) + points.rows["sample"].nunique()
    chosen = {(*key, max(names, key=lambda name: names[name])) for key, names in sizes.items()}
    return [p for p in everything if (p.outcomes.dataset, p.view, p.measurement) in chosen]


def mainly_negative(rows: pd.DataFrame) -> tuple[Interval, int, float]:
    """Share of points with more directions of clearly negative than of clearly positive curvature.

    Returns:
        The share of the points that have more of one kind (Wilson), their number, and p of the exact sign test.
    """
    negative, positive = (rows[name].to_numpy(dtype=float) for name in ("negative", "positive"))
    apart = negative != positive
    found = statistics.share(negative[apart] > positive[apart])
    return found, int(apart.sum()), statistics.sign_test(negative, positive)
