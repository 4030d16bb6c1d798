"""Files in and out: safetensors and Parquet, whole or not at all, each with its provenance under one metadata key.

Time, host and duration stay out of the files, so equal inputs give equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import KEYS, Column, UserError, canonical, lineage

KEY = "pipeline"
# A field of a safetensors file's provenance, as a second metadata key would stand before or behind the first one by
# chance; Parquet has a checksum of its own for each page.
CHECKSUM = "checksum"
PACKAGES = (
    "foolbox", "numpy", "pillow", "pyarrow", "pyautoattack", "safetensors", "scikit-learn", "scipy", "timm", "torch",
    "torchvision",
)  # fmt: skip

Array = NDArray[Any]


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask gives; safetensors makes files that only their owner can read
        yield temporary
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # a rename must not reach the disk before the bytes do
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance(
    stage: str, spec: Mapping[str, Any], code: str, inputs: Mapping[str, Path], device: str = "cpu"
) -> dict[str, Any]:
    """What made a file: stage, spec, code digest, lineage, the inputs' hashes, package versions and device.

    Raises:
        UserError: an input is missing, damaged, or not one that a stage wrote for another.
    """
    sources = {}
    for name, path in inputs.items():
        meta = read_metadata(path)
        if not isinstance(meta.get("lineage"), str):
            raise UserError(f"{path}: its metadata name no lineage, so it is no input of {stage}; give another file")
        sources[name] = {"lineage": meta["lineage"], "sha256": sha256(path)}
    return {
        "stage": stage,
        "spec": spec,
        "code": code,
        "lineage": lineage(spec, [source["lineage"] for source in sources.values()]),
        "inputs": sources,
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "device": device,
    }


def write_tensors(path: Path, tensors: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
    """Write arrays and metadata as safetensors; strings are packed by `pack`."""
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with atomic(path) as temporary:
        save_file(contiguous, temporary, metadata={KEY: canonical({**meta, CHECKSUM: _checksum(contiguous)})})


def read_tensors(path: Path, *made_by: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and metadata of a safetensors file that the pipeline wrote.

    Args:
        path: the file.
        made_by: stages that make the kind of file expected, for prepare with its split (`prepare train`); none: any.

    Raises:
        UserError: the file is missing, truncated, not one of ours, or of another kind.
    """
    from safetensors.numpy import load_file

    meta = read_metadata(path)
    if made_by:
        made = _made_by(meta)
        if made not in made_by:
            raise UserError(f"{path}: a file of {made}, expected one of {' or '.join(made_by)}")
    try:
        tensors = load_file(path)
    except Exception as error:  # a type that NumPy lacks is a KeyError, a damaged file one of the library's own
        raise _unreadable(path, error) from None
    if meta.pop(CHECKSUM, None) not in (None, _checksum(tensors)):
        raise _unreadable(path, ValueError("its checksum differs"))
    return tensors, meta


def _checksum(tensors: Mapping[str, Array]) -> str:
    """SHA-256 over names, types, shapes and bytes; a file of another writer has none, and is not compared."""
    found = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        found.update(canonical([name, str(array.dtype), array.shape]).encode())
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _made_by(meta: Mapping[str, Any]) -> str:
    """The stage that made a file, with its split; in one line, whatever the metadata hold."""
    spec = meta.get("spec")
    parts = (meta.get("stage"), spec.get("split") if isinstance(spec, dict) else None)
    text = " ".join(part for part in parts if isinstance(part, str))
    return text if text.isprintable() and text else "unknown origin"


