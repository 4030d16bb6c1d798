from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import per_sample

FAMILY = "noise"


def shot_noise(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Poisson noise of light that arrives in quanta: `rate` of them in a white entry, on average.

    Source: Hendrycks & Dietterich, ICLR 2019.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one stream of noise per image.
        severity: 1 to 5.
        constants: `cifar` (rate 500-50), `imagenet` (60-3), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    rate = constant(images, severity, constants, cifar=(500, 250, 100, 75, 50), imagenet=(60, 25, 12, 5, 3))
    expected = rate * images.cpu()  # quanta
    counts = per_sample(lambda row, generator: torch.poisson(expected[row], generator=generator), seeds)
    return (counts / rate).clamp(0, 1).to(images.device)
