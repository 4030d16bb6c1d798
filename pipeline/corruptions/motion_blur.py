from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._filters import NEGLIGIBLE, frame, per_piece
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import uniform

FAMILY = "blur"


def motion_blur(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Drag the image along a line, as a camera does that moves while the shutter is open.

    Half a Gaussian along a line at a random angle of up to 45 degrees to the horizontal: pixel (y, x) becomes the mean,
    weighted by exp(-i^2 / (2 sigma^2)), of the pixels ceil(i cos - 1/2) to its right and ceil(i sin - 1/2) below it,
    i = 0, ..., 2 radius; the edge pixel is repeated outside. This is ImageMagick's MotionBlurImage, which the original
    calls: kernel width, weights, rounding of the offsets and border are those of its source.

    Source: Hendrycks & Dietterich, ICLR 2019. Differences to their code: nothing is rounded to 8 bits on the way out,
    and pixels that weigh less than 1e-9 of the first are left out. Apart from the rounding, ImageMagick 6.9.11 gives
    the same images, at any size.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one angle per image.
        severity: 1 to 5. CIFAR-C's 3 and 4 differ only in weights that are left out, so they are the same.
        constants: `cifar` (radius 6-9 pixels, sigma 1-2.5), `imagenet` (10-20, 3-15), or `auto`: CIFAR-C's up to 64
            pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    radius, sigma = constant(
        images,
        severity,
        constants,
        cifar=((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
        imagenet=((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
    )
    angles = (uniform(seeds, ()).double() - 0.5) * (math.pi / 2)
    return smear(images, angles, radius=radius, sigma=sigma).clamp_(0, 1)


def smear(images: Tensor, angles: Tensor, *, radius: int, sigma: float) -> Tensor:
    """Half a Gaussian along a line of its own for each image, as in `motion_blur`; equal bit for bit in any batch.

    Args:
        images: (n, c, h, w) floating point.
        angles: (n,) float64 on the CPU, radians: from the right towards the bottom.
        radius: of ImageMagick's kernel, pixels; it reaches twice as far, to one side.
        sigma: standard deviation, pixels.

    Returns:
        (n, c, h, w), of the images' type and device.
    """
    steps = torch.arange(2 * radius + 1, dtype=torch.float64)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    weights = weights[weights > NEGLIGIBLE] / weights.sum()
    # One sine at a time: the last bit of a vectorised one may depend on its place in the batch.
    directions = torch.tensor([[math.sin(angle), math.cos(angle)] for angle in angles.tolist()], dtype=torch.float64)
    downs, rights = (directions[..., None] * steps[: len(weights)] - 0.5).ceil().long().unbind(1)  # (n, taps) each

    height, width = images.shape[-2:]
    planes = images.reshape(-1, height, width)
    top, left = (max(0, -int(shifts.min())) for shifts in (downs, rights))
    shape = (height + top + max(0, int(downs.max())), width + left + max(0, int(rights.max())))
    shifts = (downs * shape[1] + rights).repeat_interleave(images.shape[1], 0).to(images.device)
    count = min(per_piece(shape[0] * shape[1], images), len(planes))
    window, term = planes.new_empty(count, *shape), planes.new_empty(count * height, width)
    # Every stretch of one row's length, wherever it starts: to shift an image is to select others of them.
    stretches = window.as_strided((window.numel() - width + 1, width), (1, 1))
    rows = torch.arange(count)[:, None] * shape[0] + torch.arange(top, top + height)
    firsts = (rows * shape[1] + left).to(images.device)  # where each row starts in the window
    result = torch.zeros_like(planes)
    for start in range(0, len(planes), count):
        piece, total = planes[start : start + count], result[start : start + count].view(-1, width)
        frame(piece, window[: len(piece)], top, left, "nearest")
        for shift, weight in zip(shifts[start : start + count].unbind(1), weights.tolist(), strict=True):
            chosen = (firsts[: len(piece)] + shift[:, None]).flatten()
            total += torch.index_select(stretches, 0, chosen, out=term[: len(total)]).mul_(weight)
    return result.view(images.shape)
