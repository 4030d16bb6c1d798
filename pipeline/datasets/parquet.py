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
        label_column: column of integer labels.
        size: side in pixels to which images are resized and cropped; None: they are of one size already.
        crop: share of the resized shorter side that the centre crop keeps; ImageNet's usual evaluation is size 224,
            crop 0.875: resize to 256, crop 224.
        channels: 1 or 3.

    Returns:
        Samples whose ids are `file name/row`. Class names come from the `huggingface` schema metadata; without it
        the classes are the sorted distinct labels. `read` goes through the files one by one; the first call of
        `encoded` loads all encoded images of that split and keeps them in memory, also for `read`, so a process that
        forks workers should make it before, for them to share one copy.

    Raises:
        UserError: a file or column is missing or of another type, a label is out of range, or there is a crop but no
            size.
    """
    check_crop(size, crop)
    parts = {"train": expand(train)} | ({} if test is None else {"test": expand(test)})
    files = [file for found in parts.values() for file in found]
    if len({file.name for file in files}) < len(files):
        raise UserError(f"parquet: two of the files share one name, but names make the sample ids: {_names(files)}")
    labels: list[NDArray[np.int64]] = []
    for file in files:
        labels.append(_labels(file, label_column, image_column))
    counts = [len(part) for part in labels]
    classes, indexes = _classes(files[0], label_column, np.concatenate(labels))
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
    column = pq.read_table(file, columns=[image_column])[image_column]
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _named(file: Path, row: int, content: pa.Scalar) -> tuple[str, bytes]:
    if not content.is_valid:
        raise UserError(f"{file}: row {row} has no image bytes")
    return f"{file}, row {row}", content.as_py()


def _names(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))


def _labels(file: Path, label_column: str, image_column: str) -> NDArray[np.int64]:
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{file}: not a readable Parquet file ({str(error).partition(chr(10))[0]})") from None
    for column in (image_column, label_column):
        if column not in schema.names:
            raise UserError(f"{file}: has no column '{column}'; it has {', '.join(schema.names)}")
    if not pa.types.is_integer(schema.field(label_column).type):
        raise UserError(f"{file}: column '{label_column}' is {schema.field(label_column).type}, expected integers")
    kind = schema.field(image_column).type
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise UserError(f"{file}: column '{image_column}' is {kind}, expected struct(bytes, path) or binary")
    column = pq.read_table(file, columns=[label_column])[label_column]
    if column.null_count:
        raise UserError(f"{file}: {column.null_count} rows have no label")
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _classes(file: Path, label_column: str, labels: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """Class names, and labels as indexes into them."""
    text = (pq.read_schema(file).metadata or {}).get(b"huggingface")
    feature = json.loads(text)["info"]["features"].get(label_column, {}) if text else {}
    if names := feature.get("names"):
        if labels.min() < 0 or labels.max() >= len(names):
            odd = labels[(labels < 0) | (labels >= len(names))][0]
            raise UserError(f"{file}: label {odd} is outside 0..{len(names) - 1}, the classes that its metadata name")
        return [str(name) for name in names], labels
    distinct, indexes = np.unique(labels, return_inverse=True)
    return [str(label) for label in distinct], indexes.astype(np.int64)
