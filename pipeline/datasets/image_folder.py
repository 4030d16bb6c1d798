"""A folder of image files, one sub-folder a class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.contracts import Count, Folder, UserError
from pipeline.datasets.decoding import decode
from pipeline.datasets.samples import Samples

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
SPLITS = ("train", "test")


def image_folder(*, root: Folder, size: Count | None = None, channels: Literal[1, 3] = 3) -> Samples:
    """A folder of images: one sub-folder a class, or the same below `train/` and `test/`.

    Args:
        root: the folder. If it holds `train` and `test`, these are the splits and must have the same classes.
        size: side in pixels to which images are resized and cropped; None: they are of one size already.
        channels: 1 or 3.

    Returns:
        Samples whose ids are the paths relative to `root`; classes in alphabetical order.

    Raises:
        UserError: no such folder, no classes, no images, or classes that differ between the splits.
    """
    base = Path(root)
    if not base.is_dir():
        raise UserError(f"{root}: no such folder")
    has_splits = all((base / split).is_dir() for split in SPLITS)
    parts = [base / split for split in SPLITS] if has_splits else [base]
    classes = _classes(parts[0])
    for part in parts[1:]:
        if _classes(part) != classes:
            odd = sorted(set(_classes(part)) ^ set(classes))
            raise UserError(f"{part}: its classes differ from those of {parts[0]}: {', '.join(odd[:5])}")
    files: list[Path] = []
    labels: list[int] = []
    for part in parts:
        for label, name in enumerate(classes):
            found = sorted(p for p in (part / name).rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not found:
                raise UserError(f"{part / name}: no image file in it ({', '.join(sorted(SUFFIXES))})")
            files += found
            labels += [label] * len(found)
    ids = [file.relative_to(base).as_posix() for file in files]
    return Samples(
        ids=ids,
        labels=np.array(labels, dtype=np.int64),
        classes=classes,
        splits=[name.partition("/")[0] for name in ids] if has_splits else None,
        read=lambda rows: decode(((str(files[row]), files[row].read_bytes()) for row in rows), channels, size),
    )


def _classes(folder: Path) -> list[str]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise UserError(f"{folder}: expected at least two sub-folders, one a class; found {len(names)}")
    return names
