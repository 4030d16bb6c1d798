"""Leaderboards as tables of a page; every number links to the rows behind it, on its classifier's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.report import paths
from pipeline.report.board_table import of
from pipeline.report.leaderboard import TEXT, Board, Column
from pipeline.report.pagetables import Cell, Table, sort_key, without_one_dataset
from pipeline.report.rendering import cells

FIRST = {"classifier": 0, "rank": 1, "dataset": 2}  # the name heads the row
FLAGS, OVERALL = "flags", "overall"
LAST = 9  # what a classifier is made of stands after the numbers, out of the way on a small screen


class Section(NamedTuple):
    """A leaderboard of one data set as it stands on the page.

    Attributes:
        anchor: its id on the page.
        title: heading.
        text: what it compares.
        label: names the table among all others.
        table: rows are classifiers.
        meanings: header and definition of its columns.
    """

    anchor: str
    title: str
    text: str
    label: str
    table: Table
    meanings: Sequence[tuple[str, str]]


def by_dataset(boards: Sequence[Board]) -> list[tuple[str, list[Section]]]:
    """The boards of each data set, in order; a board without numbers for a data set is left out there."""
    datasets = dict.fromkeys(name for board in boards for name in board.table["dataset"])
    return [
        (str(name), [_section(part, name) for board in boards if _has_numbers(part := of(board, name))])
        for name in datasets
    ]


def table(board: Board, root: str = "") -> Table:
    """A leaderboard as a table.

    Args:
        board: of one data set or several.
        root: path from the page to the report's folder.
    """
    # A reason for doubt must be seen before the numbers are.
    doubted = FLAGS in board.table and board.table[FLAGS].notna().any()
    first = FIRST | ({FLAGS: 2} if doubted else {})
    order = [first.get(column.name, LAST if column.kind == TEXT else 3) for column in board.columns]
    places = sorted(range(len(order)), key=order.__getitem__)
    rows = []
    for row, record in zip(cells(board), board.table.to_dict("records"), strict=True):
        card = root + paths.card(str(record["dataset"]), str(record["classifier"]))
        line = []
        for place in places:
            column = board.columns[place]
            line.append(_cell(column, *row[place], _link(column, row[place][0], card, board.name)))
        rows.append(line)
    return without_one_dataset(Table([board.columns[place].header for place in places], rows))


def meanings(board: Board) -> list[tuple[str, str]]:
    """Header and definition of the columns that do not explain themselves."""
    shown = (column for column in board.columns if column.kind != TEXT or column.name in ("rank", FLAGS))
    return [(column.header, column.meaning) for column in shown]


def _has_numbers(board: Board) -> bool:
    return board.name == OVERALL or any(column.kind != TEXT for column in board.columns)


def _section(board: Board, dataset: Any) -> Section:
    anchor = f"board-{paths.safe(str(dataset))}-{board.name}"
    label = f"{board.title}, {dataset}, with 95 % intervals"
    return Section(anchor, board.title, board.text, label, table(board), meanings(board))


def _cell(column: Column, text: str, key: Any, link: str) -> Cell:
    if column.kind == TEXT:
        return Cell(text, sort_key(key), link=link)
    value, _, limits = text.partition(" [")
    return Cell(value, sort_key(key), f"[{limits}" if limits else "", True, link)


def _link(column: Column, text: str, card: str, board: str) -> str:
    if column.name == "classifier":
        return card
    return f"{card}#{paths.anchor(board, column.name)}" if column.kind != TEXT and text != "–" else ""
