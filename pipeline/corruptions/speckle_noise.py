from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import normal

FAMILY = "noise"


def speckle_noise(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Multiply every entry by a normal factor of mean 1: noise in proportion to the light, none on black.

    Source: Hendrycks & Dietterich, ICLR 2019 (an extra corruption there). The normal draws are float32, not float64.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one stream of noise per image.
        severity: 1 to 5.
        constants: `cifar` (relative standard deviation .06-.2), `imagenet` (.15-.6), or `auto`: CIFAR-C's up to 64
            pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    sigma = constant(
        images, severity, constants, cifar=(0.06, 0.1, 0.12, 0.16, 0.2), imagenet=(0.15, 0.2, 0.35, 0.45, 0.6)
    )
    factor = normal(seeds, tuple(images.shape[1:])).mul_(sigma).add_(1).to(images.device)
    return factor.mul_(images).clamp_(0, 1)
