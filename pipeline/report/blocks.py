"""Margins per block of frequencies, of one classifier or of two that are compared on the same images."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from pipeline.report import statistics
from pipeline.report.outcomes import REFERENCE, Outcomes
from pipeline.report.statistics import Array, Interval

OWNERS = ["dataset", "classifier", "measurement"]
ROUNDING = 1e-9  # share of the largest energy; that of float32 rounding is below 1e-12
ADVERSARIAL = ("adversarial", "fast", "free", "mart", "trades")  # methods that train on adversarial images


@dataclass(frozen=True, eq=False)
class Blocks:
    """Margins of one classifier in one measurement's blocks.

    Attributes:
        outcomes: of the classifier.
        measurement: id of the measurement.
        starts: first row and first column of each block in the coefficient plane.
        margins: sample x block, of the images that are classified correctly and have every block; +inf if none was
            found.
        energy: squared l2 norm of each image's component in the block, likewise; None if the table does not have it.
    """

    outcomes: Outcomes
    measurement: str
    starts: Sequence[tuple[int, int]]
    margins: pd.DataFrame
    energy: pd.DataFrame | None

    @property
    def diagonal(self) -> Blocks:
        """The blocks on the diagonal alone, from low to high frequency."""
        places = sorted(
            (i for i, (row, column) in enumerate(self.starts) if row == column), key=self.starts.__getitem__
        )
        energy = None if self.energy is None else self.energy.iloc[:, places]
        starts = [self.starts[i] for i in places]
        return Blocks(self.outcomes, self.measurement, starts, self.margins.iloc[:, places], energy)

    @property
    def frequencies(self) -> list[int]:
        """First row of each block."""
        return [row for row, _ in self.starts]


class Pair(NamedTuple):
    """Two measurements of the same blocks on the images that both have.

    Attributes:
        reference: what the other is compared with.
        other: what is compared with it.
        measured: (images, 2 or 3, blocks): margins of the reference, of the other, and energies of the reference.
    """

    reference: Blocks
    other: Blocks
    measured: Array

    def interval(self, statistic: Callable[[Array], Any], seed: int, *names: str) -> Interval:
        """A statistic, (..., n, m, k) -> (...), with its bootstrap interval: an image's blocks stay together."""
        owners = [part for blocks in (self.reference, self.other) for part in names_of(blocks)]
        return statistics.bootstrap(self.measured, statistic, seed=statistics.stream(seed, *owners, *names))

    def ratios(self, seed: int) -> list[Interval]:
        """Per block the median margin of the other, divided by that of the reference."""
        singles = [self._replace(measured=part[..., None]) for part in np.moveaxis(self.measured, -1, 0)]
        return [single.interval(_only_gain, seed, "ratio", str(place)) for place, single in enumerate(singles)]


def gather(rows: pd.DataFrame, classifiers: Sequence[Outcomes]) -> list[Blocks]:
    """Blocks of every data set, classifier and measurement of a table; in the order of the classifiers."""
    if rows.empty:
        return []
    known = {(o.dataset, o.classifier): o for o in classifiers}
    place = {key: number for number, key in enumerate(known)}
    rows = rows.assign(column=_columns(rows))
    found = []
    for (dataset, classifier, measurement), part in rows.groupby(OWNERS, sort=True):
        key = (str(dataset), str(classifier))
        outcomes = known.get(key) or bare(part)
        starts = part.drop_duplicates("block").sort_values("block")[["block", "frequency", "column"]]
        part = part[part["correct"].astype(bool)].drop_duplicates(["sample", "block"])
        margin = part["margin"].astype(float).where(part["converged"].astype(bool), math.inf)
        margins = _wide(part.assign(margin=margin), "margin", starts["block"])
        energy = _wide(part, "energy", starts["block"]) if "energy" in part else None
        corners = [(int(row), int(column)) for row, column in starts[["frequency", "column"]].to_numpy()]
        found.append((place.get(key, len(place)), Blocks(outcomes, str(measurement), corners, margins, energy)))
    return [blocks for _, blocks in sorted(found, key=lambda pair: pair[0])]


def bare(rows: pd.DataFrame) -> Outcomes:
    """The classifier that rows are about, of which nothing else is known."""
    first: dict[Any, Any] = rows.iloc[0].to_dict()
    seed = None if pd.isna(first["seed"]) else int(first["seed"])
    dataset, classifier, architecture, training = (
        str(first[name]) for name in ("dataset", "classifier", "architecture", "training")
    )
    return Outcomes(dataset, classifier, architecture, training, seed)


def _wide(part: pd.DataFrame, column: str, blocks: pd.Series[Any]) -> pd.DataFrame:
    wide = part.pivot_table(index="sample", columns="block", values=column, aggfunc="first")
    return wide.reindex(columns=blocks).dropna().sort_index().astype(float)


def names_of(blocks: Blocks) -> tuple[str, str, str]:
    """Data set, classifier and measurement."""
    return blocks.outcomes.dataset, blocks.outcomes.classifier, blocks.measurement


def grids(rows: pd.DataFrame) -> list[str]:
    """Ids of the measurements that have blocks off the diagonal, in order; a table without `column` has none."""
    return sorted(set(rows.loc[_columns(rows) != rows["frequency"], "measurement"].astype(str)))


def _columns(rows: pd.DataFrame) -> pd.Series[Any]:
    return rows["column"].fillna(rows["frequency"]) if "column" in rows else rows["frequency"]


def profiles(everything: Sequence[Blocks]) -> list[Blocks]:
    """The diagonal of each measurement; of those with other blocks alone where a classifier has no more than them."""
    plain = {names_of(b) for b in everything if all(row == column for row, column in b.starts)}
    owners = {owner[:2] for owner in plain}
    chosen = [b.diagonal for b in everything if names_of(b) in plain or names_of(b)[:2] not in owners]
    return [b for b in chosen if len(b.starts) > 1 and len(b.margins)]


