"""report: tables -> figures, leaderboards, claims and pages."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import store
from pipeline.contracts import KEYS, UserError, canonical
from pipeline.report import (
    baseline,
    boards,
    cards,
    claimtable,
    comparisons,
    explorer,
    gallery,
    outcomes,
    paths,
    profile,
    rendering,
    sections,
    site,
)
from pipeline.report import figures as drawing
from pipeline.report.classes import Classes
from pipeline.report.leaderboard import Board
from pipeline.report.outcomes import Outcomes
from pipeline.report.sparse import Job
from pipeline.report.style import Chart
from pipeline.stages.tables import read_table

ALL = "all"  # stands for the data set in the names of figures across data sets
UNSHOWN = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of pairs, separators: prepare writes no such names


def report(
    *,
    tables: Mapping[str, Path],
    out: Path,
    title: str = "Boundary Atlas",
    seed: int = 0,
    spec: Mapping[str, Any] | None = None,
    benchmarks: Path | None = None,
    data: Sequence[Path] = (),
) -> None:
    """Turn the collected tables into figures, leaderboards, claims and pages. Equal inputs give equal bytes.

    Args:
        tables: kind of measurement -> Parquet file of collect; missing and empty ones are left out. `selftest`: the
            table of the self-test.
        out: folder for `report/`, its pages, of which `index.html` is the first; `figures/{dataset}_{figure}` as .png,
            .svg and .pdf, with the numbers as .csv and the caption as .rst, across data sets `all_{figure}`, and
            `figures/index.csv`, a list of them; `leaderboard` and `leaderboards/{dataset}/{board}` as .parquet, .csv,
            .md, .tex and .html; numbers.parquet and numbers.csv, which name the rows behind each number;
            claims.csv and claims.md; profile.parquet, in which everything that was measured of a sample stands in one
            row.
        title: heading of the pages.
        seed: of the bootstrap.
        spec: the config: shown on the page, and says which method an id stands for, how data sets are related, and
            what the mCE divides by.
        benchmarks: folder of Snakemake's benchmark files; the page shows the seconds of some jobs, which are no result:
            they alone may differ between two pages of equal tables.
        data: files of prepare, of which only the metadata are read: they name the classes, which are numbers in the
            tables and, where no file names them, on pages and figures.

    Raises:
        UserError: a table or a file of `data` is missing or damaged, one of `data` is not of prepare, two of them name
            the classes of a data set differently, or the config's baseline is unknown.
    """
    frames, sources = _read(tables)
    classes = _classes(data)
    selftest = frames.pop(site.SELFTEST, None)
    classifiers = outcomes.gather(frames)
    if wrong := baseline.mistake(spec, classifiers):
        raise UserError(wrong)
    found = boards.everything(frames, classifiers, seed, spec)
    charts = _charts(frames, classifiers, found, spec, seed, _seconds(benchmarks), classes)
    claims = claimtable.ordered(sections.claims(frames, classifiers, spec, seed))
    joined = profile.joined(frames, classifiers)
    origin = canonical({"tables": {source.kind: source.sha256 for source in sources}, "seed": seed, "spec": spec})
    _figures(charts, out / "figures")
    _boards(found, out, title, origin)
    _write(out / "claims.csv", claimtable.to_csv(claims))
    _write(out / "claims.md", claimtable.to_markdown(claims))
    _write(out / "profile.parquet", _profile(joined, origin))
    pages = explorer.pages(
        tables=frames, classifiers=classifiers, profile=joined, config=spec, title=title, classes=classes
    )
    samples = {dataset: paths.samples(dataset) for dataset in outcomes.datasets(classifiers)}
    common: dict[str, Any] = {
        "title": title,
        "classifiers": classifiers,
        "boards": found,
        "comparisons": comparisons.compare(classifiers, seed),
        "charts": charts,
        "claims": claims,
        "seed": seed,
    }
    shown = {dataset: path for dataset, path in samples.items() if path in pages}
    pages |= cards.pages(tables=frames, sources=sources, config=spec, classes=classes, **common)
    # The first page comes last: when it is there, what it links to is.
    pages[paths.INDEX] = site.page(selftest=selftest, tables=sources, spec=spec, samples=shown, **common)
    for folder in ("classifiers", "samples"):  # also where there is none of either
        (out / "report" / folder).mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        _write(out / "report" / name, text)


def _figures(charts: Mapping[str, Sequence[tuple[str, Chart]]], folder: Path) -> None:
    rows = []
    for dataset, pairs in charts.items():
        for name, chart in pairs:
            for suffix in ("png", "svg", "pdf"):
                _write(folder / f"{name}.{suffix}", getattr(chart, suffix))
            _write(folder / f"{name}.csv", chart.data.to_csv(index=False, lineterminator="\n"))
            _write(folder / f"{name}.rst", re.sub(r"([^\w\s])", r"\\\1", chart.caption) + "\n")  # no markup of ids
            rows.append((name, dataset, chart.section or "Overview", chart.title, chart.caption))
    columns = ["figure", "dataset", "section", "title", "caption"]
    _write(folder / "index.csv", pd.DataFrame(rows, columns=columns).to_csv(index=False, lineterminator="\n"))


def _boards(found: Sequence[Board], out: Path, title: str, origin: str) -> None:
    def write(board: Board, path: Path, root: str) -> None:
        _write(path.with_name(f"{path.name}.parquet"), rendering.to_parquet(board, origin))
        _write(path.with_name(f"{path.name}.csv"), rendering.to_csv(board))
        _write(path.with_name(f"{path.name}.md"), rendering.to_markdown(board))
        _write(path.with_name(f"{path.name}.tex"), rendering.to_latex(board))
        _write(path.with_name(f"{path.name}.html"), site.leaderboard_page(board, title, root))

    write(found[0], out / "leaderboard", "report/")
    for board in found:
        for dataset in dict.fromkeys(board.table["dataset"]):
            write(boards.of(board, dataset), out / "leaderboards" / paths.safe(dataset) / board.name, "../../report/")
    numbers = boards.numbers(found)
    _write(out / "numbers.csv", numbers.to_csv(index=False, lineterminator="\n"))
    _write(out / "numbers.parquet", _parquet(numbers, origin, boards.MEANINGS))


def _read(tables: Mapping[str, Path]) -> tuple[dict[str, pd.DataFrame], list[site.Source]]:
    frames, sources = {}, []
    for kind, path in sorted(tables.items()):
        table = read_table(kind, path, kind in (*outcomes.KINDS, site.SELFTEST))
        if table.frame is not None:
            frames[kind] = table.frame
        sources.append(site.Source(kind, table.rows, store.sha256(path), table.provenance))
    return frames, sources


def _classes(data: Sequence[Path]) -> dict[str, list[str]]:
    """Data set -> names of its classes."""
    found: dict[str, list[str]] = {}
    for path in data:
        meta = store.read_metadata(path)
        spec, names = meta.get("spec"), meta.get("classes")
        dataset = spec.get("dataset") if meta.get("stage") == "prepare" and isinstance(spec, dict) else None
        if not isinstance(dataset, str) or not isinstance(names, list) or not all(map(_is_name, names)):
            raise UserError(f"{path}: names no classes, expected a file of prepare; give data/*/evaluation.safetensors")
        if found.setdefault(dataset, names) != names:
            raise UserError(f"{path}: names other classes of {dataset} than a file before it; give one of them")
    return found


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and not any(unicodedata.category(letter) in UNSHOWN for letter in name)


def _charts(
    frames: Mapping[str, pd.DataFrame],
    classifiers: Sequence[Outcomes],
    ranked: Sequence[Board],
    spec: Mapping[str, Any] | None,
    seed: int,
    seconds: Mapping[Job, float],
    classes: Classes,
) -> dict[str, list[tuple[str, Chart]]]:
    """Data set -> (name of the files, figure), those across data sets under "" at the end."""
    found = {}
    further = [board for board in ranked if board.name == "geometry"]
    for dataset in outcomes.datasets(classifiers):
        members = outcomes.shared(classifiers, dataset)
        found[dataset] = list(drawing.draw(members, ranked[0], classifiers, seed, seconds, spec, further))
        found[dataset] += sections.draw(frames, members, classifiers, dataset, seed, classes)
        if "gallery" in frames:
            rows = frames["gallery"][frames["gallery"]["dataset"] == dataset]
            found[dataset] += gallery.draw(rows, members, classes=classes)
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
    meanings = {name: column.meaning for name, column in KEYS.items()} | profile.meanings(frame)
    return _parquet(frame.astype({"seed": "Int64"}), metadata, meanings)


def _seconds(benchmarks: Path | None) -> dict[Job, float]:
    """Seconds that the attacks' jobs took, from Snakemake's files attack/{dataset}/{classifier}/{attack}.tsv."""
    found: dict[Job, float] = {}
    for path in sorted(benchmarks.glob("attack/*/*/*.tsv")) if benchmarks else []:
        table = pd.read_csv(path, sep="\t")
        if "s" in table and len(table):
            key = path.parent.parent.name, path.parent.name, path.stem.partition(".")[0]  # shards add up
            found[key] = found.get(key, 0.0) + float(table["s"].mean())
    return found


def _parquet(frame: pd.DataFrame, metadata: str, meanings: Mapping[str, str] | None = None) -> bytes:
    """Parquet with what the fields mean, and `metadata` under the file's key."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    fields = [field.with_metadata({"meaning": meanings[field.name]}) if meanings else field for field in table.schema]
    sink = io.BytesIO()
    pq.write_table(table.cast(pa.schema(fields, metadata={store.KEY: metadata})), sink)
    return sink.getvalue()


def _write(path: Path, content: str | bytes) -> None:
    with store.atomic(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
