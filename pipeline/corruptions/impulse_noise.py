from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import uniform

FAMILY = "noise"


def impulse_noise(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Salt and pepper: a share of the entries becomes 0 or 1, with equal chance, each channel by itself.

    Source: Hendrycks & Dietterich, ICLR 2019.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one stream of noise per image.
        severity: 1 to 5.
        constants: `cifar` (share .01-.07), `imagenet` (.03-.27), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    share = constant(
        images, severity, constants, cifar=(0.01, 0.02, 0.03, 0.05, 0.07), imagenet=(0.03, 0.06, 0.09, 0.17, 0.27)
    )
    draw = uniform(seeds, tuple(images.shape[1:])).to(images.device)
    return torch.where(draw < share, (draw < share / 2).to(images.dtype), images)
