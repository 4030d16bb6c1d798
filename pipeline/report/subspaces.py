"""Margins per subspace of a table, and the features of synthetic data sets that they are compared with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.report import statistics
from pipeline.report.blocks import OWNERS, bare
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Array, Interval

FIRST, SECOND, COMPLEMENT = ("discriminative", 0), ("discriminative", 1), ("complement", 0)
EPSILON, RHO = 5.0, 0.0  # defaults of the source `synthetic`


@dataclass(frozen=True, eq=False)
class Subspaces:
    """Margins of one classifier in the subspaces of one measurement.

    Attributes:
        outcomes: of the classifier.
        measurement: id of the measurement.
        margins: (kind, number) -> sample x subspace, of the images that are classified correctly; +inf if none was
            found. `discriminative` has an entry per direction; of other kinds all subspaces stand together, number 0.
        dimensions: of the subspaces, likewise.
    """

    outcomes: Outcomes
    measurement: str
    margins: Mapping[tuple[str, int], pd.DataFrame]
    dimensions: Mapping[tuple[str, int], int]

    def interval(self, statistic: Any, seed: int, *kinds: tuple[str, int]) -> tuple[Interval, int]:
        """A statistic of the margins in some kinds, one array (..., n, k) each, on the samples that all of them have.

        Returns:
            Its bootstrap interval, in which a sample's subspaces stay together, and the number of samples.
        """
        frame = pd.concat([self.margins[kind] for kind in kinds], axis=1, join="inner").sort_index()
        ends = np.cumsum([self.margins[kind].shape[1] for kind in kinds])[:-1]
        owners = (self.outcomes.dataset, self.outcomes.classifier, self.measurement)
        stream = statistics.stream(seed, *owners, *(f"{kind} {number}" for kind, number in kinds))
        values = frame.to_numpy(dtype=float)
        found = statistics.bootstrap(values, lambda array: statistic(*np.split(array, ends, axis=-1)), seed=stream)
        return found, len(values)

    def median(self, kind: tuple[str, int], seed: int) -> tuple[Interval, int]:
        """Median margin over samples and subspaces, and the number of samples."""
        return self.interval(median, seed, kind)


class Synthetic(NamedTuple):
    """The features of a synthetic data set: the sizes of the first and of the second one."""

    epsilon: float
    rho: float


def gather(rows: pd.DataFrame, classifiers: Sequence[Outcomes]) -> list[Subspaces]:
    """Margins of every data set, classifier and measurement of a table; in the order of the classifiers."""
    known = {(o.dataset, o.classifier): o for o in classifiers}
    place = {key: number for number, key in enumerate(known)}
    found = []
    for (dataset, classifier, measurement), part in rows.groupby(OWNERS, sort=True):
        key = (str(dataset), str(classifier))
        outcomes = known.get(key) or bare(part)
        part = part[part["correct"].astype(bool)].drop_duplicates(["sample", "subspace", "index"])
        margin = part["margin"].astype(float).where(part["converged"].astype(bool), math.inf)
        number = part["index"].where(part["subspace"] == "discriminative", 0)
        part = part.assign(margin=margin, number=number)
        margins, dimensions = {}, {}
        for (kind, which), own in part.groupby(["subspace", "number"]):
            name = (str(kind), int(str(which)))
            wide = own.pivot_table(index="sample", columns="index", values="margin", aggfunc="first").dropna()
            margins[name] = wide
            dimensions[name] = int(own["dimension"].iloc[0])
        if margins:
            found.append((place.get(key, len(place)), Subspaces(outcomes, str(measurement), margins, dimensions)))
    return [subspaces for _, subspaces in sorted(found, key=lambda pair: pair[0])]


def features(config: Mapping[str, Any] | None) -> dict[str, Synthetic]:
    """The features of the config's synthetic data sets as they are, by id."""
    found = {}
    for dataset, given in (config or {}).get("datasets", {}).items():
        entry = {"source": dataset, **(given or {})}
        if entry["source"] == "synthetic" and not entry.get("frequency"):
            found[dataset] = Synthetic(_number(entry.get("epsilon", EPSILON)), _number(entry.get("rho", RHO)))
    return found


def _number(value: Any) -> float:
    """Numbers of a config may be written as fractions."""
    numerator, _, denominator = str(value).partition("/")
    return float(numerator) / float(denominator or 1)


def families(config: Mapping[str, Any] | None) -> list[list[str]]:
    """Synthetic data sets that differ in the size of the second feature alone, from the smallest to the largest."""
    known, groups = features(config), dict[str, list[str]]()
    for dataset in known:
        entry = {key: value for key, value in ((config or {})["datasets"][dataset] or {}).items() if key != "rho"}
        groups.setdefault(json.dumps(entry, sort_keys=True, default=str), []).append(dataset)
    return [sorted(group, key=lambda name: known[name].rho) for group in groups.values()]


def median(margins: Array) -> Array:
    """Over samples and subspaces: (..., n, k) -> (...)."""
    return np.asarray(np.median(margins, axis=(-2, -1)))
