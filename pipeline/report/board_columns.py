"""What a leaderboard is made of: columns, the numbers in them, the rows behind each, and the names they share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from pipeline.report.corruption_measures import Errors
from pipeline.report.statistics import NOTHING, Interval

SHARE, NUMBER, TEXT = "share", "number", "text"

Key = tuple[str, str]  # data set, classifier


class Column(NamedTuple):
    """A column of a leaderboard.

    Attributes:
        name: in Parquet and CSV; an estimate has `name`, `name`_low and `name`_high.
        header: for people, with the unit.
        kind: `share` (shown in percent), `number` (shown with three digits) or `text`.
        meaning: definition and unit, also kept in the Parquet field's metadata.
        source: kind of the table that a number is made from; "" if it is none of one.
        query: which of the table's rows, beside those of the classifier and its data set: as for `DataFrame.query`, ""
            for all of them.
    """

    name: str
    header: str
    kind: str
    meaning: str
    source: str = ""
    query: str = ""

    @property
    def unit(self) -> str:
        """Unit of the values in files, where shares are from 0 to 1."""
        _, _, bracket = self.header.rpartition(" [")
        unit = bracket.removesuffix("]") if self.header.endswith("]") else "1"
        return f"share{unit.removeprefix('%').replace('= 100', '= 1')}" if self.kind == SHARE else unit


class Measure(NamedTuple):
    """A column and what stands in it.

    Attributes:
        column: what it is.
        cells: classifier -> number, or text in a column of texts; those without one are left out.
        queries: classifier -> its own query, where the column's does not say it for all classifiers.
        beside: data set -> (kind, query) of rows, of any classifiers of it, that the number depends on, too.
    """

    column: Column
    cells: Mapping[Key, Interval | str]
    queries: Mapping[Key, str] = {}
    beside: Mapping[str, Sequence[tuple[str, str]]] = {}

    def number(self, key: Key) -> Interval:
        """The number of a classifier; NaN where there is none."""
        value = self.cells.get(key, NOTHING)
        return NOTHING if isinstance(value, str) else value


class Rows(NamedTuple):
    """The rows behind a number.

    Attributes:
        tables: kinds of tables; the classifier's own rows are of the first.
        queries: for each, which of its rows; data set and classifier are said.
        n: number of the classifier's own rows.
    """

    tables: Sequence[str]
    queries: Sequence[str]
    n: int


class Board(NamedTuple):
    """A leaderboard.

    Attributes:
        table: one row per classifier.
        columns: what its columns are.
        ranked_by: data set -> name of the column that its ranks are by.
        errors: under corruption, from which some of its columns are.
        name: of its files, such as `overall`.
        title: heading.
        text: what it compares, and how to read it.
        rows: (data set, classifier, name of a column) -> rows behind the number; empty if the tables are not known.
    """

    table: pd.DataFrame
    columns: Sequence[Column]
    ranked_by: Mapping[str, str]
    errors: Sequence[Errors] = ()
    name: str = "overall"
    title: str = "Overall"
    text: str = ""
    rows: Mapping[tuple[str, str, str], Rows] = {}


CLEAN_ROWS = "kind == 'clean'"
KEYS = (
    Column("dataset", "Data set", TEXT, "id of the data set"),
    Column("rank", "Rank", TEXT, "ranks that paired tests leave open, at 5 % over all pairs of a data set (Holm)"),
    Column("classifier", "Classifier", TEXT, "id of the classifier"),
    Column("architecture", "Architecture", TEXT, "id of the architecture"),
    Column("training", "Training", TEXT, "id of the training"),
    Column("seed", "Seed", TEXT, "training seed; none for a brought classifier"),
    Column("n", "n", TEXT, "evaluated images"),
    Column("flags", "Flags", TEXT, "reasons to doubt what the attacks found, by attack"),
)
CLEAN = Column(
    "clean_accuracy",
    "Clean accuracy [%]",
    SHARE,
    "share of clean images classified correctly",
    "accuracy",
    CLEAN_ROWS,
)
CORRUPTED = Column(
    "mean_corrupted_accuracy",
    "Mean corrupted accuracy [%]",
    SHARE,
    "accuracy, mean over corruptions and severities; not divided by a baseline's, so not an mCE",
    "accuracy",
    "kind == 'corruption'",
)
MCE = Column(
    "mce",
    "mCE",
    SHARE,
    "mean corruption error: the error summed over severities, divided by that of the baseline, mean over corruptions; "
    "lower is better",
    "accuracy",
    "kind == 'corruption'",
)
CALIBRATION = Column(
    "calibration_error",
    "Calibration error [%]",
    SHARE,
    "expected calibration error on clean images, 15 equal-width bins of confidence; lower is better",
    "accuracy",
    CLEAN_ROWS,
)
WORST = Column(
    "worst_case_robust_accuracy",
    "Worst-case robust accuracy [%]",
    SHARE,
    "share of images that survive every attack with a budget (union of threats)",
    "perturbation",
    "epsilon == epsilon",  # null equals nothing
)


def slug(*parts: str) -> str:
    """Parts as one snake_case name."""
    return re.sub(r"[^a-z0-9]+", "_", "_".join(parts).lower()).strip("_")


def of_suite(column: Column, suite: str, suites: Sequence[str]) -> Column:
    """A column for one of several suites of corruptions; of a single one the column itself."""
    if len(suites) < 2:
        return column
    header, bracket, unit = column.header.partition(" [")
    header = f"{header}, {suite}{bracket}{unit}"
    return column._replace(name=slug(column.name, suite), header=header, meaning=f"{column.meaning} (suite {suite})")


def apart(measures: Sequence[Measure]) -> list[Measure]:
    """Measures whose columns have different names, for ids that differ in punctuation alone."""
    found: list[Measure] = []
    taken: set[str] = set()
    for measure in measures:
        column = measure.column
        while column.name in taken:
            column = column._replace(name=column.name + "_")
        taken.add(column.name)
        found.append(measure._replace(column=column))
    return found
