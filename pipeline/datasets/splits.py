"""Divide samples into training, validation and evaluation sets: seeded, class-balanced, stable under re-ordering."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import UserError
from pipeline.datasets.samples import Samples

Rows = NDArray[np.int64]


def stratified_order(samples: Samples, rows: Rows, seed: int) -> Rows:
    """Order rows so that every prefix has the classes in proportion (each class to within one sample or so).

    Within a class the order is that of a keyed hash of the sample id, so it depends neither on the order in which
    the source was read nor on which other samples there are. The k-th of the m samples of a class goes to position
    (k + 1/2) / m of the whole.

    Returns:
        The rows, re-ordered.
    """
    keys = {int(row): hashlib.sha256(f"{seed}/{samples.ids[row]}".encode()).digest() for row in rows}
    position: dict[int, tuple[float, bytes]] = {}
    for label in np.unique(samples.labels[rows]):
        members = sorted((int(row) for row in rows[samples.labels[rows] == label]), key=keys.__getitem__)
        for rank, row in enumerate(members):
            position[row] = ((rank + 0.5) / len(members), keys[row])
    return np.array(sorted(position, key=position.__getitem__), dtype=np.int64)


def divide(samples: Samples, seed: int, test_share: float) -> tuple[Rows, Rows]:
    """Rows for training (validation included) and for evaluation, each in stratified order.

    Args:
        samples: of any source.
        seed: base seed.
        test_share: share of each class kept for evaluation, where the source has no test split of its own.

    Raises:
        UserError: ids are not unique, or a split lacks a class.
    """
    if len(set(samples.ids)) < len(samples.ids):
        raise UserError("the source gives two samples one id")
    rows = np.arange(len(samples.ids))
    if samples.splits is None:
        test = _share(stratified_order(samples, rows, seed), samples, test_share)
        train = np.setdiff1d(rows, test)
    else:
        is_test = np.array([split == "test" for split in samples.splits])
        train, test = rows[~is_test], rows[is_test]
    _check(samples, train, "training")
    _check(samples, test, "test")
    return stratified_order(samples, train, seed), stratified_order(samples, test, seed)


def _share(order: Rows, samples: Samples, share: float) -> Rows:
    """The first share of each class, at least one sample of it, in the order given."""
    kept: list[int] = []
    for label in np.unique(samples.labels):
        members = order[samples.labels[order] == label]
        kept += members[: max(1, round(share * len(members)))].tolist()
    return np.array(kept, dtype=np.int64)


def _check(samples: Samples, rows: Rows, split: str) -> None:
    missing = np.setdiff1d(np.arange(len(samples.classes)), samples.labels[rows])
    if len(missing):
        names = ", ".join(samples.classes[index] for index in missing[:5])
        raise UserError(f"the {split} split has no sample of {len(missing)} of {len(samples.classes)} classes: {names}")


def split_validation(train: Rows, share: float, train_size: int | None) -> tuple[Rows, Rows]:
    """Split stratified training rows into (training, validation) rows, and keep `train_size` of the first."""
    count = round(share * len(train))
    kept = train[count:]
    return (kept if train_size is None else kept[:train_size]), train[:count]


def image_hashes(images: NDArray[Any]) -> NDArray[Any]:
    """SHA-256 of each image's bytes, (n, 32) uint8."""
    return np.stack([np.frombuffer(hashlib.sha256(image.tobytes()).digest(), dtype=np.uint8) for image in images])
