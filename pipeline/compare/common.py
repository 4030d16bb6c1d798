"""What two runs have in common: rows of the same views, attacks and measurements, side by side in one set of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from pipeline.compare.folders import Folder
from pipeline.report.outcomes import KEYS

BEFORE, AFTER = "before/", "after/"  # stand before the ids of data sets
# kind -> columns that say what a row is of, beside data set, classifier and image
PARTS: Mapping[str, Sequence[str]] = {
    "accuracy": ("kind", "view", "severity"),
    "perturbation": ("attack", "norm", "epsilon"),
    "transfer": ("attack", "source", "norm", "epsilon"),
}
OTHERS = ("measurement", "view")  # likewise, of all other kinds

Place = tuple[str, str]  # data set, classifier
Part = tuple[str, ...]


class Images(NamedTuple):
    """The evaluation images of a data set.

    Attributes:
        before: number of them in the first run.
        after: in the second.
        shared: ids that both have.
        labels: ids with other labels in the second run.
        files: whether the files of evaluation images are the same; None if one is not there.
    """

    before: int
    after: int
    shared: int
    labels: int
    files: bool | None

    @property
    def same(self) -> bool:
        """Whether equal ids stand for the same images."""
        return self.shared > 0 and self.labels == 0


def parts(kind: str, table: pd.DataFrame) -> dict[Place, set[Part]]:
    """What there are rows of, by classifier."""
    names = [*KEYS, *(name for name in PARTS.get(kind, OTHERS) if name in table)]
    found: dict[Place, set[Part]] = {}
    for dataset, classifier, *rest in table[names].drop_duplicates().itertuples(index=False):
        found.setdefault((str(dataset), str(classifier)), set()).add(_texts(rest))
    return found


def restricted(one: Folder, other: Folder) -> dict[str, pd.DataFrame]:
    """Tables of a run without what the other one has not measured of the same classifier.

    Classifiers that the other run lacks are kept, as numbers of others may be divided by theirs.
    """
    tables = {}
    for kind, table in one.tables.items():
        own, theirs = parts(kind, table), parts(kind, other.tables[kind]) if kind in other.tables else {}
        shared = one.classifiers & other.classifiers
        if any(own[place] - theirs.get(place, set()) for place in own if place in shared):
            names = [*KEYS, *(name for name in PARTS.get(kind, OTHERS) if name in table)]
            kept = []
            for (dataset, classifier, *rest), rows in table.groupby(names, dropna=False, sort=False):
                place = (str(dataset), str(classifier))
                if place not in shared or _texts(rest) in theirs.get(place, set()):
                    kept.append(rows)
            table = pd.concat(kept).sort_index() if kept else table.iloc[:0]
        if len(table):
            tables[kind] = table
    return tables


def joined(
    before: Mapping[str, pd.DataFrame], after: Mapping[str, pd.DataFrame], left_out: set[str]
) -> dict[str, pd.DataFrame]:
    """Tables of both runs as those of one, so that equal numbers are in columns of equal names.

    Args:
        before: kind -> rows of the first run.
        after: of the second.
        left_out: data sets of which the first run's rows are left out, as they are the same.
    """
    found = {}
    for kind in sorted({*before, *after}):
        sides = []
        for prefix, tables in ((BEFORE, before), (AFTER, after)):
            rows = tables.get(kind)
            if rows is not None:
                rows = rows[~rows["dataset"].isin(left_out)] if prefix == BEFORE else rows
                sides.append(rows.assign(dataset=prefix + rows["dataset"].astype(str)))
        sides = [side for side in sides if len(side)]
        if sides:
            found[kind] = pd.concat(sides, ignore_index=True)
    return found


def equal(before: Mapping[str, pd.DataFrame], after: Mapping[str, pd.DataFrame]) -> set[tuple[str, Place]]:
    """(kind, classifier) of which both runs have the same rows, bit for bit."""
    found = set()
    for kind in before.keys() & after.keys():
        second = dict(_by_classifier(after[kind]))
        for place, rows in _by_classifier(before[kind]):
            if place in second and rows.reset_index(drop=True).equals(second[place].reset_index(drop=True)):
                found.add((kind, place))
    return found


def images(before: Folder, after: Folder) -> dict[str, Images]:
    """The evaluation images of every data set that both runs have."""
    labels = [_labels(folder) for folder in (before, after)]
    found = {}
    for dataset in sorted(labels[0].keys() & labels[1].keys()):
        one, other = (own[dataset] for own in labels)
        shared = one.keys() & other.keys()
        changed = sum(one[sample] != other[sample] and None not in (one[sample], other[sample]) for sample in shared)
        hashes = [folder.images.get(dataset) for folder in (before, after)]
        files = None if None in hashes else hashes[0] == hashes[1]
        found[dataset] = Images(len(one), len(other), len(shared), changed, files)
    return found


def _labels(folder: Folder) -> dict[str, dict[str, int | None]]:
    """Data set -> image -> label, None where no table tells it."""
    found: dict[str, dict[str, int | None]] = {}
    for table in folder.tables.values():
        names = ["dataset", "sample", *(["label"] if "label" in table else [])]
        for dataset, sample, *label in table[names].drop_duplicates().itertuples(index=False):
            known = found.setdefault(str(dataset), {})
            if label and not pd.isna(label[0]):
                known[str(sample)] = int(label[0])
            else:
                known.setdefault(str(sample), None)
    return found


def _by_classifier(table: pd.DataFrame) -> Iterator[tuple[Place, pd.DataFrame]]:
    for (dataset, classifier), rows in table.groupby(KEYS, sort=False):
        yield (str(dataset), str(classifier)), rows


def _texts(values: Sequence[object]) -> Part:
    """Values as texts, so that a missing one equals a missing one and 2 equals 2.0."""
    return tuple("" if pd.isna(v) else f"{v:g}" if isinstance(v, int | float) else str(v) for v in values)  # type: ignore[call-overload]
