"""The rows of the tables behind every number of a leaderboard, as queries that can be run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from pipeline.report.board_columns import Board, Key, Measure, Rows
from pipeline.report.outcomes import KEYS

Tables = Mapping[str, pd.DataFrame]  # kind -> rows
# What the columns of `numbers` are. What comes from several tables is separated by "; ".
MEANINGS = {
    "dataset": "id of the data set",
    "classifier": "id of the classifier",
    "board": "name of the leaderboard",
    "column": "name of the number in the leaderboard's files",
    "header": "the number's heading, with its unit for people",
    "value": "the number; shares from 0 to 1",
    "low": "lower limit of its 95 % interval",
    "high": "upper limit of its 95 % interval",
    "unit": "unit of the value",
    "n": "rows of the classifier that it is made of; 0 if they are not known",
    "table": "files of the tables, the one with the classifier's own rows first",
    "rows": "for each table which of its rows, as for pandas.DataFrame.query",
    "expression": "for each table Python that reads them",
}


def trace(measures: Sequence[Measure], tables: Tables) -> dict[tuple[str, str, str], Rows]:
    """Rows behind every number of some columns.

    Args:
        measures: the columns.
        tables: of all data sets; numbers from others are left out.
    """
    counts: dict[tuple[str, str], dict[Key, int]] = {}
    found = {}
    for measure in measures:
        column = measure.column
        for key in measure.cells if column.source in tables else ():
            if math.isnan(measure.number(key).value):
                continue
            query = measure.queries.get(key, column.query)
            if (column.source, query) not in counts:
                counts[column.source, query] = _sizes(tables[column.source], query)
            if not (n := counts[column.source, query].get(key, 0)):
                continue
            others = measure.beside.get(key[0], ())
            kinds = (column.source, *(kind for kind, _ in others))
            queries = (where(query, *key), *(where(own, key[0]) for _, own in others))
            found[(*key, column.name)] = Rows(kinds, queries, n)
    return found


def _sizes(table: pd.DataFrame, query: str) -> dict[Key, int]:
    """Number of rows of each classifier; none where a table older or younger than the code lacks a column."""
    try:
        sizes = (table.query(query) if query else table).groupby(KEYS).size()
    except pd.errors.UndefinedVariableError:
        return {}
    return dict(zip(sizes.index.tolist(), sizes.tolist(), strict=True))


def where(query: str, dataset: str, classifier: str | None = None) -> str:
    """A query together with the data set, and the classifier, that its rows are of."""
    keys = {"dataset": dataset} | ({} if classifier is None else {"classifier": classifier})
    parts = [f"{name} == {value!r}" for name, value in keys.items()]
    return " and ".join([*parts, *([f"({query})" if " or " in query else query] if query else [])])


def of_views(views: Sequence[str], table: pd.DataFrame | None, **columns: str) -> str:
    """A query for corruptions in the table of accuracy: by the given columns if these say the same, else by name.

    Args:
        views: the corruptions.
        table: of accuracy, if it is known.
        columns: column -> value, as in `suite="c"`.
    """
    if table is not None and set(columns) <= set(table):
        short = " and ".join(f"{name} == {value!r}" for name, value in columns.items())
        known = table.loc[table["kind"] == "corruption", ["view", *columns]].drop_duplicates()
        if set(known.query(short)["view"]) == set(views):
            return f"kind == 'corruption' and {short}"
    return f"kind == 'corruption' and view in {sorted(views)!r}"


def numbers(boards: Sequence[Board]) -> pd.DataFrame:
    """Every number of some leaderboards in a row of its own, with the rows that it is made of.

    Returns:
        The columns of `MEANINGS`.
    """
    lines = []
    for board in boards:
        for row in board.table.to_dict("records"):
            for column in board.columns:
                if f"{column.name}_low" not in row or math.isnan(row[column.name]):
                    continue
                limits = {end: row[f"{column.name}_{end}"] for end in ("low", "high")}
                own = {"dataset": row["dataset"], "classifier": row["classifier"], "board": board.name}
                own |= {"column": column.name, "header": column.header, "value": row[column.name], **limits}
                rows = board.rows.get((row["dataset"], row["classifier"], column.name), Rows((), (), 0))
                files = [f"tables/{kind}.parquet" for kind in rows.tables]
                texts = [
                    f"pandas.read_parquet({file!r}).query({query!r})"
                    for file, query in zip(files, rows.queries, strict=True)
                ]
                own |= {"unit": column.unit, "n": rows.n, "table": "; ".join(files), "rows": "; ".join(rows.queries)}
                lines.append(own | {"expression": "; ".join(texts)})
    return pd.DataFrame(lines, columns=list(MEANINGS))
