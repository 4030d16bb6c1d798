"""report: tables -> figures, leaderboard and one self-contained page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.contracts import KEYS, UserError, canonical
from pipeline.report import baseline, claimtable, comparisons, gallery, outcomes, profile, rendering, sections, site
from pipeline.report import figures as drawing
from pipeline.report import leaderboard as ranking
from pipeline.report.leaderboard import Board
from pipeline.report.outcomes import Outcomes
from pipeline.report.sparse import Job
from pipeline.report.style import Chart
from pipeline.stages.tables import read_table

ALL = "all"  # stands for the data set in the names of figures across data sets


def report(
    *,
    tables: Mapping[str, Path],
    figures: Path,
    page: Path,
    leaderboard: Path,
    title: str = "Boundary Atlas",
    seed: int = 0,
    spec: Mapping[str, Any] | None = None,
    benchmarks: Path | None = None,
) -> None:
    """Turn the collected tables into figures, leaderboard, claims and page. Equal tables give equal bytes.

    Args:
        tables: kind of measurement -> Parquet file of collect; missing and empty ones are left out. `selftest`: the
            table of the self-test.
        figures: folder; `{dataset}_{figure}` as .png and .svg, with its numbers as .csv; across data sets
            `all_{figure}`.
        page: HTML file.
        leaderboard: path without suffix; .parquet, .csv, .md and .html are made; beside it claims.csv, claims.md and
            profile.parquet, in which everything that was measured of a sample stands in one row.
        title: heading of the page.
        seed: of the bootstrap.
        spec: the config: shown on the page, and says which method an id stands for, how data sets are related, and
            what the mCE divides by.
        benchmarks: folder of Snakemake's benchmark files; the page shows the seconds of some jobs, which are no result:
            they alone may differ between two pages of equal tables.

    Raises:
        UserError: a table is missing or damaged, or the config's baseline is unknown.
    """
    frames, sources = _read(tables)
    selftest = frames.pop(site.SELFTEST, None)
    classifiers = outcomes.gather(frames)
    if wrong := baseline.mistake(spec, classifiers):
        raise UserError(wrong)
    board = ranking.build(classifiers, seed, spec)
    charts = _charts(frames, classifiers, board, spec, seed, _seconds(benchmarks))
    claims = claimtable.ordered(sections.claims(frames, classifiers, spec, seed))
    for pairs in charts.values():
        for name, chart in pairs:
            _write(figures / f"{name}.png", chart.png)
            _write(figures / f"{name}.svg", chart.svg)
            _write(figures / f"{name}.csv", chart.data.to_csv(index=False, lineterminator="\n").encode())
    origin = {"tables": {source.kind: source.sha256 for source in sources}, "seed": seed, "spec": spec}
    _write(leaderboard.with_name(f"{leaderboard.name}.parquet"), rendering.to_parquet(board, canonical(origin)))
    _write(leaderboard.with_name(f"{leaderboard.name}.csv"), rendering.to_csv(board).encode())
    _write(leaderboard.with_name(f"{leaderboard.name}.md"), rendering.to_markdown(board).encode())
    _write(leaderboard.with_name(f"{leaderboard.name}.html"), site.leaderboard_page(board, title).encode())
    _write(leaderboard.with_name("claims.csv"), claimtable.to_csv(claims).encode())
    _write(leaderboard.with_name("claims.md"), claimtable.to_markdown(claims).encode())
    _write(leaderboard.with_name("profile.parquet"), _profile(profile.joined(frames, classifiers), canonical(origin)))
    text = site.page(
        title=title,
        classifiers=classifiers,
        board=board,
        comparisons=comparisons.compare(classifiers, seed),
        charts=charts,
        claims=claims,
        selftest=selftest,
        tables=sources,
        seed=seed,
        spec=spec,
    )
    _write(page, text.encode())


def _read(tables: Mapping[str, Path]) -> tuple[dict[str, pd.DataFrame], list[site.Source]]:
    frames, sources = {}, []
    for kind, path in sorted(tables.items()):
        table = read_table(kind, path, kind in (*outcomes.KINDS, site.SELFTEST))
        if table.frame is not None:
            frames[kind] = table.frame
        sources.append(site.Source(kind, table.rows, store.sha256(path), table.provenance))
    return frames, sources


def _charts(
    frames: Mapping[str, pd.DataFrame],
    classifiers: Sequence[Outcomes],
    board: Board,
    spec: Mapping[str, Any] | None,
    seed: int,
    seconds: Mapping[Job, float],
) -> dict[str, list[tuple[str, Chart]]]:
    """Data set -> (name of the files, figure), those across data sets under "" at the end."""
    found = {}
    for dataset in outcomes.datasets(classifiers):
        members = outcomes.shared(classifiers, dataset)
        found[dataset] = list(drawing.draw(members, board, classifiers, seed, seconds, spec))
        found[dataset] += sections.draw(frames, members, classifiers, dataset, seed)
        if "gallery" in frames:
            found[dataset] += gallery.draw(frames["gallery"][frames["gallery"]["dataset"] == dataset])
    found[""] = list(sections.draw_across(frames, classifiers, spec, seed))
    names: set[str] = set()
    return {dataset: [(_name(dataset or ALL, chart, names), chart) for chart in own] for dataset, own in found.items()}


def _name(dataset: str, chart: Chart, taken: set[str]) -> str:
    """Name of a chart's files, added to those that are taken."""
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', dataset)}_{chart.name}"
    while name in taken:  # of a data set with the id `all`
        name += "_"
    taken.add(name)
    return name


def _profile(frame: pd.DataFrame, metadata: str) -> bytes:
    """Parquet with what the fields mean, and `metadata` under the file's key."""
    meanings = {name: column.meaning for name, column in KEYS.items()} | profile.meanings(frame)
    table = pa.Table.from_pandas(frame.astype({"seed": "Int64"}), preserve_index=False)
    fields = [field.with_metadata({"meaning": meanings[field.name]}) for field in table.schema]
    sink = io.BytesIO()
    pq.write_table(table.cast(pa.schema(fields, metadata={store.KEY: metadata})), sink)
    return sink.getvalue()


def _seconds(benchmarks: Path | None) -> dict[Job, float]:
    """Seconds that the attacks' jobs took, from Snakemake's files attack/{dataset}/{classifier}/{attack}.tsv."""
    found: dict[Job, float] = {}
    for path in sorted(benchmarks.glob("attack/*/*/*.tsv")) if benchmarks else []:
        table = pd.read_csv(path, sep="\t")
        if "s" in table and len(table):
            key = path.parent.parent.name, path.parent.name, path.stem.partition(".")[0]  # shards add up
            found[key] = found.get(key, 0.0) + float(table["s"].mean())
    return found


def _write(path: Path, content: bytes) -> None:
    with store.atomic(path) as temporary:
        temporary.write_bytes(content)
