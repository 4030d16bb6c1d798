"""The report's pages: each one HTML file that needs nothing else, neither network nor other files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import pandas as pd

from pipeline.report import claimtable, paths, site_answers, site_boards, site_figures, statistics, vendored
from pipeline.report import outcomes as sources
from pipeline.report.claims import CLAIMS, Claim
from pipeline.report.comparisons import Comparison
from pipeline.report.leaderboard import Board
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import DATASET, Cell, Table, estimate, sort_key, whole, without_one_dataset, words
from pipeline.report.rendering import signed
from pipeline.report.style import Chart
from pipeline.report.templating import template

PACKAGES = ("itables", "matplotlib", "numpy", "pandas", "pillow", "pyarrow", "scipy")
SELFTEST = "selftest"  # kind of the self-test's table


class Source(NamedTuple):
    """A table that the report reads: its kind, number of rows, SHA-256, and its provenance if it has one."""

    kind: str
    rows: int
    sha256: str
    provenance: Mapping[str, Any]


def leaderboard_page(board: Board, title: str, root: str = "report/") -> str:
    """A leaderboard alone as an HTML file.

    Args:
        board: of one data set or several.
        title: heading.
        root: path from the page's folder to the report's; "" or with a slash at its end.
    """
    page = template("leaderboard.html.j2").render(
        title=title,
        board=site_boards.table(board, root),
        name=board.title,
        text=board.text,
        meanings=site_boards.meanings(board),
        index=root + paths.INDEX,
    )
    return vendored.inlined(page)


def page(
    *,
    title: str,
    classifiers: Sequence[Outcomes],
    boards: Sequence[Board],
    comparisons: Sequence[Comparison],
    charts: Mapping[str, Sequence[tuple[str, Chart]]],
    tables: Sequence[Source],
    seed: int,
    spec: Mapping[str, Any] | None,
    claims: Sequence[Claim] = (),
    selftest: pd.DataFrame | None = None,
    samples: Mapping[str, str] | None = None,
) -> str:
    """The report's first page.

    Args:
        title: heading.
        classifiers: what was measured.
        boards: the leaderboards, each over all data sets, the overall one first.
        comparisons: against standard training.
        charts: data set -> (name of the files, figure); figures across data sets under "".
        tables: what was read.
        seed: of the bootstrap.
        spec: the config, shown as it is, if given.
        claims: of the papers, in order.
        selftest: table of the self-test; None if it did not run.
        samples: data set -> path of the page on which its samples can be looked at, below the report's folder.
    """
    rendered = template("page.html.j2").render(
        title=title,
        answers=site_answers.answers(classifiers, boards, comparisons),
        missing=_missing(classifiers, tables),
        others=[table.kind for table in tables if table.kind not in (*sources.KINDS, SELFTEST)],
        boards=site_boards.by_dataset(boards),
        samples=dict(samples or {}),
        comparisons=_comparisons(comparisons),
        figures=site_figures.of_section(charts, ""),
        sections=site_figures.in_sections(charts),
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
    return vendored.inlined(rendered)


def _missing(classifiers: Sequence[Outcomes], tables: Sequence[Source]) -> list[str]:
    given = {table.kind for table in tables if table.rows}
    missing = [meaning for kind, meaning in sources.KINDS.items() if kind not in given]
    if "accuracy" in given and all(o.corrupted.empty for o in classifiers):
        missing.append("corrupted images")
    if "perturbation" in given:
        missing += ["attacks with a budget"] * all(not o.fixed for o in classifiers)
        missing += ["attacks that minimise the norm"] * all(not o.minimal for o in classifiers)
    return missing


def _comparisons(comparisons: Sequence[Comparison]) -> Table:
    headers = ("Classifier", DATASET, "Measure", "Difference", "n", "Test", "p", "p, Holm", "Reading")
    rows = []
    for c in comparisons:
        limits = f"[{signed(c.gap.low, c.kind)}, {signed(c.gap.high, c.kind)}]"
        gap = Cell(signed(c.gap.value, c.kind), sort_key(c.gap.value), limits, True)
        chances = [Cell(_p(p), p, numeric=True) for p in (c.p, c.adjusted)]
        names = [Cell(c.classifier, c.classifier, link=paths.card(c.dataset, c.classifier))]
        names += words(c.dataset, c.measure)
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
