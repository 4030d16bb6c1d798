"""report: tables -> figures, leaderboard and one self-contained page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.contracts import UserError, canonical
from pipeline.report import comparisons, gallery, outcomes, rendering, site
from pipeline.report import figures as drawing
from pipeline.report import leaderboard as ranking
from pipeline.report.leaderboard import Board
from pipeline.report.outcomes import Outcomes
from pipeline.report.style import Chart


def report(
    *,
    tables: Mapping[str, Path],
    figures: Path,
    page: Path,
    leaderboard: Path,
    title: str = "Boundary Atlas",
    seed: int = 0,
    spec: Mapping[str, Any] | None = None,
) -> None:
    """Turn the collected tables into figures, leaderboard and page. Equal tables give equal bytes.

    Args:
        tables: kind of measurement -> Parquet file of collect; missing and empty ones are left out.
        figures: folder; `{dataset}_{figure}` as .png and .svg, with its numbers as .csv.
        page: HTML file.
        leaderboard: path without suffix; .parquet, .csv, .md and .html are made.
        title: heading of the page.
        seed: of the bootstrap.
        spec: shown on the page, if given.

    Raises:
        UserError: a table is missing or damaged.
    """
    frames, sources = _read(tables)
    classifiers = outcomes.gather(frames)
    board = ranking.build(classifiers, seed)
    gallery = frames.get("gallery")
    charts = {name: _draw(name, classifiers, board, gallery, seed) for name in _datasets(classifiers, frames)}
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
    text = site.page(
        title=title,
        classifiers=classifiers,
        board=board,
        comparisons=comparisons.compare(classifiers, seed),
        charts=charts,
        tables=sources,
        seed=seed,
        spec=spec,
    )
    _write(page, text.encode())


def _read(tables: Mapping[str, Path]) -> tuple[dict[str, pd.DataFrame], list[site.Source]]:
    frames, sources = {}, []
    for kind, path in sorted(tables.items()):
        try:
            with pq.ParquetFile(path) as file:
                rows, schema = file.metadata.num_rows, file.schema_arrow
                if rows and kind in outcomes.KINDS:
                    frames[kind] = file.read().to_pandas()
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path}: not readable as a table ({reason}); run collect again") from None
        meta = json.loads((schema.metadata or {}).get(store.KEY.encode(), b"{}"))
        sources.append(site.Source(kind, rows, store.sha256(path), meta))
    return frames, sources


def _datasets(classifiers: Sequence[Outcomes], frames: Mapping[str, pd.DataFrame]) -> list[str]:
    found = set(outcomes.datasets(classifiers))
    return sorted(found | set(frames["gallery"]["dataset"])) if "gallery" in frames else sorted(found)


def _draw(
    dataset: str, classifiers: Sequence[Outcomes], board: Board, images: pd.DataFrame | None, seed: int
) -> list[tuple[str, Chart]]:
    members = outcomes.shared(classifiers, dataset)
    charts = list(drawing.draw(members, board, classifiers, seed)) if members else []
    if images is not None and dataset in set(images["dataset"]):
        charts += gallery.draw(images[images["dataset"] == dataset])
    return [(f"{re.sub(r'[^A-Za-z0-9._-]+', '_', dataset)}_{chart.name}", chart) for chart in charts]


def _write(path: Path, content: bytes) -> None:
    with store.atomic(path) as temporary:
        temporary.write_bytes(content)
