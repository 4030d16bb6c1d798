"""AugMix's nine operations on a whole batch, drawn for each image on its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from pipeline.transforms.spatial import deformed

LOWEST_LEVEL = 0.1


def random_operations(images: Tensor, *, generator: torch.Generator, severity: float) -> Tensor:
    """Apply to each image one of the nine operations, drawn uniformly, at a level ~ U(0.1, severity) of 10.

    The operations of AugMix's code (Hendrycks et al., ICLR 2020): they overlap with no corruption of ImageNet-C. Level
    10 turns by 30 degrees, shears by 0.3, shifts by a third of the side, solarises all and leaves no bit; signs are
    drawn. Departure: what is not defined on 8 bits works on floats, without rounding.

    Args:
        images: (n, c, h, w) in [0, 1].
        generator: CPU generator of all draws.
        severity: at most 10.

    Returns:
        (n, c, h, w) in [0, 1].
    """
    n = len(images)
    chosen = torch.randint(len(OPERATIONS), (n,), generator=generator)
    levels = LOWEST_LEVEL + (severity - LOWEST_LEVEL) * torch.rand(n, generator=generator)
    signs = 2 * torch.randint(2, (n,), generator=generator) - 1
    out = torch.empty_like(images)
    for number, operation in enumerate(OPERATIONS.values()):
        rows = (chosen == number).nonzero()[:, 0]
        if len(rows):
            here = rows.to(images.device)
            out[here] = operation(images[here], levels[rows].to(images), signs[rows].to(images))
    return out


def autocontrast(images: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    """Stretch each channel to [0, 1]; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low), images)


def equalize(images: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    """Equalise each channel's histogram of 256 levels."""
    equalized: Tensor = vision.equalize(_bytes(images).byte())
    return equalized.to(images) / 255


def posterize(images: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    """Keep the highest bits of 8: 4 at level 0, none at level 10."""
    step = 2 ** (4 + (0.4 * levels).trunc()).view(-1, 1, 1, 1)
    pixels = _bytes(images)
    return (pixels - pixels.remainder(step)) / 255


def solarize(images: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    """Invert what is as bright as the threshold or brighter: 256 of 255 at level 0, 0 at level 10."""
    threshold = 256 - (25.6 * levels).trunc().view(-1, 1, 1, 1)
    return torch.where(_bytes(images) < threshold, images, 1 - images)


def rotate(images: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    """Turn about the centre by whole degrees, positive ones counter-clockwise."""
    height, width = images.shape[-2:]
    angle = signs * (3 * levels).trunc() * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    x, y = width / 2, height / 2
    rows = (cos, -sin, x - x * cos + y * sin, sin, cos, y - x * sin - y * cos)
    return moved(images, torch.stack(rows, dim=1).view(-1, 2, 3))


def shear_x(images: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    """Shift each row by the level's share of its height; the top stays."""
    return moved(images, _plus(0, 1, signs * 0.03 * levels))


def shear_y(images: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    """Shift each column; the left edge stays."""
    return moved(images, _plus(1, 0, signs * 0.03 * levels))


def translate_x(images: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    """Shift by whole pixels along the width."""
    return moved(images, _plus(0, 2, signs * (levels * images.shape[3] / 30).trunc()))


def translate_y(images: Tensor, levels: Tensor, signs: Tensor) -> Tensor:
    """Shift by whole pixels along the height."""
    return moved(images, _plus(1, 2, signs * (levels * images.shape[2] / 30).trunc()))


def moved(images: Tensor, matrices: Tensor) -> Tensor:
    """Take each pixel from where its matrix points, bilinearly, 0 from outside the image.

    Args:
        images: (n, c, h, w).
        matrices: (n, 2, 3) from (x, y, 1) of the result to (x, y) of the image, in pixels whose centres lie at halves.
    """
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(
        *(torch.arange(size, device=images.device) + 0.5 for size in (height, width)), indexing="ij"
    )  # (h, w)
    points = torch.stack((x, y, torch.ones_like(x))).to(images)
    source = (matrices[..., None, None] * points).sum(2)  # no matrix product, which autocast would round
    inside = ((source >= 0) & (source < source.new_tensor([width, height]).view(2, 1, 1))).all(1, keepdim=True)
    return inside * deformed(images, (source - points[:2]).flip(1))


def _plus(row: int, column: int, values: Tensor) -> Tensor:
    """Identity matrices with `values` added in one place: (n, 2, 3)."""
    matrices = torch.eye(2, 3, dtype=values.dtype, device=values.device).repeat(len(values), 1, 1)
    matrices[:, row, column] += values
    return matrices


def _bytes(images: Tensor) -> Tensor:
    """Whole numbers from 0 to 255, as floats."""
    return (255 * images).round()


# each maps (images, levels, signs) -> images; levels and signs (n,), which not all need
OPERATIONS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    operation.__name__: operation
    for operation in (
        autocontrast,
        equalize,
        posterize,
        rotate,
        solarize,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
    )
}
