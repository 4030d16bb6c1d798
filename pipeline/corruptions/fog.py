from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipeline.corruptions._plasma import heights
from pipeline.corruptions._severity import constant

FAMILY = "weather"


def fog(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Mix the image with white fog of uneven density: a plasma fractal.

    With the density p in [0, 1], the thickness t and the image's largest entry m, the result is (x + t p) m / (m + t).

    Source: Hendrycks & Dietterich, ICLR 2019. Their map has 256 pixels a side for 224-pixel images and 32 for CIFAR-10;
    ours has the next power of two from the longer side up, and the image shows its upper left corner, as theirs. So
    the largest clouds grow with the image, and the constants keep their meaning at every size. The other difference:
    heights are single precision.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one fractal per image, the same in all channels.
        severity: 1 to 5.
        constants: `cifar` (thickness .2-1.5), `imagenet` (1.5-3), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    thickness, decay = constant(
        images,
        severity,
        constants,
        cifar=((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
        imagenet=((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    )
    height, width = images.shape[-2:]
    size = 1 << max(1, (max(height, width) - 1).bit_length())
    density = heights(seeds, size, decay)[:, None, :height, :width].to(images.device)
    largest = images.amax((1, 2, 3), keepdim=True)
    return (images + thickness * density).mul_(largest / (largest + thickness)).clamp_(0, 1)
