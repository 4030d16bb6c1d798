"""A folder of image files, one sub-folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from pipeline.contracts import Count, Folder, Range, UserError
from pipeline.datasets._names import check_names
from pipeline.datasets.decoding import check_crop, decode
from pipeline.datasets.samples import Samples

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def image_folder(
    *,
    root: Folder,
    size: Count | None = None,
    crop: Annotated[float, Range(above=0, high=1)] = 1.0,
    channels: Literal[1, 3] = 3,
    every: Count = 1,
) -> Samples:
    """A folder of images: one sub-folder a class, or the same below `train/` and `test/` (or `val/`).

    Images count at any depth below their class. A class, or an image, may be a symbolic link; linked folders inside a
    class are not entered. The ending of a name says that a file is an image, its content in which format
    (`decoding.open_image`). Names may be in any script; they must be UTF-8, without line breaks or control characters.

    Args:
        root: the folder. If it holds `train` and either `test` or `val` (ImageNet's name for its evaluation images),
            these are the splits and must have the same classes.
        size: side in pixels to which images are resized and cropped; None: they are of one size already.
        crop: share of the resized shorter side that the centre crop keeps; ImageNet's usual evaluation is size 224,
            crop 0.875: resize to 256, crop 224.
        channels: 1 or 3.
        every: keep each n-th class in alphabetical order, from the first; 10 makes 100 of ImageNet's 1,000.

    Returns:
        Samples whose ids are the paths relative to `root`; classes in alphabetical order.

    Raises:
        UserError: no such folder, or one that cannot be read, both `test` and `val` beside `train`, fewer than two
            classes, a class without images, classes that differ between the splits, a name that is refused, or a crop
            but no size.
    """
    check_crop(size, crop)
    base = Path(root)
    if not base.is_dir():
        raise UserError(f"{root}: no such folder")
    folders = _splits(base)
    classes = _classes(base / next(iter(folders)))
    for folder in folders:
        if odd := sorted(set(_classes(base / folder)) ^ set(classes)):
            raise UserError(f"{base / folder}: its classes differ from those of train: {', '.join(odd[:5])}")
    kept = classes[::every]
    if len(kept) < 2:
        raise UserError(
            f"{root}: every {every} keeps {len(kept)} of {len(classes)} classes, expected at least two; lower it"
        )
    ids: list[str] = []
    labels: list[int] = []
    splits: list[str] = []
    for folder, split in folders.items():
        for label, name in enumerate(kept):
            top = base / folder / name
            try:
                found = [f"{top.relative_to(base).as_posix()}/{file}" for file in _images(top)]
            except OSError as error:
                raise UserError(f"{error.filename}: not a readable folder ({error.strerror})") from None
            if not found:
                raise UserError(f"{top}: no image file in it ({', '.join(SUFFIXES)})")
            check_names(found, root, "file")
            ids += found
            labels += [label] * len(found)
            splits += [split] * len(found)

    def encoded(row: int) -> tuple[str, bytes]:
        file = base / ids[row]
        try:
            return str(file), file.read_bytes()
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); make it readable or remove it") from None

    return Samples(
        ids=ids,
        labels=np.array(labels, dtype=np.int64),
        classes=kept,
        splits=splits if len(folders) > 1 else None,
        read=lambda rows: decode(map(encoded, rows), channels, size, crop),
        encoded=encoded,
    )


def _splits(base: Path) -> dict[str, str]:
    """Folders below `base` that hold the classes, and which split each is; `base` itself where there are no splits."""
    tests = [name for name in ("test", "val") if (base / name).is_dir()]
    if not tests or not (base / "train").is_dir():
        return {"": "train"}
    if len(tests) > 1:
        raise UserError(f"{base}: holds test and val, expected one of them beside train; remove or rename the other")
    return {"train": "train", tests[0]: "test"}


def _classes(folder: Path) -> list[str]:
    try:
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: not a readable folder ({error.strerror})") from None
    check_names(names, str(folder), "folder")
    if len(names) < 2:
        raise UserError(f"{folder}: expected at least two sub-folders, one a class; found {len(names)}")
    return names


def _images(folder: Path | str) -> Iterator[str]:
    """Paths of the images below a folder, relative to it, in order; the listing tells files from folders.

    ImageNet has 1.3 million of them: a question to the file system for each would take minutes on a network drive.
    """
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            for below in _images(entry.path):
                yield f"{entry.name}/{below}"
        elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
            yield entry.name
