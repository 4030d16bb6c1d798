"""The leaderboard as text for people and as files for machines."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.report.leaderboard import SHARE, TEXT, Board
from pipeline.report.statistics import Interval


def number(value: float, kind: str) -> str:
    """A number for people: percent with one decimal, or three significant digits."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if kind == SHARE:
        text = f"{100 * value:.1f}"
    else:
        text = f"{value:#.3g}".rstrip(".") if value == 0 or 1e-4 <= abs(value) < 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def signed(value: float, kind: str) -> str:
    """As `number`, with a plus sign where it is due."""
    return ("+" if value > 0 else "") + number(value, kind)


def interval(value: Interval, kind: str) -> str:
    """Such as 93.1 [91.0, 94.8]."""
    if math.isnan(value.value):
        return "–"
    return f"{number(value.value, kind)} [{number(value.low, kind)}, {number(value.high, kind)}]"


def cells(board: Board) -> list[list[tuple[str, Any]]]:
    """The table for people: per row and column the text and the value to sort by (None if there is none)."""
    table = []
    for row in board.table.to_dict("records"):
        line: list[tuple[str, Any]] = []
        for column in board.columns:
            value = row[column.name]
            if column.kind != TEXT:
                limits = Interval(value, row[f"{column.name}_low"], row[f"{column.name}_high"])
                line.append((interval(limits, column.kind), None if math.isnan(value) else value))
            elif pd.isna(value):
                line.append(("–", None))
            else:
                line.append((str(value), row["rank_best"] if column.name == "rank" else value))
        table.append(line)
    return table


def to_markdown(board: Board) -> str:
    """The table in Markdown; ids cannot break its cells or notes."""

    def escaped(text: str) -> str:
        return re.sub(r"([\\|<>`*]|\](?=\())", r"\\\1", text).replace("\n", " ")

    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(map(escaped, texts))} |"

    head = [line([column.header for column in board.columns]), "|" + " --- |" * len(board.columns)]
    body = [line([text for text, _ in row]) for row in cells(board)]
    notes = [
        f"- {escaped(column.header)}: {escaped(column.meaning)}."
        for column in board.columns
        if column.kind != TEXT or column.name == "flags"
    ]
    foot = "Intervals are 95 %: Wilson for shares, bootstrap over images for means, medians and calibration error."
    return "\n".join([*head, *body, "", foot, "", *notes, ""])


def to_csv(board: Board) -> str:
    """The table for machines: shares from 0 to 1, an empty field where nothing was measured."""
    return board.table.to_csv(index=False, lineterminator="\n")


def to_parquet(board: Board, metadata: str) -> bytes:
    """The table for machines: meanings in the fields' metadata, `metadata` under the file's key `pipeline`."""
    table = pa.Table.from_pandas(board.table, preserve_index=False)
    meanings = {column.name: column.meaning for column in board.columns}
    fields = []
    for item in table.schema:
        base = re.sub(r"_(low|high|best|worst)$", "", item.name)
        fields.append(item.with_metadata({"meaning": meanings.get(item.name) or meanings[base]}))
    sink = io.BytesIO()
    pq.write_table(table.cast(pa.schema(fields, metadata={"pipeline": metadata})), sink)
    return sink.getvalue()
