from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import normal

FAMILY = "noise"


def gaussian_noise(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Add independent normal noise to every entry, as a sensor does in low light.

    Source: Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one stream of noise per image.
        severity: 1 to 5.
        constants: `cifar` (standard deviation .04-.10), `imagenet` (.08-.38), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    sigma = constant(
        images, severity, constants, cifar=(0.04, 0.06, 0.08, 0.09, 0.10), imagenet=(0.08, 0.12, 0.18, 0.26, 0.38)
    )
    noise = normal(seeds, tuple(images.shape[1:])).to(images.device)
    return (images + sigma * noise).clamp(0, 1)
