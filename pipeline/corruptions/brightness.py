from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._severity import constant

FAMILY = "weather"


def brightness(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Add to the value of HSV, that is to the largest channel, and keep hue and saturation.

    At fixed hue and saturation the channels are proportional to the value v, so no colour conversion is needed: a pixel
    is scaled by v'/v, and black becomes grey. A greyscale image is its own value.

    Source: Hendrycks & Dietterich, ICLR 2019.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: unused: the corruption is deterministic.
        severity: 1 to 5.
        constants: `cifar` (adds .05-.3), `imagenet` (.1-.5), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    added = constant(images, severity, constants, cifar=(0.05, 0.1, 0.15, 0.2, 0.3), imagenet=(0.1, 0.2, 0.3, 0.4, 0.5))
    value = images.amax(1, keepdim=True)
    raised = (value + added).clamp(max=1)
    dark = value == 0
    return torch.where(dark, raised, images * (raised / value.masked_fill(dark, 1))).clamp(0, 1)
