"""Numbers of classification regions for the leaderboard of geometry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from pipeline.report import board_measures as shared
from pipeline.report import loops, regions
from pipeline.report.board_columns import NUMBER, SHARE, Column, Key, Measure, slug
from pipeline.report.outcomes import Outcomes


def pairs(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Measure]:
    """As the page's table of pairs, of two images of a class."""
    for measurement, _, part in regions.by_measurement(rows, regions.KIND):
        found = [g for g in regions.groups(part, classifiers, seed) if g.kind == regions.NAMES["image"]]
        name, tail = named(rows, measurement)
        query = f"measurement == {measurement!r} and view == 'clean' and kind == 'image' and entered"
        bent = f"{query} and converged and verified == True and straight == False"
        for column, values in (
            (
                Column(
                    slug("connected", *name),
                    f"Pairs joined inside the class{tail} [%]",
                    SHARE,
                    "share of pairs of images of one predicted class that a path inside the class joins",
                    "regions",
                    query,
                ),
                {key_of(group.outcomes): group.connected for group in found},
            ),
            (
                Column(
                    slug("straight", *name),
                    f"Pairs joined by a straight line{tail} [%]",
                    SHARE,
                    "share of the same pairs that the straight segment joins inside the class",
                    "regions",
                    query,
                ),
                {key_of(group.outcomes): group.straight for group in found},
            ),
            (
                Column(
                    slug("detour", *name),
                    f"Median detour of bent paths{tail} [length / distance − 1]",
                    NUMBER,
                    "median over the paths that are not straight of their length over the distance of their ends, "
                    "minus 1",
                    "regions",
                    bent,
                ),
                {key_of(group.outcomes): group.median for group in found},
            ),
        ):
            yield Measure(column, shared.known(values))


def filled(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Measure]:
    """As the page's table of loops."""
    for measurement, _, part in regions.by_measurement(rows, loops.KIND):
        name, tail = named(rows, measurement)
        column = Column(
            slug("filled", *name),
            f"Loops filled inside the class{tail} [%]",
            SHARE,
            "share of loops through four images of one predicted class that a surface inside the class fills",
            "loops",
            f"measurement == {measurement!r} and loop_connected",
        )
        found = {key_of(result.outcomes): result.filled for result in loops.results(part, classifiers, seed)}
        yield Measure(column, shared.known(found))


def named(rows: pd.DataFrame, measurement: str) -> tuple[tuple[str, ...], str]:
    """Parts of a column's name and the end of its header that tell a measurement from others; none if it is alone."""
    return ((measurement,), f", {measurement}") if set(rows["measurement"]) != {measurement} else ((), "")


def key_of(outcomes: Outcomes) -> Key:
    """Data set and classifier."""
    return outcomes.dataset, outcomes.classifier
