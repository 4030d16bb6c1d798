"""The page: one HTML file that needs nothing else, neither network nor other files."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from pipeline.report import claimtable, sections, statistics
from pipeline.report import outcomes as sources
from pipeline.report.claims import CLAIMS, Claim
from pipeline.report.comparisons import Comparison
from pipeline.report.leaderboard import SHARE, TEXT, Board, criterion
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import DATASET, Cell, Table, estimate, sort_key, whole, without_one_dataset, words
from pipeline.report.rendering import cells, interval, signed
from pipeline.report.statistics import Interval
from pipeline.report.style import DPI, Chart

PACKAGES = ("matplotlib", "numpy", "pandas", "pyarrow", "scipy")
SELFTEST = "selftest"  # kind of the self-test's table
TEMPLATES = Path(__file__).parent / "templates"


class Source(NamedTuple):
    """A table that the report reads: its kind, number of rows, SHA-256, and its provenance if it has one."""

    kind: str
    rows: int
    sha256: str
    provenance: Mapping[str, Any]


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


def leaderboard_page(board: Board, title: str) -> str:
    """The leaderboard alone as an HTML file."""
    template = _environment().get_template("leaderboard.html.j2")
    return template.render(title=title, board=_board(board), meanings=_meanings(board))


def page(
    *,
    title: str,
    classifiers: Sequence[Outcomes],
    board: Board,
    comparisons: Sequence[Comparison],
    charts: Mapping[str, Sequence[tuple[str, Chart]]],
    tables: Sequence[Source],
    seed: int,
    spec: Mapping[str, Any] | None,
    claims: Sequence[Claim] = (),
    selftest: pd.DataFrame | None = None,
) -> str:
    """The whole report as an HTML file.

    Args:
        title: heading.
        classifiers: what was measured.
        board: the leaderboard.
        comparisons: against standard training.
        charts: data set -> (name of the files, figure); figures across data sets under "".
        tables: what was read.
        seed: of the bootstrap.
        spec: shown as it is, if given.
        claims: of the papers, in order.
        selftest: table of the self-test; None if it did not run.
    """
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            headlines=[
                line for dataset in sources.datasets(classifiers) for line in _headline(classifiers, board, dataset)
            ],
            missing=_missing(classifiers, tables),
            others=[table.kind for table in tables if table.kind not in (*sources.KINDS, SELFTEST)],
            board=_board(board),
            meanings=_meanings(board),
            comparisons=_comparisons(comparisons),
            figures=_figures(charts, ""),
            sections=_sections(charts),
            claims=claimtable.summary(claims),
            tests=claimtable.full(claims),
            untested=len(CLAIMS) - len({claim.key for claim in claims}),
            checks=_checks(classifiers),
            selftest=None if selftest is None else _selftest(selftest),
            wrong=0 if selftest is None else int((selftest["verdict"] != "right").sum()),
            tables=_sources(tables),
            seed=seed,
            made_with=_join({package: {metadata.version(package)} for package in PACKAGES}),
            measured_with=_join(_versions(tables)),
            devices=", ".join(_devices(tables)),
            spec=json.dumps(spec, indent=2, sort_keys=True, ensure_ascii=False) if spec else "",
        )
    )


def _meanings(board: Board) -> list[tuple[str, str]]:
    return [
        (column.header, column.meaning)
        for column in board.columns
        if column.kind != TEXT or column.name in ("rank", "flags")
    ]


def _board(board: Board) -> Table:
    # The name heads the row; what it is made of stands after the numbers, out of the way on a small screen.
    # A reason for doubt must be seen before the numbers are.
    first = {"classifier": 0, "rank": 1, "dataset": 2} | ({"flags": 2} if board.table["flags"].notna().any() else {})
    order = [first.get(column.name, 9 if column.kind == TEXT else 3) for column in board.columns]
    places = sorted(range(len(order)), key=order.__getitem__)
    rows = []
    for row in cells(board):
        line = []
        for place in places:
            text, key = row[place]
            value, _, limits = text.partition(" [") if board.columns[place].kind != TEXT else (text, "", "")
            line.append(Cell(value, sort_key(key), f"[{limits}" if limits else "", board.columns[place].kind != TEXT))
        rows.append(line)
    return without_one_dataset(Table([board.columns[place].header for place in places], rows))


def _headline(classifiers: Sequence[Outcomes], board: Board, dataset: str) -> Iterator[str]:
    rows = [row for row in board.table.to_dict("records") if row["dataset"] == dataset]
    column, results = criterion(sources.shared(classifiers, dataset))
    if not results:
        count = len(sources.shared(classifiers, dataset))
        yield f"{dataset}: {count} classifiers, not ranked: neither accuracy nor an attack with a budget was measured."
        return
    best = rows[0]
    value = interval(Interval(*(best[column.name + tail] for tail in ("", "_low", "_high"))), SHARE)
    what = column.header.removesuffix(" [%]")
    line = (
        f"{dataset}: of {len(results)} classifiers {best['classifier']} has the highest {what.lower()}, {value}\u00a0%"
    )
    threats = sorted({str(threat) for o in sources.shared(classifiers, dataset) for threat in o.fixed})
    line += f", under {', '.join(threats)}." if threats else "."
    level = [str(row["classifier"]) for row in rows[1:] if row["rank_best"] == best["rank_best"]]
    if level:
        line += f" Paired tests do not tell it apart from {', '.join(level)}."
    elif len(results) > 1:
        line += " Paired tests tell it apart from all others."
    yield line


def _missing(classifiers: Sequence[Outcomes], tables: Sequence[Source]) -> list[str]:
    given = {table.kind for table in tables if table.rows}
    missing = [meaning for kind, meaning in sources.KINDS.items() if kind not in given]
    if "accuracy" in given and all(o.corrupted.empty for o in classifiers):
        missing.append("corrupted images")
    if "perturbation" in given:
        missing += ["attacks with a budget"] * all(not o.fixed for o in classifiers)
        missing += ["attacks that minimise the norm"] * all(not o.minimal for o in classifiers)
    return missing


def _figures(charts: Mapping[str, Sequence[tuple[str, Chart]]], section: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """(data set, figures) of a section, for the data sets that have any."""
    found = {dataset: [pair for pair in pairs if pair[1].section == section] for dataset, pairs in charts.items()}
    return [(dataset, [_figure(*pair) for pair in pairs]) for dataset, pairs in found.items() if pairs]


def _sections(charts: Mapping[str, Sequence[tuple[str, Chart]]]) -> list[tuple[str, str, Any]]:
    """(name, text, figures by data set) of each section that has any."""
    texts = sections.texts()
    names = dict.fromkeys([*texts, *(chart.section for pairs in charts.values() for _, chart in pairs)])
    return [(name, texts.get(name, ""), found) for name in names if name and (found := _figures(charts, name))]


def _figure(name: str, chart: Chart) -> dict[str, Any]:
    source = "data:image/png;base64," + base64.b64encode(chart.png).decode()
    words = {"title": chart.title, "caption": chart.caption, "alt": chart.alt, "file": name}
    inches = int.from_bytes(chart.png[16:20]) / DPI  # a PNG file's width
    return words | {"source": source, "inches": inches, "table": chart.table}


def _comparisons(comparisons: Sequence[Comparison]) -> Table:
    headers = ("Classifier", DATASET, "Measure", "Difference", "n", "Test", "p", "p, Holm", "Reading")
    rows = []
    for c in comparisons:
        limits = f"[{signed(c.gap.low, c.kind)}, {signed(c.gap.high, c.kind)}]"
        gap = Cell(signed(c.gap.value, c.kind), sort_key(c.gap.value), limits, True)
        chances = [Cell(_p(p), p, numeric=True) for p in (c.p, c.adjusted)]
        names = words(c.classifier, c.dataset, c.measure)
        rows.append([*names, gap, whole(c.n), *words(c.test), *chances, *words(c.verdict)])
    return without_one_dataset(Table(headers, rows))


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _checks(classifiers: Sequence[Outcomes]) -> Table:
    headers = ("Classifier", DATASET, "Attack", "Nothing found [%]", "Beaten within a budget [%]")
    rows = []
    for o in classifiers:
        for threat in o.minimal:
            failed = statistics.share(o.norms[threat] == math.inf)
            beaten = statistics.share(o.beaten(threat))
            rows.append([*words(o.classifier, o.dataset, str(threat)), estimate(failed), estimate(beaten)])
    return without_one_dataset(Table(headers, rows))


def _selftest(table: pd.DataFrame) -> Table:
    rows = []
    for row in table.to_dict("records"):
        hides = "yes" if row["broken"] else "no"
        flags = "none" if pd.isna(row["flags"]) else str(row["flags"])
        rows.append(words(str(row["defence"]), hides, flags, str(row["verdict"])))
    return Table(("Defence", "Hides gradients", "Flags", "Verdict"), rows)


def _sources(tables: Sequence[Source]) -> Table:
    rows = [[*words(t.kind), whole(t.rows), *words(t.sha256)] for t in tables]
    return Table(("Table", "Rows", "SHA-256"), rows)


def _versions(tables: Sequence[Source]) -> dict[str, set[str]]:
    """Package versions under which the rows of the tables were measured."""
    found: dict[str, set[str]] = {}
    for table in tables:
        for package, versions in table.provenance.get("measured_with", {}).items():
            found.setdefault(package, set()).update(versions)
    return found


def _devices(tables: Sequence[Source]) -> list[str]:
    return sorted({device for table in tables for device in table.provenance.get("measured_on", [])})


def _join(versions: Mapping[str, set[str]]) -> str:
    return ", ".join(f"{package} {'/'.join(sorted(found))}" for package, found in sorted(versions.items()))