def write_table(path: Path, columns: Mapping[str, Any], schema: Mapping[str, Column], meta: Mapping[str, Any]) -> None:
    """Write columns as Parquet with the types of `schema`; meanings and units go into the fields' metadata.

    Raises:
        ValueError: the columns are not those of the schema, differ in length, or hold NaN.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if list(columns) != list(schema):
        raise ValueError(f"{path.name}: columns {list(columns)}, expected {list(schema)}")
    fields, arrays = [], []
    for name, column in schema.items():
        kind = arrow_type(column.type)
        values = columns[name]
        array = pa.array(values.tolist() if hasattr(values, "tolist") else values, type=kind)
        flat = array.flatten() if pa.types.is_list(kind) else array
        if pa.types.is_floating(flat.type) and any(value != value for value in flat.drop_null().to_pylist()):
            raise ValueError(f"{path.name}: column '{name}' holds NaN; what did not converge is null")
        fields.append(pa.field(name, kind, metadata={"meaning": column.meaning}))
        arrays.append(array)
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata={KEY: canonical(meta)}))
    with atomic(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)


def arrow_type(name: str) -> Any:
    """Arrow type of a column: a name that Arrow knows, or a list of one, such as `list<float64>`."""
    import pyarrow as pa

    if name.startswith("list<"):
        return pa.list_(pa.type_for_alias(name.removeprefix("list<").removesuffix(">")))
    return pa.type_for_alias(name)


def concatenate(paths: Sequence[Path], out: Path, meta: Mapping[str, Any]) -> None:
    """Concatenate Parquet tables of one schema, in the order given, row group by row group.

    Raises:
        UserError: a table's columns differ from the first one's, or it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = paths[0]
    try:
        schema = pq.read_schema(path).with_metadata({KEY: canonical(meta)})
        with atomic(out) as temporary, pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
            for path in paths:
                with pq.ParquetFile(path, page_checksum_verification=True) as file:
                    if not file.schema_arrow.equals(schema):
                        raise UserError(
                            f"{path}: its columns differ from those of {paths[0]}; delete both and run again"
                        )
                    for group in range(file.num_row_groups):
                        rows = _row_group(file, group, path)
                        writer.write_table(rows.replace_schema_metadata(schema.metadata))
    except pa.ArrowException as error:
        raise _unreadable(path, error) from None


def _row_group(file: Any, group: int, path: Path) -> Any:
    try:
        return file.read_row_group(group)
    except OSError as error:  # Arrow's word for pages that are cut or do not decompress
        raise _unreadable(path, error) from None


def read_metadata(path: Path) -> dict[str, Any]:
    """The provenance of a safetensors or Parquet file that the pipeline wrote.

    Raises:
        UserError: the file is missing, truncated, or not one of ours.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage that makes it, or check the path")
    try:
        text = _parquet_key(path) if path.suffix == ".parquet" else _safetensors_key(path)
    except Exception as error:  # each library has exceptions of its own for a damaged file
        raise _unreadable(path, error) from None
    if text is None:
        raise UserError(f"{path}: has no '{KEY}' metadata, so this pipeline did not write it; give another file")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise UserError(f"{path}: its '{KEY}' metadata are no mapping in JSON; delete it and run again")
    return meta


def _safetensors_key(path: Path) -> str | None:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return (file.metadata() or {}).get(KEY)


def _parquet_key(path: Path) -> str | None:
    import pyarrow.parquet as pq

    value = (pq.read_schema(path).metadata or {}).get(KEY.encode())
    return None if value is None else value.decode()


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return UserError(f"{path}: truncated or damaged ({reason}); delete it and run again")


def pack(strings: Sequence[str]) -> Array:
    """Strings as a zero-padded (n, longest) uint8 matrix of UTF-8, for safetensors, which has no strings."""
    encoded = np.array([text.encode() for text in strings], dtype=np.bytes_)
    return encoded.view(np.uint8).reshape(len(strings), -1)


def unpack(matrix: Array) -> list[str]:
    """Inverse of `pack`."""
    rows = np.ascontiguousarray(matrix)
    return [text.decode() for text in rows.view(f"S{rows.shape[1]}").ravel().tolist()]


def table_schema(own: Mapping[str, Column]) -> dict[str, Column]:
    """Columns of a measurement's table: the keys of every row, then the measurement's own."""
    return {**KEYS, **own}
