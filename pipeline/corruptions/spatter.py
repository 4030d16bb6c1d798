from __future__ import annotations

from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.corruptions._chamfer import UNIT, distance
from pipeline.corruptions._edges import canny
from pipeline.corruptions._filters import blur
from pipeline.corruptions._grey import grey
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import normal

Whole = TypeVar("Whole", np.int16, np.int32)

FAMILY = "weather"
DEPTH = 20  # pixels: the water's relief is flat from here on
EMBOSS = np.array(((-2, -1, 0), (-1, 1, 1), (0, 1, 2)), dtype=np.int16)  # light from the lower right
FRAME = ((0, 0), (1, 1), (1, 1))  # one pixel around each image
WATER, MUD = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255)


def spatter(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Splash the lens: with water, which adds light, at severities 1 to 3, with mud, which covers, at 4 and 5.

    The liquid is where blurred normal noise exceeds a threshold. Water has a relief, from the distance to the drops'
    edges, that is lit from one side; mud is the blurred set of drops where it is denser than .8.

    Source: Hendrycks & Dietterich, ICLR 2019 (an extra corruption there). Every step, constant and cut to whole numbers
    is that of their code. OpenCV's functions are replaced by our own on whole numbers: edges equalled OpenCV 5's in
    every pixel, reliefs in all but one of twenty thousand, where OpenCV rounds a distance. Differences: liquid above 1
    counts as 1 (theirs overflows, in one of fifty images at the third severity for CIFAR-10); an image that no drop
    hits stays as it is (theirs divides by zero); on greyscale images the liquids have their colours' grey values (as in
    Michaelis et al.'s imagecorruptions, 2019). Mud at severity 4 may change an image less than water at 3, as theirs.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one pattern of drops per image.
        severity: 1 to 5.
        constants: `cifar`, `imagenet`, or `auto`: CIFAR-C's up to 64 pixels. Lengths are in pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    mean, deviation, sigma, threshold, last, muddy = constant(
        images,
        severity,
        constants,
        cifar=(
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1.0, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
        imagenet=(
            (0.65, 0.3, 4.0, 0.69, 0.6, False),
            (0.65, 0.3, 3.0, 0.68, 0.6, False),
            (0.65, 0.3, 2.0, 0.68, 0.5, False),
            (0.65, 0.3, 1.0, 0.65, 1.5, True),
            (0.67, 0.4, 1.0, 0.65, 1.5, True),
        ),
    )
    # Made on the CPU, where every device gets the same side of each threshold.
    liquid = blur(mean + deviation * normal(seeds, (1, *images.shape[-2:])), sigma)
    if muddy:
        cover = blur((liquid > threshold).to(images.dtype), last)
        cover = cover.masked_fill(cover < 0.8, 0).to(images.device)
        return (images * (1 - cover)).add_(_colour(MUD, images) * cover).clamp_(0, 1)
    light = last * _relief(liquid.masked_fill(liquid < threshold, 0)[:, 0])[:, None].to(images.device)
    return (light * _colour(WATER, images)).add_(images).clamp_(0, 1)


def _colour(colour: tuple[float, float, float], images: Tensor) -> Tensor:
    """The colour, or its grey value for greyscale images: (1, c, 1, 1)."""
    whole = torch.tensor(colour, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return whole if images.shape[1] == 3 else grey(whole)


def _relief(liquid: Tensor) -> Tensor:
    """Brightness of lit drops: the liquid times its embossed distance from the drops' edges, at most 1.

    Args:
        liquid: (n, h, w), zero outside the drops.

    Returns:
        (n, h, w) float32 in [0, 1]; zero if there is no drop.
    """
    amount = (liquid.clamp(0, 1) * 255).numpy().astype(np.uint8)
    depth = _equalised(_sum_3x3(distance(canny(amount, low=50, high=150), longest=DEPTH)) // (9 * UNIT))
    height, width = depth.shape[1:]
    framed = np.pad(depth, FRAME, mode="reflect")
    lit = np.zeros_like(depth)
    for row, column in np.argwhere(EMBOSS):
        lit += EMBOSS[row, column] * framed[:, row : row + height, column : column + width]
    smooth = (2 * _sum_3x3(lit.clip(0, 255)) + 9) // 18  # the mean, rounded
    product = torch.from_numpy(amount * smooth.astype(np.float32))
    return product / product.amax((1, 2), keepdim=True).clamp(min=1)


def _equalised(levels: NDArray[np.int32]) -> NDArray[np.int16]:
    """Spread each image's levels so that they are equally frequent in 0 to 255, as OpenCV does."""
    count = levels.shape[0]
    flat = levels.reshape(count, -1)
    size = flat.shape[1]
    table = np.bincount((flat + (DEPTH + 1) * np.arange(count)[:, None]).ravel(), minlength=(DEPTH + 1) * count)
    table = table.reshape(count, DEPTH + 1)
    lowest = np.take_along_axis(table, (table > 0).argmax(1)[:, None], 1)
    scale = np.float32(255) / np.maximum(size - lowest, 1).astype(np.float32)  # the type decides ties
    spread = np.rint((table.cumsum(1) - lowest).clip(0).astype(np.float32) * scale).astype(np.int16)
    spread = np.where(lowest == size, np.arange(DEPTH + 1, dtype=np.int16), spread)  # one level: it stays
    return np.take_along_axis(spread, flat, 1).reshape(levels.shape)


def _sum_3x3(levels: NDArray[Whole]) -> NDArray[Whole]:
    """Sum of each pixel and its eight neighbours, the image mirrored about the edge pixels."""
    framed = np.pad(levels, FRAME, mode="reflect")
    rows = framed[:, :-2] + framed[:, 1:-1] + framed[:, 2:]
    total: NDArray[Whole] = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return total
