"""collect: the tables of all classifiers -> one table a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.contracts import UserError


def collect(*, spec: Mapping[str, Any], code: str, tables: Sequence[Path], lineages: Sequence[str], out: Path) -> None:
    """Concatenate measurement tables of one kind, and refuse those that the config did not make.

    Args:
        spec: `kind` (method of the measurement).
        code: digest of the code, for the provenance.
        tables: Parquet files of measure.
        lineages: what the config says of each table, in the same order; empty: not checked.
        out: Parquet file.

    Raises:
        UserError: a table is of another kind or schema, or was made with another config.
    """
    if lineages and len(lineages) != len(tables):
        raise UserError(f"collect: {len(lineages)} lineages for {len(tables)} tables, expected as many")
    devices: set[str] = set()
    versions: dict[str, set[str]] = {}
    for number, path in enumerate(tables):
        meta = store.read_metadata(path)
        if meta["stage"] != "measure" or meta["spec"]["method"] != spec["kind"]:
            raise UserError(f"{path}: a table of '{meta['spec'].get('method')}', expected '{spec['kind']}'")
        if lineages and meta["lineage"] != lineages[number]:
            raise UserError(
                f"{path}: made with another config than the present one (lineage {meta['lineage']}, expected "
                f"{lineages[number]}); delete it and run again"
            )
        devices.add(meta["device"])
        for package, version in meta["versions"].items():
            versions.setdefault(package, set()).add(version)
    inputs = {f"{path.parent.name}/{path.stem}": path for path in tables}
    meta = store.provenance("collect", spec, code, inputs) | {
        "measured_on": sorted(devices),
        "measured_with": {package: sorted(found) for package, found in versions.items()},
    }
    store.concatenate(tables, out, meta)
