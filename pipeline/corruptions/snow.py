from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._grey import grey
from pipeline.corruptions._severity import constant
from pipeline.corruptions.motion_blur import smear
from pipeline.numerics.randomness import per_sample

FAMILY = "weather"
HALF_STEP = 0.5 / 257  # ImageMagick rounds to 16 bits, then cuts to 8


def snow(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Whiten the scene and let two layers of falling flakes pass before it.

    Flakes are what lies above a threshold in enlarged normal noise, smeared along a line within 45 degrees of the
    vertical; the second layer is the first, turned by 180 degrees. The scene is mixed with its own whitened grey value.

    Source: Hendrycks & Dietterich, ICLR 2019, whose flakes are smeared by ImageMagick. Differences to their code:
    only the centre of the noise is drawn, since only that is enlarged; height and width are cut each by its own size
    (theirs supposes squares); a greyscale image is its own grey value (as in Michaelis et al.'s imagecorruptions,
    2019). Like theirs, the layer is cut to 8 bits before and after the smearing; the smeared layers were equal to
    ImageMagick 6.9's in every pixel when compared.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one layer of flakes per image.
        severity: 1 to 5.
        constants: `cifar`, `imagenet`, or `auto`: CIFAR-C's up to 64 pixels. Lengths are in pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    mean, deviation, zoom, threshold, radius, sigma, kept = constant(
        images,
        severity,
        constants,
        cifar=(
            (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        imagenet=(
            (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    )
    height, width = images.shape[-2:]
    rows, columns = math.ceil(height / zoom), math.ceil(width / zoom)
    draws = per_sample(
        lambda _, generator: torch.cat(
            (torch.rand(1, generator=generator), torch.randn(rows * columns, generator=generator))
        ),
        seeds,
    )
    angles = (draws[:, 0].double() - 1.5) * (math.pi / 2)
    # The layer is made on the CPU, where every device gets the same side of the threshold and of each grey level.
    flakes = _enlarge(mean + deviation * draws[:, 1:].view(-1, rows, columns), zoom, height, width)
    flakes = flakes.masked_fill(flakes < threshold, 0).clamp(0, 1).mul(255).floor()
    flakes = smear(flakes[:, None], angles, radius=int(radius), sigma=sigma)
    flakes = (flakes + HALF_STEP).floor() / 255
    both = (flakes + flakes.flip(-2, -1)).to(images.device)

    white = torch.maximum(images, 1.5 * grey(images) + 0.5)
    return white.mul_(1 - kept).add_(images, alpha=kept).add_(both).clamp_(0, 1)


def _enlarge(layer: Tensor, zoom: float, height: int, width: int) -> Tensor:
    """Enlarge by linear interpolation, first pixel on first and last on last, and cut the middle out.

    The sizes are scipy.ndimage.zoom's: round(zoom * size).

    Returns:
        (n, height, width).
    """
    for axis, wanted in ((1, height), (2, width)):
        size = layer.shape[axis]
        large = round(size * zoom)
        place = torch.arange(wanted, dtype=torch.float64) + (large - wanted) // 2
        place = place * (size - 1) / max(1, large - 1)
        lower = place.long().clamp(max=max(0, size - 2))
        share = (place - lower).to(layer.dtype).view(-1, 1) if axis == 1 else (place - lower).to(layer.dtype)
        near, far = layer.index_select(axis, lower), layer.index_select(axis, (lower + 1).clamp(max=size - 1))
        layer = near * (1 - share) + far * share
    return layer
