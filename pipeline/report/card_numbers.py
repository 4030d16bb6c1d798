"""Every number of a classifier on the leaderboards: with its interval, its place, and the rows that it is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from pipeline.report import paths
from pipeline.report.board_columns import KEYS, TEXT, Board, Column
from pipeline.report.outcomes import Outcomes
from pipeline.report.rendering import interval
from pipeline.report.statistics import Interval


class Behind(NamedTuple):
    """Rows behind a number: of which table, and the Python expression that gets them."""

    table: str
    expression: str


class Number(NamedTuple):
    """A line of the table: what a column of a leaderboard says of one classifier.

    Attributes:
        anchor: id of the line.
        header: of the column.
        text: the number.
        limits: its interval.
        place: among the classifiers of the data set, the highest first.
        meaning: definition.
        n: rows of the classifier behind it; None if these are not known.
        behind: the rows; those of the classifier first, then others that the number depends on.
    """

    anchor: str
    header: str
    text: str
    limits: str
    place: str
    meaning: str
    n: int | None
    behind: Sequence[Behind]


class Part(NamedTuple):
    """A leaderboard's numbers of one classifier.

    Attributes:
        anchors: ids of the heading: those of the leaderboard's columns of words.
        title: of the leaderboard.
        text: what it compares.
        rank: which rank it gives, in words; "" if none.
        numbers: those that some classifier of the data set has.
        missing: (id, header) of the columns that none of them has.
    """

    anchors: Sequence[str]
    title: str
    text: str
    rank: str
    numbers: Sequence[Number]
    missing: Sequence[tuple[str, str]]


def parts(outcomes: Outcomes, boards: Sequence[Board]) -> list[Part]:
    """The leaderboards that hold a classifier, in order."""
    found = []
    for board in boards:
        here = board.table[board.table["dataset"] == outcomes.dataset]
        own = here[here["classifier"] == outcomes.classifier].to_dict("records")
        if own:
            found.append(_part(outcomes, board, here, own[0]))
    return found


def _part(outcomes: Outcomes, board: Board, here: pd.DataFrame, own: Mapping[Any, Any]) -> Part:
    keys = {column.name for column in KEYS}
    numbers, missing = [], []
    for column in board.columns:
        if column.name in keys:
            continue
        if here[column.name].isna().all():
            missing.append((paths.anchor(board.name, column.name), column.header))
        else:
            numbers.append(_number(board, column, here[column.name], own))
    anchors = [paths.anchor(board.name, column.name) for column in board.columns if column.name in keys]
    return Part(anchors, board.title, board.text, rank(board, outcomes.dataset, own), numbers, missing)


def rank(board: Board, dataset: str, own: Mapping[Any, Any]) -> str:
    """The rank of a classifier's row on a leaderboard, in words; "" where it has none."""
    if dataset not in board.ranked_by or pd.isna(own.get("rank")):
        return ""
    headers = {column.name: column.header.partition(" [")[0] for column in board.columns}
    by = headers.get(board.ranked_by[dataset], "")
    ranked = board.table[board.table["dataset"] == dataset]["rank"].notna().sum()
    words = f"Rank {own['rank']} of {ranked} on {dataset}"
    words += f", by {by[0].lower()}{by[1:]}" if by else ""
    if own["rank_best"] != own["rank_worst"]:
        return f"{words}: paired tests leave these ranks open."
    return f"{words}: paired tests tell it apart from all others." if ranked > 1 else f"{words}."


def _number(board: Board, column: Column, values: pd.Series[Any], own: Mapping[Any, Any]) -> Number:
    value = own[column.name]
    if pd.isna(value):
        text, limits, place = "not measured", "", "–"
    elif column.kind == TEXT:
        text, limits, place = str(value), "", "–"
    else:
        ends = (float(own[f"{column.name}_{end}"]) for end in ("low", "high"))
        text, _, limits = interval(Interval(float(value), *ends), column.kind).partition(" [")
        place = f"{1 + int((values.dropna() > value).sum())} of {values.notna().sum()}"
    rows = board.rows.get((own["dataset"], own["classifier"], column.name))
    behind = [] if rows is None else list(map(Behind, rows.tables, map(_expression, rows.tables, rows.queries)))
    words = (column.header, text, f"[{limits}" if limits else "", place, column.meaning)
    return Number(paths.anchor(board.name, column.name), *words, None if rows is None else rows.n, behind)


def _expression(table: str, query: str) -> str:
    return f"pandas.read_parquet({f'tables/{table}.parquet'!r})" + (f".query({query!r})" if query else "")
