"""A leaderboard as text for people and papers, and as files for machines."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.report.board_columns import KEYS, SHARE, TEXT, Board
from pipeline.report.statistics import Interval

FOOT = "Intervals are 95 %: Wilson for single shares, bootstrap over images for all else."
BOLD = "Bold: paired tests tell the first from all others."
ACROSS = 4  # numbers in a row of a table for print
WIDTH = 20  # letters of a heading's line in it
WHOLE: Mapping[str, Any] = {"break_on_hyphens": False, "break_long_words": False}
LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "−": "$-$",
    "–": "--",
    "∞": r"$\infty$",
    "≤": r"$\leq$",
    "α": r"$\alpha$",
    "ℓ₀": r"$\ell_0$",
    "ℓ₁": r"$\ell_1$",
    "ℓ₂": r"$\ell_2$",
    "ℓ∞": r"$\ell_\infty$",
    **{letter: f"{{{letter}}}" for letter in "[*"},  # after the end of a line they would say how far down the next is
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


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


def _first(board: Board, row: Mapping[Any, Any], column: str) -> bool:
    """Whether a number is the one that puts a classifier before all others of its data set."""
    if board.ranked_by.get(row["dataset"]) != column or pd.isna(row["rank_best"]):
        return False
    others = board.table["dataset"].eq(row["dataset"]) & board.table["rank_best"].notna()
    return bool(row["rank_best"] == row["rank_worst"] == 1) and int(others.sum()) > 1


def to_markdown(board: Board) -> str:
    """The table in Markdown; ids cannot break its cells or notes."""

    def escaped(text: str) -> str:
        return re.sub(r"([\\|<>`*]|\](?=\())", r"\\\1", text).replace("\n", " ")

    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |"

    head = [line([escaped(column.header) for column in board.columns]), "|" + " --- |" * len(board.columns)]
    body = []
    for row, texts in zip(board.table.to_dict("records"), cells(board), strict=True):
        marks = ["**" if _first(board, row, column.name) else "" for column in board.columns]
        body.append(line([mark + escaped(text) + mark for mark, (text, _) in zip(marks, texts, strict=True)]))
    notes = [
        f"- {escaped(column.header)}: {escaped(column.meaning)}."
        for column in board.columns
        if column not in KEYS or column.name == "flags"
    ]
    foot = f"{FOOT} {BOLD}" if board.ranked_by else FOOT
    above = [f"# {board.title}", "", board.text, ""] if board.text else []
    return "\n".join([*above, *head, *body, "", foot, "", *notes, ""])


def escape(text: str) -> str:
    """Text as LaTeX shows it, whatever characters it has."""
    pattern = "-{2,}|" + "|".join(map(re.escape, LATEX))  # hyphens side by side would join to a dash
    found = re.sub(pattern, lambda match: LATEX.get(match[0]) or "{-}" * len(match[0]), text)
    return " ".join(found.split())


def to_latex(board: Board) -> str:
    """A table for papers, with LaTeX's package booktabs; a few numbers side by side, the others below.

    Args:
        board: of one data set.
    """
    rows, texts = board.table.to_dict("records"), cells(board)
    names = [column.name for column in board.columns]
    several = len(set(board.table["dataset"])) > 1
    heads = [names.index(n) for n in ("dataset", "rank", "classifier") if n in names and (several or n != "dataset")]
    places = [place for place, column in enumerate(board.columns) if column not in KEYS]
    doubted = [place for place, row in enumerate(rows) if isinstance(row.get("flags"), str)]

    def cell(line: int, place: int) -> str:
        column, shown = board.columns[place], escape(texts[line][place][0])
        if column.kind != TEXT:
            shown = shown.replace(" {[}", r" \,[")
        elif column.name == "classifier" and line in doubted:
            shown += f"$^{{{doubted.index(line) + 1}}}$"
        return rf"\textbf{{{shown}}}" if _first(board, rows[line], column.name) else shown

    def heading(place: int) -> str:
        lines = [escape(part) for part in textwrap.wrap(board.columns[place].header, WIDTH, **WHOLE)]
        return r"\shortstack{" + r" \\ ".join(lines) + "}" if len(lines) > 1 else lines[0]

    parts = []
    for start in range(0, len(places), ACROSS):
        chosen = [*heads, *places[start : start + ACROSS]]
        aligned = "".join("l" if board.columns[place].kind == TEXT else "r" for place in chosen)
        body = [" & ".join(cell(line, place) for place in chosen) + r" \\" for line in range(len(rows))]
        head = " & ".join(map(heading, chosen)) + r" \\"
        table = [rf"\begin{{tabular}}{{{aligned}}}", r"\toprule", head, r"\midrule", *body]
        parts.append("\n".join([*table, r"\bottomrule", r"\end{tabular}"]))
    dataset = str(rows[0]["dataset"]) if rows and not several else ""
    caption = f"{board.title}{f' on {dataset}' if dataset else ''}. {board.text} {FOOT}"
    caption += f" {BOLD}" if board.ranked_by else ""
    notes = [
        rf"\par\smallskip\raggedright\footnotesize $^{{{place}}}$ {escape(str(rows[line]['flags']))}."
        for place, line in enumerate(doubted, start=1)
    ]
    label = re.sub(r"[^A-Za-z0-9]+", "-", f"{dataset}-{board.name}").strip("-")
    above = [r"\begin{table}", r"\centering", r"\small", rf"\caption{{{escape(caption)}}}", rf"\label{{tab:{label}}}"]
    return "\n".join([*above, "\n\n\\medskip\n".join(parts), *notes, r"\end{table}", ""])


def to_csv(board: Board) -> str:
    """The table for machines: shares from 0 to 1, an empty field where nothing was measured."""
    return board.table.to_csv(index=False, lineterminator="\n")


def to_parquet(board: Board, metadata: str) -> bytes:
    """The table for machines: what a field is in its metadata, `metadata` under the file's key `pipeline`.

    The metadata of a field: `meaning`; of a number also `unit`, `source` (kind of the table it is made from) and
    `query` (which of the table's rows, beside those of the classifier and data set; none if all are meant).
    """
    table = pa.Table.from_pandas(board.table, preserve_index=False)
    columns = {column.name: column for column in board.columns}
    fields = []
    for item in table.schema:
        column = columns.get(item.name) or columns[re.sub(r"_(low|high|best|worst)$", "", item.name)]
        own = {"meaning": column.meaning}
        if column.kind != TEXT:
            own |= {"unit": column.unit, "source": column.source, "query": column.query}
        fields.append(item.with_metadata({name: text for name, text in own.items() if text}))
    sink = io.BytesIO()
    pq.write_table(table.cast(pa.schema(fields, metadata={"pipeline": metadata})), sink)
    return sink.getvalue()
