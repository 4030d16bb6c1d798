from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipeline.corruptions._bar_spectral import coloured
from pipeline.corruptions._severity import constant

FAMILY = "noise"


def blue_noise_sample(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Blacken the pixels at which blue noise is low: single ones, kept apart from each other, and in all channels.

    The noise has deviation one and an amplitude in proportion to the frequency. It is nearly normal, so about 1.2 to
    21 % of the pixels are lost with ImageNet-C-bar's thresholds, 1.1 to 11 % with CIFAR-10-C-bar's.

    Source: Mintun, Kirillov & Xie, "On interaction between augmentations and corruptions in natural corruption
    robustness", NeurIPS 2021; in CIFAR-10-C-bar and in ImageNet-C-bar. Any height and width: `_bar_spectral`.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one stream of phases per image.
        severity: 1 to 5.
        constants: `cifar` (threshold -2.29 to -1.24), `imagenet` (-2.26 to -.82), or `auto`: the former up
            to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    level = constant(images, severity, constants, cifar=(0.7, 1.4, 2.1, 3.5, 4.2), imagenet=(0.8, 1.6, 2.4, 4.0, 5.6))
    height, width = images.shape[-2:]
    noise = coloured(seeds, 1, height, width, lambda frequency: frequency)
    return images * (noise > 0.3 * level - 2.5).to(images)
