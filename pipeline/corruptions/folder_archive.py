from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from pipeline.contracts import Folder, UserError
from pipeline.corruptions._archived import check_likeness, located
from pipeline.datasets.decoding import decode

FAMILY = "archive"
SEVERITIES = 5
SPLITS = ("train", "test", "val")


def folder_archive(
    *,
    images: Tensor,
    seeds: Tensor,
    severity: int,
    ids: Sequence[str],
    downloaded: Path | None,
    archive: str,
    corruption: str,
    folder: Folder | None = None,
) -> Tensor:
    """Take the corrupted images from a published archive of image files: ImageNet-C, ImageNet-C-bar, ImageNet-3DCC.

    The archive has a folder a corruption, in it one a severity (`1` to `5`, or five other numbers in their order, as
    the authors' code for C-bar writes them), in it one a class. A sample's file is the one in the folder of its class
    whose name, without suffix, is that of the sample; so the ids must be paths, as those of the source image_folder
    are, and the classes are compared by name. At severity 1 the images must look like the clean ones; in batches of
    fewer than 8 that is not judged.

    The archives' images are central crops already: of ImageNet-C, 224 pixels of an image resized to 256. If they have
    the data set's size they are taken as they are; to another, square one they are resized as the clean images are
    (bicubic), but not cropped a second time, for then they would show less than the clean ones do. So they fit a data
    set of crop 0.875. Files are decoded as those of the data set are, for greyscale to luma. The authors resized with
    a bilinear filter and saved as JPEG: clean and corrupted images differ in these as well.

    Sources: Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019; Mintun, Kirillov & Xie, "On interaction between augmentations and corruptions in natural corruption
    robustness", NeurIPS 2021; Kar, Yeo, Atanov & Zamir, "3D common corruptions and data augmentation", CVPR 2022.

    Args:
        images: (n, c, h, w) float32 in [0, 1], the clean images.
        seeds: unused: the images were drawn by their authors.
        severity: 1 to 5.
        ids: (n,) sample ids.
        downloaded: folder of the downloaded part of the archive, used if there is no `folder`.
        archive: name in the catalogue: imagenet_c, imagenet_c_bar or imagenet_3dcc.
        corruption: name of one of its corruptions.
        folder: folder of the unpacked archive.

    Returns:
        (n, c, h, w) float32 in [0, 1], on the device of `images`.

    Raises:
        ValueError: severity outside 1-5.
        UserError: a file or folder is missing or not readable, an id is no path, or sizes or looks disagree.
    """
    if not 1 <= severity <= SEVERITIES:
        raise ValueError(f"severity {severity}: expected 1 to {SEVERITIES}")
    where = f"{archive}.{corruption}"
    level = _level(located("folder_archive", archive, corruption, "", folder, downloaded), severity)
    channels, height, width = images.shape[1:]
    files = _files(level, ids, where)
    size = height if height == width else None
    pixels = decode(((str(file), file.read_bytes()) for file in files), 1 if channels == 1 else 3, size)
    if pixels.shape[-2:] != (height, width):
        theirs, ours = (f"{shape[1]} x {shape[0]}" for shape in (pixels.shape[-2:], (height, width)))
        raise UserError(f"{where}: images of {theirs} pixels, the data set's have {ours}; set its 'size'")
    taken = torch.from_numpy(pixels).to(images.device).float() / 255
    if severity == 1:
        check_likeness(images, taken, where)
    return taken


def _level(top: Path, severity: int) -> Path:
    """Folder of a severity."""
    if (top / str(severity)).is_dir():
        return top / str(severity)
    numbers = {}
    for place in top.iterdir():
        try:
            numbers[float(place.name)] = place
        except ValueError:
            continue
    if len(numbers) != SEVERITIES:
        raise UserError(f"{top / str(severity)}: no such folder; expected five severities in {top}")
    return numbers[sorted(numbers)[severity - 1]]


def _files(level: Path, ids: Sequence[str], where: str) -> list[Path]:
    """Each sample's file; folders of classes are listed once."""
    listings: dict[str, dict[str, Path]] = {}
    files = []
    for sample in ids:
        path = PurePosixPath(sample)
        parts = path.parts[1:] if len(path.parts) > 2 and path.parts[0] in SPLITS else path.parts
        if len(parts) < 2 or not path.suffix:
            raise UserError(f"{where}: sample {sample} names no image file of a class; use the source image_folder")
        name = parts[0]
        if name not in listings:
            if not (level / name).is_dir():
                raise UserError(f"{level / name}: no such folder; the archive must name its classes as the data set")
            listings[name] = {file.stem: file for file in sorted((level / name).iterdir())}
        if path.stem not in listings[name]:
            raise UserError(f"{level / name / path.name}: no such file; unpack the archive anew, or another data set?")
        files.append(listings[name][path.stem])
    return files
