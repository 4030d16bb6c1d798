"""The page's sections beside the figures of each data set, and the modules that fill them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import pandas as pd

from pipeline.report import (
    augmentation_distance,
    corruptions,
    curvature,
    detection,
    envelope,
    invariance,
    loops,
    margins,
    pairwise,
    path_examples,
    profile,
    regions,
    seed_claims,
    shared_directions,
    slices,
    subspace_margins,
    trainings,
    transfer,
)
from pipeline.report.claims import Claim
from pipeline.report.classes import Classes, named
from pipeline.report.outcomes import Outcomes
from pipeline.report.style import Chart, Look

Tables = Mapping[str, pd.DataFrame]  # kind -> rows
SEEDED = {
    corruptions.SECTION: (
        "Accuracy on images that noise, blur, weather and the like make worse. Three numbers sum it up: the mean error "
        "over corruptions and severities; the mCE, which first divides the error under each corruption by that of a "
        "baseline, so that hard corruptions do not count for more; and the relative mCE, which does so with the errors "
        "that come on top of those on clean images. For CIFAR many papers call the plain mean error mCE, and others "
        "divide by another baseline: compare numbers only where the baseline is the same. A training whose "
        "augmentations resemble the corruptions has seen part of the test; a suite far from them, such as C-bar "
        "(Mintun, Kirillov, Xie, NeurIPS 2021), tells more about it."
    ),
    envelope.SECTION: (
        "How small a perturbation is depends on the attack that sought it. The smallest that any attack of this run "
        "found for an image bounds the true one from above; an attack that often comes near it is one to trust."
    ),
    transfer.SECTION: (
        "Images that were made on one classifier, shown to another. Where others' images fool a classifier on which "
        "its own attack failed, that attack was too weak or misled, and the classifier's robust accuracy is too high."
    ),
}


class Titled(Protocol):
    """A module with a section of its own: its name, and what is measured and how to read it."""

    SECTION: str
    TEXT: str


class Measured(Titled, Protocol):
    """A module that shows one kind of table, one data set at a time, and says which claims hold."""

    KIND: str

    def draw(self, rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int, /) -> Iterator[Chart]:
        """Figures of the rows of one data set."""

    def claims(self, rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int, /) -> Iterator[Claim]:
        """Claims on the rows of all data sets."""


class Compared(Titled, Protocol):
    """A module that compares the classifiers of one data set in what several tables say of them."""

    def draw(self, classifiers: Sequence[Outcomes], look: Look, seed: int, /) -> Iterator[Chart]:
        """Figures of one data set."""


class Across(Titled, Protocol):
    """A module that shows one kind of table, also across data sets, which the config tells apart."""

    KIND: str

    def draw(self, rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int, /) -> Iterator[Chart]:
        """Figures of the rows of one data set."""

    def draw_across(
        self, rows: pd.DataFrame, classifiers: Sequence[Outcomes], config: Mapping[str, Any], seed: int, /
    ) -> Iterator[Chart]:
        """Figures of the rows of all data sets."""

    def claims(
        self, rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int, config: Mapping[str, Any] | None = None
    ) -> Iterator[Claim]:
        """Claims on the rows of all data sets."""


COMPARED: tuple[Compared, ...] = (pairwise, trainings)
MEASURED: tuple[Measured, ...] = (
    augmentation_distance,
    invariance,
    regions,
    path_examples,
    loops,
    slices,
    curvature,
    shared_directions,
    detection,
)
ACROSS: tuple[Across, ...] = (margins, subspace_margins)


def texts() -> dict[str, str]:
    """Section -> text, in the page's order; modules of one section follow each other in it."""
    found = {module.SECTION: module.TEXT for module in COMPARED} | SEEDED
    modules: tuple[Titled, ...] = (*MEASURED, *ACROSS, profile)
    for module in modules:
        before = found.get(module.SECTION, "")
        found[module.SECTION] = before if module.TEXT in before else f"{before} {module.TEXT}".strip()
    return found


def draw(
    tables: Tables,
    members: Sequence[Outcomes],
    everyone: Sequence[Outcomes],
    dataset: str,
    seed: int,
    classes: Classes | None = None,
) -> Iterator[Chart]:
    """Figures of one data set.

    Args:
        tables: of all data sets.
        members: classifiers of the data set.
        everyone: those of all data sets, so that colours agree between them.
        dataset: its id.
        seed: of the bootstrap.
        classes: names of the classes, as far as they are known.
    """
    look = Look(members, everyone, named(classes, dataset))
    tables = {kind: rows[rows["dataset"] == dataset] for kind, rows in tables.items()}
    for comparing in COMPARED:
        yield from _placed(comparing, comparing.draw(members, look, seed))
    for module in (*MEASURED, *ACROSS):
        if len(rows := tables.get(module.KIND, pd.DataFrame())):
            yield from _placed(module, module.draw(rows, members, look, seed))
    yield from _placed(profile, profile.draw(tables, members, look, seed))


def draw_across(
    tables: Tables, classifiers: Sequence[Outcomes], config: Mapping[str, Any] | None, seed: int
) -> Iterator[Chart]:
    """Figures across data sets; none without a config, which says how the data sets differ."""
    for module in ACROSS:
        if config is not None and module.KIND in tables:
            yield from _placed(module, module.draw_across(tables[module.KIND], classifiers, config, seed))


def claims(tables: Tables, classifiers: Sequence[Outcomes], config: Mapping[str, Any] | None, seed: int) -> list[Claim]:
    """All claims that the tables decide."""
    found = list(seed_claims.claims(tables, classifiers, seed, config))
    for module in MEASURED:
        if module.KIND in tables:
            found += module.claims(tables[module.KIND], classifiers, seed)
    for module in ACROSS:
        if module.KIND in tables:
            found += module.claims(tables[module.KIND], classifiers, seed, config=config)
    return found


def _placed(module: Titled, charts: Iterator[Chart]) -> Iterator[Chart]:
    """Charts in the module's section, unless they name another."""
    for chart in charts:
        yield chart if chart.section else chart._replace(section=module.SECTION)
