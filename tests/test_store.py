"""Files appear whole or not at all, carry their provenance, and are the same bytes for the same content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import store
from pipeline.contracts import Column, UserError

COLUMNS = {
    "row": Column("int32", "number"),
    "value": Column("float64", "length in pixels"),
    "name": Column("string", "n"),
}


def test_failure_leaves_neither_file_nor_temporary(tmp_path: Path) -> None:
    out = tmp_path / "a" / "x.bin"
    with pytest.raises(ZeroDivisionError), store.atomic(out) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert list(out.parent.iterdir()) == []


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "x.bin"
    out.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), store.atomic(out) as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert out.read_bytes() == b"old"


def test_tensors_round_trip_and_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    tensors = {"b": np.arange(6, dtype=np.uint8).reshape(2, 3), "a": np.float32([1.5])}
    files = [tmp_path / f"{number}.safetensors" for number in range(16)]
    for file in files:
        store.write_tensors(file, tensors, {"z": 1, "a": [2]})
    read, meta = store.read_tensors(files[0])
    assert meta == {"z": 1, "a": [2]}
    assert all(np.array_equal(read[key], value) and read[key].dtype == value.dtype for key, value in tensors.items())
    assert len({file.read_bytes() for file in files}) == 1


def test_sliced_arrays_are_stored_as_they_look(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    store.write_tensors(tmp_path / "x.safetensors", {"x": array[::2, ::-1]}, {})
    assert np.array_equal(store.read_tensors(tmp_path / "x.safetensors")[0]["x"], array[::2, ::-1])


def test_ids_round_trip_with_unicode_and_any_length() -> None:
    names = ["a", "Übung/0001.png", "", "x" * 70]
    assert store.unpack(store.pack(names)) == names


def test_table_keeps_types_nulls_and_meanings(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    store.write_table(path, {"row": [1, 2], "value": [0.5, None], "name": ["a", None]}, COLUMNS, {"k": 1})
    table = pq.read_table(path)
    assert table.to_pylist() == [{"row": 1, "value": 0.5, "name": "a"}, {"row": 2, "value": None, "name": None}]
    assert table.schema.field("value").metadata == {b"meaning": b"length in pixels"}
    assert store.read_metadata(path) == {"k": 1}


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'value' holds NaN"):
        store.write_table(tmp_path / "t.parquet", {"row": [1], "value": [np.nan], "name": ["a"]}, COLUMNS, {})
    assert not list(tmp_path.iterdir())


def test_wrong_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        store.write_table(tmp_path / "t.parquet", {"row": [1]}, COLUMNS, {})


def test_tables_concatenate_in_order_and_refuse_another_schema(tmp_path: Path) -> None:
    parts = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for number, part in enumerate(parts):
        store.write_table(part, {"row": [number], "value": [None], "name": ["x"]}, COLUMNS, {})
    store.concatenate(parts, tmp_path / "all.parquet", {"k": 2})
    assert pq.read_table(tmp_path / "all.parquet")["row"].to_pylist() == [0, 1]
    assert store.read_metadata(tmp_path / "all.parquet") == {"k": 2}
    store.write_table(parts[1], {"row": [1]}, {"row": COLUMNS["row"]}, {})
    with pytest.raises(UserError, match="columns differ"):
        store.concatenate(parts, tmp_path / "other.parquet", {})
    assert not (tmp_path / "other.parquet").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".parquet"])
def test_damaged_and_missing_files_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    with pytest.raises(UserError, match="no such file"):
        store.read_metadata(path)
    if suffix == ".parquet":
        store.write_table(path, {"row": [1], "value": [0.0], "name": ["a"]}, COLUMNS, {"lineage": "x"})
    else:
        store.write_tensors(path, {"x": np.zeros(100)}, {"lineage": "x"})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=f"x{suffix}: truncated or damaged .*; delete it and run again"):
        if suffix == ".parquet":
            store.read_metadata(path)
        else:
            store.read_tensors(path)


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    store.write_tensors(tmp_path / "tensors.safetensors", {"a": np.zeros(1)}, {})
    store.write_table(tmp_path / "table.parquet", {"a": [1]}, {"a": Column("int64", "")}, {})
    for name in ("tensors.safetensors", "table.parquet"):
        assert (tmp_path / name).stat().st_mode == plain.stat().st_mode
