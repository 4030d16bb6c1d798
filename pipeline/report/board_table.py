"""From numbers to a leaderboard: one row per classifier, best first where they are ranked."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report.board_columns import KEYS, TEXT, Board, Column, Key, Measure, apart
from pipeline.report.board_measures import samples
from pipeline.report.board_ranks import Ranks
from pipeline.report.board_rows import Tables, trace
from pipeline.report.outcomes import Outcomes, Threat

UNRANKED = Ranks({}, {})
INTEGERS = ("seed", "n", "rank_best", "rank_worst")


def assemble(
    classifiers: Sequence[Outcomes],
    measures: Sequence[Measure],
    ranks: Ranks = UNRANKED,
    *,
    tables: Tables,
    flags: Collection[Threat] | None = None,
    left_out: Collection[str] = (),
    whole: bool = False,
) -> Board:
    """A leaderboard of the classifiers that have any of the numbers, by data set, then by rank.

    Args:
        classifiers: of all data sets.
        measures: its numbers; those that no classifier has are left out.
        ranks: of the classifiers.
        tables: kind -> rows, so far as they are known.
        flags: attacks of which doubts are told; None for all of them.
        left_out: names of keys that the board has no use for.
        whole: whether classifiers without any number have a row, too.
    """
    measures = apart([measure for measure in measures if measure.cells])
    present = {key for measure in measures for key in measure.cells}
    keys = [column for column in KEYS if column.name not in left_out]
    columns = (*keys, *(measure.column for measure in measures))
    rows = []
    for outcomes in classifiers:
        place = (outcomes.dataset, outcomes.classifier)
        if whole or place in present:
            row = _keys(outcomes, ranks, None if flags is None else set(flags))
            for measure in measures:
                row |= _cells(measure, place)
            rows.append(row)
    table = _sorted(pd.DataFrame(rows, columns=_names(columns)), ranks.ranked_by)
    return Board(table, columns, ranks.ranked_by, rows=trace(measures, tables))


def of(board: Board, dataset: str) -> Board:
    """The part of a leaderboard that is about one data set, with the columns that it has."""
    table = board.table[board.table["dataset"] == dataset].reset_index(drop=True)
    columns = [column for column in board.columns if column in KEYS or table[column.name].notna().any()]
    return board._replace(
        table=table[_names(columns)],
        columns=columns,
        ranked_by={name: column for name, column in board.ranked_by.items() if name == dataset},
        errors=[found for found in board.errors if found.outcomes.dataset == dataset],
        rows={key: rows for key, rows in board.rows.items() if key[0] == dataset},
    )


def _keys(outcomes: Outcomes, ranks: Ranks, flagged: Collection[Threat] | None) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(outcomes, name) for name in ("dataset", "classifier", "architecture")}
    row |= {"training": outcomes.training, "seed": outcomes.seed, "n": samples(outcomes)}
    best, worst = ranks.sets.get((outcomes.dataset, outcomes.classifier), (None, None))
    row |= {"rank_best": best, "rank_worst": worst}
    row["rank"] = None if best is None else str(best) if best == worst else f"{best}–{worst}"
    return row | {"flags": _flags(outcomes.doubts, flagged)}


def _flags(doubts: Mapping[Threat, Sequence[str]], among: Collection[Threat] | None) -> str | None:
    """Reasons per attack, or, where all attacks have one in common, once; None where there is none."""
    doubts = {threat: reasons for threat, reasons in doubts.items() if among is None or threat in among}
    if not doubts:
        return None
    common = set.intersection(*(set(reasons) for reasons in doubts.values()))
    own = {str(threat): [r for r in reasons if r not in common] for threat, reasons in doubts.items()}
    texts = [*sorted(common), *(f"{threat}: {', '.join(reasons)}" for threat, reasons in own.items() if reasons)]
    return "; ".join(texts) or None


def _cells(measure: Measure, place: Key) -> dict[str, Any]:
    name = measure.column.name
    if measure.column.kind == TEXT:
        return {name: measure.cells.get(place)}
    value = measure.number(place)
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def _names(columns: Sequence[Column]) -> list[str]:
    names: list[str] = []
    for column in columns:
        tails = ("",) if column.kind == TEXT else ("", "_low", "_high")
        names += [column.name + tail for tail in tails]
        names += ["rank_best", "rank_worst"] if column.name == "rank" else []
    return names


def _sorted(table: pd.DataFrame, ranked_by: Mapping[str, str]) -> pd.DataFrame:
    integers = {name: "Int64" for name in INTEGERS if name in table}
    table = table.astype({**integers, **{c: float for c in table if c not in integers and table[c].isna().all()}})
    if table.empty:
        return table
    score = [row.get(ranked_by.get(row["dataset"], ""), math.nan) for row in table.to_dict("records")]
    order = table.assign(score=score).sort_values(
        ["dataset", "score", "classifier"], ascending=[True, False, True], na_position="last", kind="stable"
    )
    return order.drop(columns="score").reset_index(drop=True)
