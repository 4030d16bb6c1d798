from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._filters import correlate, gaussian
from pipeline.corruptions._severity import constant

FAMILY = "blur"


def defocus_blur(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Blur with the disk that a point becomes in a camera out of focus.

    Source: Hendrycks & Dietterich, ICLR 2019. Border: mirrored about the edge pixel, OpenCV's default. Differences to
    their code: sums are in single precision, the kernel in double (a thousandth of a grey level at most).

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: unused: the corruption is deterministic.
        severity: 1 to 5.
        constants: `cifar` (radius .3-1.5 pixels), `imagenet` (3-10), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    radius, smoothing = constant(
        images,
        severity,
        constants,
        cifar=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
        imagenet=((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)),
    )
    return correlate(images, disk(radius, smoothing), border="mirror").clamp_(0, 1)


def disk(radius: float, smoothing: float) -> Tensor:
    """Kernel of equal weights within `radius`, its rim softened by a small Gaussian of deviation `smoothing`.

    The grid has 17 x 17 places up to a radius of 8, where the Gaussian is 3 wide; beyond, 2 radius + 1 and 5.

    Returns:
        (k, k) float64.
    """
    half, reach = (8, 1) if radius <= 8 else (int(radius), 2)
    line = torch.arange(-half, half + 1, dtype=torch.float64)
    inside = (line[:, None] ** 2 + line**2 <= radius**2).to(torch.float64)
    soft = gaussian(smoothing, reach)
    return correlate((inside / inside.sum())[None, None], soft[:, None] * soft, border="mirror")[0, 0]
