"""Parquet files in the image layout of the Hugging Face hub."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.contracts import Count, Files, Range, UserError
from pipeline.datasets._names import check_names
from pipeline.datasets.decoding import check_crop, decode
from pipeline.datasets.samples import Samples


def parquet(
    *,
    train: Files,
    test: Files | None = None,
    image_column: str = "image",
    label_column: str = "label",
    size: Count | None = None,
    crop: Annotated[float, Range(above=0, high=1)] = 1.0,
    channels: Literal[1, 3] = 3,
) -> Samples:
    """Parquet files in the Hugging Face image layout: `image` = struct(bytes, path), `label` = integer.

    Args:
        train: a file, a glob pattern or a list of them.
        test: likewise; None: a test split is taken out of `train`.
        image_column: column of encoded images, a struct with a field `bytes`, or plain binary.
        label_column: column of integer labels, plain or dictionary-encoded.
        size: side in pixels to which images are resized and cropped; None: they are of one size already.
        crop: share of the resized shorter side that the centre crop keeps; ImageNet's usual evaluation is size 224,
            crop 0.875: resize to 256, crop 224.
        channels: 1 or 3.

    Returns:
        Samples whose ids are `file name/row`, without the name's suffix. Class names come from the `huggingface` schema
        metadata; without it the classes are the sorted distinct labels. `read` goes through the files one by one; the
        first call of `encoded` loads all encoded images of that split and keeps them in memory, also for `read`, so a
        process that forks workers should make it before, for them to share one copy.

    Raises:
        UserError: a file or column is missing, damaged or of another type, a label is missing, negative or out of
            range, there are fewer than two classes, two files name different ones, a name is refused (`image_folder`),
            or there is a crop but no size.
    """
    check_crop(size, crop)
    parts = {"train": expand(train)} | ({} if test is None else {"test": expand(test)})
    files = [file for found in parts.values() for file in found]
    if len({file.stem for file in files}) < len(files):
        together = ", ".join(map(str, files))
        raise UserError(f"parquet: two of the files share one name, but names make the sample ids: {together}")
    check_names((file.stem for file in files), "parquet", "file")
    labels: list[NDArray[np.int64]] = []
    for file in files:
        labels.append(_labels(file, label_column, image_column))
    counts = [len(part) for part in labels]
    classes, indexes = _classes(files, label_column, labels)
    starts = np.concatenate([[0], np.cumsum(counts)])

    held: dict[Path, pa.ChunkedArray] = {}

    def in_order(rows: NDArray[np.int64]) -> Iterator[tuple[str, bytes]]:
        for start, stop, file in zip(starts[:-1], starts[1:], files, strict=True):
            wanted = rows[(start <= rows) & (rows < stop)] - start
            if len(wanted):
                column = (held[file] if file in held else _bytes(file, image_column)).take(pa.array(wanted, pa.int64()))
                for row, content in zip(wanted, column, strict=True):
                    yield _named(file, int(row), content)

    def encoded(row: int) -> tuple[str, bytes]:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        file = files[number]
        if file not in held:
            part = "train" if number < len(parts["train"]) else "test"
            held.update({other: _bytes(other, image_column) for other in parts[part]})
        inside = row - int(starts[number])
        return _named(file, inside, held[file][inside])

    def read(rows: NDArray[np.int64]) -> NDArray[Any]:
        # File by file, so decode in ascending order and put the images back in the order asked for.
        order = np.argsort(rows, kind="stable")
        images = decode(in_order(rows[order]), channels, size, crop)
        return images[np.argsort(order, kind="stable")]

    tested = len(files) - len(parts.get("test", []))
    splits = ["train"] * int(starts[tested]) + ["test"] * int(starts[-1] - starts[tested])
    return Samples(
        ids=[f"{file.stem}/{row:06d}" for file, count in zip(files, counts, strict=True) for row in range(count)],
        labels=indexes,
        classes=classes,
        splits=None if test is None else splits,
        read=read,
        encoded=encoded,
    )


def expand(patterns: str | Sequence[str]) -> list[Path]:
    """Files of a path, a glob pattern or a list of them, each pattern's in alphabetical order."""
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise UserError(f"{pattern}: no such file")
        found += map(Path, matches)
    return found


def _bytes(file: Path, image_column: str) -> pa.ChunkedArray:
    column = _column(file, image_column)
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _column(file: Path, name: str) -> pa.ChunkedArray:
    try:
        return pq.read_table(file, columns=[name], partitioning=None)[name]
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _named(file: Path, row: int, content: pa.Scalar) -> tuple[str, bytes]:
    if not content.is_valid:
        raise UserError(f"{file}: row {row} has no image bytes")
    return f"{file}, row {row}", content.as_py()


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(f"{file}: not a readable Parquet file ({' '.join(str(error).split())}); get it anew")


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _labels(file: Path, label_column: str, image_column: str) -> NDArray[np.int64]:
    schema = _schema(file)
    for name in (image_column, label_column):
        if schema.names.count(name) != 1:
            there = ascii(schema.names) if "\n" in "".join(schema.names) else ", ".join(schema.names)
            number = "no" if name not in schema.names else "more than one"
            raise UserError(f"{file}: has {number} column '{name}'; it has {there}")
    kind = schema.field(label_column).type
    if not pa.types.is_integer(kind.value_type if pa.types.is_dictionary(kind) else kind):
        raise UserError(f"{file}: column '{label_column}' is {kind}, expected integers; write class numbers into it")
    kind = schema.field(image_column).type
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise UserError(f"{file}: column '{image_column}' is {kind}, expected struct(bytes, path) or binary")
    column = _column(file, label_column)
    if column.null_count:
        raise UserError(f"{file}: {column.null_count} rows have no label")
    try:
        return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)
    except pa.ArrowInvalid:
        raise UserError(f"{file}: column '{label_column}' holds labels over {2**63 - 1}") from None


def _classes(
    files: Sequence[Path], label_column: str, parts: Sequence[NDArray[np.int64]]
) -> tuple[list[str], NDArray[np.int64]]:
    """Class names, and labels as indexes into them."""
    named = {file: names for file in files if (names := _class_names(file, label_column)) is not None}
    first, classes = next(iter(named.items()), (None, None))
    for file, names in named.items():
        if names != classes:
            raise UserError(f"{file}: its metadata name other classes than those of {first}; make them agree")
    for file, part in zip(files, parts, strict=True):
        if classes is not None and len(odd := part[(part < 0) | (part >= len(classes))]):
            raise UserError(
                f"{file}: label {odd[0]} is outside 0..{len(classes) - 1}, the classes that its metadata name"
            )
        if len(odd := part[part < 0]):
            raise UserError(f"{file}: label {odd[0]} is negative, which marks images without one; leave them out")
    labels = np.concatenate(parts)
    if classes is None:
        distinct, indexes = np.unique(labels, return_inverse=True)
        classes, labels = [str(label) for label in distinct], indexes.astype(np.int64)
    if len(classes) < 2:
        raise UserError(f"{files[0]}: classes {classes}, expected at least two; add images of another class")
    return classes, labels


def _class_names(file: Path, label_column: str) -> list[str] | None:
    """Class names out of the metadata; None if there are none."""
    text = (_schema(file).metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        feature = json.loads(text)["info"]["features"].get(label_column) or {}
        names = feature.get("names") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{file}: the class names in its metadata 'huggingface' are not readable; write them anew, or remove the "
            "metadata: the labels then name the classes"
        ) from None
    check_names(names, str(file), "class")
    if len(set(names)) < len(names):
        raise UserError(f"{file}: two classes share one name in its metadata; rename one of them")
    return names or None
