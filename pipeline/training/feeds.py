"""Batches for training: small data sets as uint8 on the device, sliced; large ones decoded by worker processes.

Every draw comes from (seed, epoch, batch or row), so an epoch can be entered at any batch, with any number of workers,
and several processes that share each batch see what one would see.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from pipeline.contracts import UserError, derive_seed
from pipeline.numerics.pixels import as_floats


class Split(NamedTuple):
    """Images (n, c, h, w), uint8 pixels or float32 data, and labels (n,) on the training device."""

    images: Tensor
    labels: Tensor


class Files(NamedTuple):
    """Images that stay encoded until they are needed.

    Attributes:
        labels: (n,) int64.
        decode: row -> (c, h, w) uint8, resized and cropped as for evaluation.
        open: row -> Pillow image, for a random crop.
        size: side of the crops in pixels.
    """

    labels: Tensor
    decode: Callable[[int], NDArray[Any]]
    open: Callable[[int], Any]
    size: int


class Part(NamedTuple):
    """One of `world` processes that share each batch."""

    rank: int = 0
    world: int = 1


ALONE = Part()


def batches(
    data: Split | Files,
    *,
    epoch: int,
    start: int,
    seed: int,
    batch_size: int,
    crop_padding: int,
    flip: bool,
    crop_scale: float | None,
    part: Part,
    device: torch.device,
    workers: int,
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Batches of an epoch from number `start` on.

    Args:
        data: in memory or in files.
        epoch: gives the order, with the seed.
        start: number of the first batch wanted.
        seed: of order and base augmentation.
        batch_size: images a batch, over all processes.
        crop_padding: of `augment`.
        flip: of `augment`.
        crop_scale: smallest share of an image's area that a random crop takes; None: no random crop. Files only.
        part: the rows of each batch that are wanted.
        device: of the images and labels.
        workers: processes that decode files; 0: this one.

    Yields:
        Images (k, c, h, w) float32 (uint8 pixels become [0, 1]), labels (k,), and the size of the whole batch.

    Raises:
        UserError: a random crop is asked of images that are held decoded, or a file is no readable image.
    """
    order = torch.randperm(len(data.labels), generator=seeded(seed, "order", epoch))
    rows = split_order(order, batch_size, part.world)[start:]
    if isinstance(data, Files):
        loaded = _load(data, rows, epoch, seed, crop_scale, part, workers, pin=device.type == "cuda")
    elif crop_scale is not None:
        raise UserError("crop_scale: the images are held decoded at one size; set the data set's `loading: files`")
    else:
        loaded = ((data.images[whole.to(data.images.device)], whole) for whole in rows)
    for number, (images, whole) in enumerate(loaded, start):
        draws = seeded(seed, "augment", epoch, number)
        if isinstance(data, Files):  # workers decode this process's rows alone, so the draws are cut to them
            images = images.to(device, non_blocking=True)
            images = augment(images, draws, crop_padding, flip, of=(len(whole), part))
        else:
            images = augment(images, draws, crop_padding, flip)[part.rank :: part.world]
        own = whole[part.rank :: part.world]
        labels = data.labels[own.to(data.labels.device)].to(device, non_blocking=True)
        yield as_floats(images), labels, len(whole)


def split_order(order: Tensor, batch_size: int, world: int = 1) -> list[Tensor]:
    """Cut an order into batches; a last one with fewer than two rows a process (BatchNorm needs two) is left out."""
    parts = list(torch.split(order, batch_size))
    return parts if len(parts[-1]) >= 2 * world else parts[:-1]


def seeded(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator with the seed of these names."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def augment(
    images: Tensor, generator: torch.Generator, padding: int, flip: bool, of: tuple[int, Part] | None = None
) -> Tensor:
    """Random crop after zero padding and random horizontal flip, each drawn per image; (n, c, h, w) of any type.

    Args:
        images: to augment.
        generator: of the draws.
        padding: pixels of zeros around the image; 0: no crop.
        flip: whether to flip.
        of: size of the batch of which the images are the rows of that part; the draws are those of the whole batch.
    """
    n, (rank, world) = of if of is not None else (len(images), ALONE)
    height, width = images.shape[-2:]
    device = images.device
    if padding:
        top, left = (
            torch.randint(2 * padding + 1, (n, 1), generator=generator)[rank::world].to(device) for _ in range(2)
        )
        rows = top + torch.arange(height, device=device)
        columns = left + torch.arange(width, device=device)
        padded = F.pad(images, [padding] * 4).permute(0, 2, 3, 1)
        picked = padded[torch.arange(len(images), device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]
        images = picked.permute(0, 3, 1, 2)
    if flip:
        chosen = (torch.rand(n, generator=generator) < 0.5)[rank::world].to(device)
        images = torch.where(chosen[:, None, None, None], images.flip(3), images)
    return images.contiguous()


class _Decoded(Dataset[Tensor]):
    """Decoded and randomly cropped images, each with draws of its own."""

    def __init__(self, data: Files, epoch: int, seed: int, crop_scale: float | None) -> None:
        self._data, self._epoch, self._seed = data, epoch, seed
        self._crop: Any = None
        if crop_scale is not None:
            from timm.data.transforms import RandomResizedCropAndInterpolation

            self._crop = RandomResizedCropAndInterpolation(data.size, scale=(crop_scale, 1.0), interpolation="bicubic")

    def __getitem__(self, row: int) -> Tensor:
        if self._crop is None:
            return torch.from_numpy(np.ascontiguousarray(self._data.decode(row)))
        before = random.getstate()  # timm draws from the global generator
        random.seed(derive_seed(self._seed, "crop", self._epoch, row))
        try:
            pixels = np.asarray(self._crop(self._data.open(row)))
        finally:
            random.setstate(before)
        return torch.from_numpy(np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)))


def _load(
    data: Files,
    rows: Sequence[Tensor],
    epoch: int,
    seed: int,
    crop_scale: float | None,
    part: Part,
    workers: int,
    pin: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Decoded images of this process's rows, with the rows of each whole batch."""
    loader = DataLoader(
        _Decoded(data, epoch, seed, crop_scale),
        batch_sampler=[whole[part.rank :: part.world].tolist() for whole in rows],
        num_workers=workers,
        # Forked workers share what the source holds (lists of files, encoded images); they never touch a GPU.
        multiprocessing_context="fork" if workers else None,
        prefetch_factor=4 if workers else None,
        pin_memory=pin,
    )
    try:
        yield from zip(loader, rows, strict=True)
    except UserError as error:  # a worker's comes with its traceback
        raise UserError(str(error).strip().splitlines()[-1].rpartition("UserError: ")[2]) from None
