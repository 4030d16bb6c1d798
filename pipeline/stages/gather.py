"""The tables of the shards of one measurement put together: the table that one job would have written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import specs
from pipeline.contracts import UserError
from pipeline.stages import shards

KEYS = ("dataset", "classifier", "measurement")  # in which all shards of a job agree


def gathered(metas: Mapping[Path, Mapping[str, Any]], folder: Path) -> list[Path]:
    """Tables in the order given, those that are shards replaced by one table for each measurement.

    Args:
        metas: path -> metadata, the shards of a measurement one after another.
        folder: for the tables that are put together.

    Raises:
        UserError: a shard is missing, damaged, or differs in its columns from the first.
    """
    found: list[Path] = []
    waiting: dict[Path, Mapping[str, Any]] = {}
    for path, meta in metas.items():
        shard = meta["spec"].get("shard")
        if shard is None:
            found.append(path)
            continue
        waiting[path] = meta
        if shard["index"] == shard["of"]:
            shards.check_complete(waiting)
            found.append(folder / f"{len(found)}-{path.name}")
            _write(list(waiting), specs.independent(meta["spec"]["method"]) or (), found[-1])
            waiting = {}
    if waiting:
        shards.check_complete(waiting)
    return found


def _write(paths: Sequence[Path], within: Sequence[str], out: Path) -> None:
    """Write the rows of all shards: those that agree in the columns `within` together, in the order of the shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path in paths:
        try:
            tables.append(pq.read_table(path, partitioning=None, page_checksum_verification=True))
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{path}: truncated or damaged ({reason}); delete it and run again") from None
        if not tables[-1].schema.equals(tables[0].schema):
            raise UserError(f"{path}: its columns differ from those of {paths[0]}; delete both and run again")
        _check_same_job(paths[0], tables[0], path, tables[-1])
    whole = pa.concat_tables(tables)
    places: dict[tuple[Any, ...], int] = {}
    rows = zip(*(whole[name].to_pylist() for name in within), strict=True)
    groups = [places.setdefault(row, len(places)) for row in rows]
    if within:
        whole = whole.take(np.argsort(groups, kind="stable"))
    pq.write_table(whole, out)


def _check_same_job(first: Path, rows: Any, path: Path, others: Any) -> None:
    for name in KEYS:
        one, other = (table[name].unique().to_pylist() for table in (rows, others))
        if one != other:
            raise UserError(f"{path}: a shard of {name} {other}, but {first} is one of {one}; give all shards of each")
