from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._severity import constant

FAMILY = "digital"


def saturate(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Scale the saturation of HSV, and from severity 4 on add to it: pale at severities 1 and 2, gaudy at 3 to 5.

    At fixed hue and value v the distances v - x of a pixel's channels are proportional to the saturation, so no colour
    conversion is needed: they are multiplied by s'/s. A grey pixel has no hue; like scikit-image, which made the
    published archives, we take it for red, so that an addition tints grey areas of a colour image (severities 4, 5).

    Severity does not order the size of the change: the third level changes an image less than the second.

    Source: Hendrycks & Dietterich, ICLR 2019 (an extra corruption there). Departure: an image of one channel comes back
    unchanged, for it has no saturation. The original would turn it into a colour image first, and tint that red.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: unused: the corruption is deterministic.
        severity: 1 to 5.
        constants: `cifar` (factors .3, .1, 1.5, 2, 2.5), `imagenet` (.3, .1, 2, 5, 20), both with 0, 0, 0, .1, .2
            added, or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    factor, added = constant(
        images,
        severity,
        constants,
        cifar=((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
        imagenet=((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)),
    )
    if images.shape[1] == 1:
        return images.clone()
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    grey = value == least
    inverse = value / (value - least).masked_fill(grey, 1)  # 1/s
    ratio = torch.minimum(inverse * added + factor, inverse)  # s'/s, where s' = min(factor s + added, 1)
    tint = value * torch.tensor([0.0, added, added], device=images.device).view(1, 3, 1, 1)
    return (value - torch.where(grey, tint, (value - images) * ratio)).clamp(0, 1)
