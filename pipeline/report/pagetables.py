"""Tables of the pages: cells that show one thing and are sorted by another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.report.leaderboard import SHARE
from pipeline.report.rendering import interval
from pipeline.report.statistics import Interval

DATASET = "Data set"
CHOOSABLE = (DATASET, "Architecture", "Training", "Attack", "Measure", "Claim", "Verdict", "Reading")


class Cell(NamedTuple):
    """What a cell shows, what it is sorted by ("" comes last), and what it links to, if anything."""

    text: str
    key: str | float = ""
    limits: str = ""
    numeric: bool = False
    link: str = ""


class Table(NamedTuple):
    """A table that can be sorted; the first column names the row."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def choices(self) -> set[str]:
        """Headers of the columns by whose values rows can be chosen from a list."""
        columns = {h: {row[i].text for row in self.rows} for i, h in enumerate(self.headers) if h in CHOOSABLE}
        return {header for header, texts in columns.items() if 1 < len(texts) < len(self.rows)}


def sort_key(value: Any) -> str | float:
    """What the page's script sorts a value by."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"  # as Number() of the script reads it
    return value if isinstance(value, str) else float(value)


def words(*texts: str) -> list[Cell]:
    """Cells of text, sorted as they read."""
    return [Cell(text, text) for text in texts]


def whole(value: int) -> Cell:
    """A cell with a count."""
    return Cell(str(value), value)


def estimate(value: Interval, kind: str = SHARE) -> Cell:
    """A cell with a number and its interval."""
    text, _, limits = interval(value, kind).partition(" [")
    return Cell(text, sort_key(value.value), f"[{limits}" if limits else "", True)


def without_one_dataset(table: Table) -> Table:
    """Without the data set's column where it says the same in every row."""
    place = list(table.headers).index(DATASET)
    if len({row[place].text for row in table.rows}) != 1:
        return table
    keep = [i for i in range(len(table.headers)) if i != place]
    return Table([table.headers[i] for i in keep], [[row[i] for i in keep] for row in table.rows])
