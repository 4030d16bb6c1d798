from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._severity import constant

FAMILY = "digital"


def contrast(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Shrink the distance of every pixel from the mean of its image and channel.

    Source: Hendrycks & Dietterich, ICLR 2019.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: unused: the corruption is deterministic.
        severity: 1 to 5.
        constants: `cifar` (factor .75-.15), `imagenet` (.4-.05), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    factor = constant(
        images, severity, constants, cifar=(0.75, 0.5, 0.4, 0.3, 0.15), imagenet=(0.4, 0.3, 0.2, 0.1, 0.05)
    )
    # The order of a sum may change with the batch; in double precision that does not reach the float32 mean.
    mean = images.mean((-2, -1), keepdim=True, dtype=torch.float64).to(images.dtype)
    return ((images - mean) * factor + mean).clamp(0, 1)