def derived(config: Mapping[str, Any], kind: str) -> Iterator[tuple[str, str, int]]:
    """Data sets that differ in their frequency map alone.

    Args:
        config: as the user wrote it; `datasets` is read.
        kind: `flip` or `low_pass`.

    Yields:
        Id of the data set without a map, id of the one with it, and the map's bandwidth (0 for a flip).
    """
    plain: dict[str, str] = {}
    mapped: list[tuple[str, str, int]] = []
    for dataset, given in config.get("datasets", {}).items():
        entry = {"source": dataset, **(given or {})}
        frequency = entry.pop("frequency", None)
        key = json.dumps(entry, sort_keys=True, default=str)
        if frequency is None:
            plain.setdefault(key, dataset)
        elif frequency == kind or (isinstance(frequency, Mapping) and kind in frequency):
            mapped.append((key, dataset, 0 if frequency == kind else int(frequency[kind])))
    yield from ((plain[key], dataset, bandwidth) for key, dataset, bandwidth in mapped if key in plain)


def across(everything: Sequence[Blocks], reference: str, other: str) -> list[Pair]:
    """The same classifier on two data sets, in the same blocks, on the images that both have."""
    mine = {names_of(b)[1:]: b for b in everything if b.outcomes.dataset == reference}
    theirs = [b for b in everything if b.outcomes.dataset == other and names_of(b)[1:] in mine]
    pairs = [_pair(mine[names_of(b)[1:]], b) for b in theirs]
    return [pair for pair in pairs if pair is not None]


def hardened(everything: Sequence[Blocks], config: Mapping[str, Any] | None) -> list[Pair]:
    """Adversarial against standard training of the same architecture and seed, with the energies of the images.

    Args:
        everything: of any data sets.
        config: says the method of each training; without it a training is called as its method.
    """
    methods = {
        name: dict(entry or {}).get("method", name) for name, entry in (config or {}).get("trainings", {}).items()
    }
    trained = {b: methods.get(b.outcomes.training, b.outcomes.training) for b in everything}
    standard: dict[tuple[Any, ...], Blocks] = {}
    for b in sorted(everything, key=lambda b: b.outcomes.training != REFERENCE):
        if trained[b] == "standard" and b.energy is not None:
            standard.setdefault(_setting(b), b)
    robust = [b for b in everything if trained[b] in ADVERSARIAL]
    pairs = [_pair(standard[_setting(b)], b, energy=True) for b in robust if _setting(b) in standard]
    return [pair for pair in pairs if pair is not None]


def _setting(blocks: Blocks) -> tuple[Any, ...]:
    o = blocks.outcomes
    return o.dataset, o.architecture, o.seed, blocks.measurement


def _pair(reference: Blocks, other: Blocks, energy: bool = False) -> Pair | None:
    parts = [reference.margins, other.margins]
    if energy and reference.energy is not None:
        parts.append(reference.energy)
    shared = functools.reduce(pd.Index.intersection, (part.index for part in parts)).sort_values()
    if not len(shared) or list(reference.starts) != list(other.starts):
        return None
    return Pair(reference, other, np.stack([part.loc[shared].to_numpy(dtype=float) for part in parts], axis=1))


def medians(values: Array) -> Array:
    """Median over the images: (..., n, m, k) -> (..., m, k)."""
    return np.asarray(np.median(values, axis=-3))


def quotient(numerator: Array, denominator: Array) -> Array:
    """Ratio of two margins; that of two infinite ones is 1, as neither is known to be larger."""
    both = np.isinf(numerator) & np.isinf(denominator)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(both | (numerator == denominator), 1.0, numerator / denominator))


def gain(values: Array) -> Array:
    """Ratio of median margins, of the other over the reference: (..., n, m, k) -> (..., k)."""
    middle = medians(values)
    return quotient(middle[..., 1, :], middle[..., 0, :])


def _only_gain(values: Array) -> Array:
    return np.asarray(gain(values)[..., 0])


def rank_correlation(first: Array, second: Array) -> Array:
    """Spearman's rank correlation over the last axis, (..., k) -> (...); 0 where one of the two is constant.

    Spearman, "The proof and measurement of association between two things", American Journal of Psychology 15 (1904);
    ties, such as infinite margins, share their mean rank.
    """
    ranks = [scipy.stats.rankdata(part, axis=-1) for part in (first, second)]
    one, two = (rank - rank.mean(axis=-1, keepdims=True) for rank in ranks)
    size = np.sqrt((one**2).sum(axis=-1) * (two**2).sum(axis=-1))
    return np.asarray(np.divide((one * two).sum(axis=-1), size, out=np.zeros_like(size), where=size > 0))


def mirrored(values: Array) -> Array:
    """Rank correlation of the reference's medians with the other's in reverse: (..., n, m, k) -> (...).

    The reverse of a block is exact where the last block ends at the highest frequency, as the first begins at 0.
    """
    middle = medians(values)
    return rank_correlation(middle[..., 0, :], middle[..., 1, ::-1])


def against_energy(values: Array) -> Array:
    """Rank correlation of the gain with the mean energy: (..., n, 3, k) -> (...)."""
    energy = values[..., 2, :].mean(axis=-2)
    return rank_correlation(gain(values), np.where(negligible(energy), 0, energy))


def negligible(energy: Array) -> Array:
    """Where there is nothing but rounding, as in blocks that a low-pass left empty: (..., k) -> (..., k) bool."""
    return np.asarray(energy <= ROUNDING * energy.max(axis=-1, keepdims=True))
