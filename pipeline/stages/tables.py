"""A collected table as the report reads it: of the types that its measurement declares, with its provenance."""

from __future__ import annotations

import ast
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import registry, store
from pipeline.contracts import KEYS, UserError


class Collected(NamedTuple):
    """A table: its number of rows, its rows if they were asked for and there are any, and its provenance or {}."""

    rows: int
    frame: pd.DataFrame | None
    provenance: Mapping[str, Any]


def read_table(kind: str, path: Path, wanted: bool = True) -> Collected:
    """Read a table of `collect`, whoever wrote it.

    Columns that the measurement's code at hand does not know are let through, and so are missing ones, beside the keys
    of every row: tables may be older or younger than the code.

    Args:
        kind: method of the measurement, or the name of another table, whose columns are not checked.
        path: Parquet file.
        wanted: whether the rows are.

    Raises:
        UserError: the file is missing or damaged, lacks a key, or holds a column of another type.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow
            if rows and wanted:
                _check(path, kind, schema)
            frame = file.read().to_pandas() if rows and wanted else None
        provenance = json.loads((schema.metadata or {}).get(store.KEY.encode(), b"{}"))
    except (OSError, pa.ArrowException, ValueError, RecursionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: not readable as a table ({reason}); run collect again") from None
    if not _well_formed(provenance):
        raise UserError(f"{path}: its metadata are not those of a table; run collect again")
    return Collected(rows, frame, provenance)


def _check(path: Path, kind: str, schema: pa.Schema) -> None:
    declared = _declared(kind)
    if not declared:
        return
    for name in (*KEYS, *declared):
        if (number := schema.names.count(name)) > 1 or (not number and name in KEYS):
            raise UserError(f"{path}: has {number or 'no'} columns '{name}', expected one; run collect again")
        if number:
            given, expected = (
                schema.field(name).type,
                store.arrow_type(KEYS[name].type if name in KEYS else declared[name]),
            )
            if _family(given) not in ("null", _family(expected)):
                raise UserError(f"{path}: column '{name}' is {given}, expected {expected}; run collect again")


def _family(kind: pa.DataType) -> str:
    """What values of a type are, however many bits they take: other programs widen whole numbers and encode texts."""
    tests = {
        "null": pa.types.is_null,
        "bool": pa.types.is_boolean,
        "number": lambda given: pa.types.is_integer(given) or pa.types.is_floating(given),
        "text": lambda given: pa.types.is_string(given) or pa.types.is_large_string(given),
        "bytes": lambda given: pa.types.is_binary(given) or pa.types.is_large_binary(given),
    }
    if pa.types.is_dictionary(kind):
        return _family(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list of {_family(kind.value_type)}"
    return next((name for name, test in tests.items() if test(kind)), str(kind))


def _well_formed(provenance: Any) -> bool:
    """Whether the parts of a table's provenance that the page shows have the form that collect gives them."""
    if not isinstance(provenance, dict):
        return False
    devices, versions = provenance.get("measured_on", []), provenance.get("measured_with", {})
    lists = [devices, *versions.values()] if isinstance(versions, dict) else [None]
    return all(isinstance(each, list) and all(isinstance(text, str) for text in each) for each in lists)


@functools.cache
def _declared(kind: str) -> Mapping[str, str]:
    """Column -> Arrow type by name, of a measurement's COLUMNS, out of the source text: the module needs torch."""
    if kind not in registry.names("measurement"):
        return {}
    return _mapping(registry.ROOT / registry.KINDS["measurement"].package / f"{kind}.py", "COLUMNS")


def _mapping(path: Path, name: str) -> dict[str, str]:
    """Types of the columns in a mapping that a module declares, also by way of mappings that it imports."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    values = [
        node.value
        for node in body
        if isinstance(node, ast.AnnAssign | ast.Assign)
        for target in ([node.target] if isinstance(node, ast.AnnAssign) else node.targets)
        if isinstance(target, ast.Name) and target.id == name
    ]
    found: dict[str, str] = {}
    for value in values:
        for key, column in zip(value.keys, value.values, strict=True) if isinstance(value, ast.Dict) else ():
            if isinstance(key, ast.Constant) and isinstance(column, ast.Call):
                found[str(key.value)] = ast.literal_eval(column.args[0])
            elif key is None and isinstance(column, ast.Name):
                found |= _mapping(_source(body, column.id) or path, column.id)
    return found


def _source(body: list[ast.stmt], name: str) -> Path | None:
    """File of the module from which a name is imported; None if it is not imported."""
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module and name in (alias.name for alias in node.names):
            return registry.ROOT.parent.joinpath(*node.module.split(".")).with_suffix(".py")
    return None
