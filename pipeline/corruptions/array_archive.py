from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.contracts import Folder, UserError
from pipeline.corruptions._archived import check_likeness, located

FAMILY = "archive"
SEVERITIES = 5
LUMA = (19595, 38470, 7471)  # in 2^-16: ITU-R 601 as Pillow rounds it, which makes the clean images grey


def array_archive(
    *,
    images: Tensor,
    seeds: Tensor,
    severity: int,
    ids: Sequence[str],
    labels: Tensor,
    downloaded: Path | None,
    archive: str,
    corruption: str,
    folder: Folder | None = None,
) -> Tensor:
    """Take the corrupted images from a published archive of arrays: CIFAR-10-C, CIFAR-100-C, CIFAR-10-C-bar.

    The archive has one file a corruption, uint8 (5 m, height, width, 3): m test images at severity 1, then the same m
    at severity 2, and so on; `labels.npy` beside it has their labels. An image's row is the number at the end of its
    id: `cifar10/test/00042` of the sources cifar10 and cifar100, `file/000042` of a Parquet file that holds the test
    images in the published order. The labels must agree sample by sample, and at severity 1 the images must look like
    the clean ones; in batches of fewer than 8 the looks are not judged.

    Images become floats of exactly the archive's 8-bit values; for a greyscale data set, their luma as Pillow rounds
    it. They must have the data set's size: nothing is resized, since how the clean ones were cropped is not known here.

    Sources: Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019; Mintun, Kirillov & Xie, "On interaction between augmentations and corruptions in natural corruption
    robustness", NeurIPS 2021.

    Args:
        images: (n, c, h, w) float32 in [0, 1], the clean images.
        seeds: unused: the images were drawn by their authors.
        severity: 1 to 5.
        ids: (n,) sample ids.
        labels: (n,) classes. The sources cifar10 and cifar100 number them as the archive does; elsewhere any numbering
            will do that is one to one in each batch.
        downloaded: folder of the downloaded archive, used if there is no `folder`.
        archive: name in the catalogue: cifar10_c, cifar100_c or cifar10_c_bar.
        corruption: name of one of its corruptions.
        folder: folder of the unpacked archive.

    Returns:
        (n, c, h, w) float32 in [0, 1], on the device of `images`.

    Raises:
        ValueError: severity outside 1-5.
        UserError: a file is missing or of another shape, an id tells no row, or labels or looks disagree.
    """
    if not 1 <= severity <= SEVERITIES:
        raise ValueError(f"severity {severity}: expected 1 to {SEVERITIES}")
    where = f"{archive}.{corruption}"
    file = located("array_archive", archive, corruption, ".npy", folder, downloaded)
    arrays = _array(file)
    if arrays.dtype != np.uint8 or arrays.ndim != 4 or arrays.shape[-1] != 3 or len(arrays) % SEVERITIES:
        raise UserError(f"{file}: given {arrays.dtype} {arrays.shape}, expected uint8 (5 x images, height, width, 3)")
    if arrays.shape[1:3] != images.shape[-2:]:
        theirs, ours = (f"{width} x {height}" for height, width in (arrays.shape[1:3], images.shape[-2:]))
        raise UserError(f"{where}: images of {theirs} pixels, the data set's have {ours}; leave out its 'size'")
    count = len(arrays) // SEVERITIES
    rows = _rows(ids, count, where)
    _check_labels(file.with_name("labels.npy"), rows, count, ids, labels, where)
    pixels = arrays[rows + (severity - 1) * count]
    if images.shape[1] == 1:
        pixels = ((pixels.astype(np.int64) @ np.array(LUMA) + 2**15) >> 16).astype(np.uint8)[..., None]
    taken = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(images.device).float() / 255
    if severity == 1:
        check_likeness(images, taken, where)
    return taken


def _array(file: Path) -> NDArray[Any]:
    """An array in its file, of which only the rows asked for are read."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; unpack the archive anew")
    try:
        return np.asanyarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: not a readable array ({reason}); unpack the archive anew") from None


def _rows(ids: Sequence[str], count: int, where: str) -> NDArray[np.int64]:
    """Rows among the test images; ids are `.../number`."""
    rows = []
    for sample in ids:
        name, _, number = sample.rpartition("/")
        if not re.fullmatch(r"[0-9]+", number):
            raise UserError(
                f"{where}: sample {sample} tells no row of the archive; use the source cifar10 or cifar100, or parquet"
            )
        # A split in several files counts anew in each of them; a train split counts other images.
        shards = re.search(r"-of-0*([0-9]+)$", name)
        if name.rpartition("/")[2].startswith("train") or (shards is not None and int(shards[1]) > 1):
            raise UserError(f"{where}: sample {sample} is not numbered among all test images, as the archive's are")
        if int(number) >= count:
            raise UserError(f"{where}: sample {sample} is beyond the archive's {count} images; another data set?")
        rows.append(int(number))
    return np.array(rows, dtype=np.int64)


def _check_labels(
    file: Path, rows: NDArray[np.int64], count: int, ids: Sequence[str], labels: Tensor, where: str
) -> None:
    """Refuse samples whose class is another one in the archive."""
    theirs = _array(file)
    if theirs.shape not in ((count,), (SEVERITIES * count,)) or theirs.dtype.kind not in "iu":
        raise UserError(f"{file}: given {theirs.dtype} {theirs.shape}, expected {SEVERITIES * count} whole numbers")
    same: dict[int, int] = {}  # the archive's label by ours
    back: dict[int, int] = {}
    for sample, ours, archived in zip(ids, labels.tolist(), theirs[rows].tolist(), strict=True):
        if sample.startswith(("cifar10/", "cifar100/")):
            same[ours], back[archived] = ours, archived
        if same.setdefault(ours, archived) != archived or back.setdefault(archived, ours) != ours:
            raise UserError(
                f"{where}: sample {sample} has the label {ours} in the data set and {archived} in {file}, which "
                "disagrees with the other samples: another order or another data set?"
            )
