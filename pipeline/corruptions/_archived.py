"""What the readers of published archives share: where they look, and whether the images there are the right ones."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from pipeline.archives import archive_named, member_named
from pipeline.contracts import UserError

GRID = 8  # cells on a side in which images are compared
# Mean correlation. On 2,000 test images of CIFAR-10 (JPEG, quality 75) it is 0.00 between strangers (0.19 the standard
# deviation of one); between an image and itself, corrupted by this package at severity 1 with CIFAR's constants, 0.69
# (0.20) for elastic_transform and above 0.8 for all others of CIFAR-10-C, ImageNet-C and C-bar.
LEAST_LIKENESS = 0.3
FEWEST = 8  # images below which the mean says too little


def located(
    method: str, archive: str, corruption: str, suffix: str, folder: str | None, downloaded: Path | None
) -> Path:
    """The file or folder of one corruption.

    It lies in the folder given, in the archive's own folder below, or in one of the part's name.

    Args:
        method: corruption that reads it.
        archive: name in the catalogue.
        corruption: our name.
        suffix: what follows the name: `.npy`, or nothing for a folder.
        folder: given by the user.
        downloaded: what was downloaded; used if there is no `folder`.

    Raises:
        UserError: no such archive or corruption, one of another method, neither folder, or nothing in it.
    """
    where = f"{archive}.{corruption}"
    member = member_named(archive, corruption, where)
    record = archive_named(archive, where)
    if record.method != method:
        raise UserError(f"{where}: {method} does not read {archive}; use the method {record.method}")
    if folder is None and downloaded is None:
        remedy = f"unpack it ({record.published}) and set 'folder' to where it lies"
        raise UserError(f"{where}: neither 'folder' nor a downloaded archive; {remedy}")
    base = Path(folder) if folder is not None else downloaded
    assert base is not None
    places = [base, *(base / name for name in (record.folder, member.part) if name)]
    for place in places:
        found = place / f"{member.stem}{suffix}"
        if found.is_dir() if suffix == "" else found.is_file():
            return found
    looked = " nor ".join(str(place / f"{member.stem}{suffix}") for place in places)
    raise UserError(f"{where}: found neither {looked}; set 'folder' to the unpacked archive ({record.published})")


def likeness(images: Tensor, others: Tensor) -> Tensor:
    """Correlation of each image with its counterpart, in what is neither noise nor haze.

    Channels are averaged, the image is averaged in 8 x 8 cells, against noise and small shifts, and from each inner
    cell the mean of its neighbourhood of 3 x 3 is taken, against fog and frost.

    Args:
        images: (n, c, h, w).
        others: (n, c, h, w).

    Returns:
        (n,) in [-1, 1]; 0 where one of the two is uniform.
    """
    details: list[Tensor] = []
    for part in (images, others):
        cells = adaptive_avg_pool2d(part.double().mean(1, keepdim=True), GRID)
        detail = (cells[..., 1:-1, 1:-1] - avg_pool2d(cells, 3, stride=1)).flatten(1)
        detail -= detail.mean(1, keepdim=True)
        details.append(detail / detail.norm(dim=1, keepdim=True).clamp_min(1e-9))
    return (details[0] * details[1]).sum(1)


def check_likeness(images: Tensor, archived: Tensor, where: str) -> None:
    """Refuse images of severity 1 that do not look like the clean ones; fewer than 8 are not judged.

    Raises:
        UserError: their mean likeness is below 0.3.
    """
    if len(images) < FEWEST:
        return
    mean = likeness(images, archived).mean().item()
    if mean < LEAST_LIKENESS:
        raise UserError(
            f"{where}: does not look like the data set's images (mean correlation {mean:.2f} at severity 1, expected "
            f"at least {LEAST_LIKENESS}): another order or another data set?"
        )
