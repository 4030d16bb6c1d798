"""collect: the tables of all classifiers -> one table a kind."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.contracts import UserError, canonical
from pipeline.stages.gather import gathered

STDIN = Path("-")


def collect(*, spec: Mapping[str, Any], code: str, tables: Sequence[Path], lineages: Sequence[str], out: Path) -> None:
    """Concatenate measurement tables of one kind, and refuse those that the config did not make.

    The rows, and their order, are the same whether a measurement was made by one job or by several, its shards. The
    metadata say which of the tables was made under which versions, on which device and by which code: an upgraded
    library re-runs nothing, so these may differ.

    Args:
        spec: `kind` (method of the measurement).
        code: digest of the code, for the provenance.
        tables: Parquet files of measure; the shards of a measurement follow one another. Only `-`: standard input names
            them, a line each, as `lineage path`, since a command line holds no more than some thousand.
        lineages: what the config says of each table, in the same order; empty: not checked.
        out: Parquet file.

    Raises:
        UserError: a table is of another kind or schema, or was made with another config.
    """
    if list(tables) == [STDIN]:
        lines = [line.split(maxsplit=1) for line in sys.stdin.read().splitlines()]
        if any(len(line) != 2 for line in lines):
            raise UserError("collect: standard input holds a line that is not a lineage, a blank and a path")
        lineages, tables = [lineage for lineage, _ in lines], [Path(path) for _, path in lines]
    if lineages and len(lineages) != len(tables):
        raise UserError(f"collect: {len(lineages)} lineages for {len(tables)} tables, expected as many")
    metas: dict[Path, dict[str, Any]] = {}
    inputs: dict[str, Path] = {}
    makers: dict[str, dict[str, Any]] = {}
    versions: dict[str, set[str]] = {}
    for number, path in enumerate(tables):
        meta = metas[path] = store.read_metadata(path)
        made = meta.get("spec") if meta.get("stage") == "measure" else None
        if not isinstance(made, dict) or made.get("method") != spec["kind"]:
            of = repr(made.get("method")) if isinstance(made, dict) else "no measurement"
            raise UserError(f"{path}: a table of {of}, expected '{spec['kind']}'")
        if lineages and meta["lineage"] != lineages[number]:
            raise UserError(
                f"{path}: made with another config than the present one (lineage {meta['lineage']}, expected "
                f"{lineages[number]}); delete it and run again"
            )
        name = "/".join((*path.parts[-3:-1], path.stem))
        inputs[name] = path
        facts = {key: meta.get(key) for key in ("versions", "device", "code")}
        makers.setdefault(canonical(facts), {**facts, "tables": []})["tables"].append(name)
        for package, version in meta["versions"].items():
            versions.setdefault(package, set()).add(version)
    meta = store.provenance("collect", spec, code, inputs) | {
        "measured_on": sorted({facts["device"] for facts in makers.values()}),
        "measured_with": {package: sorted(found) for package, found in versions.items()},
        "made": list(makers.values()),
    }
    with tempfile.TemporaryDirectory() as folder:
        store.concatenate(gathered(metas, Path(folder)), out, meta)
