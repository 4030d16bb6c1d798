from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipeline.corruptions._bar_spectral import coloured
from pipeline.corruptions._severity import constant

FAMILY = "noise"


def brownish_noise(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Add noise of low frequency: coloured clouds, and a shift of each channel's mean.

    Amplitude 1 / (f^2 + 1) at f cycles per side (of an image not square, sqrt(h w)), each channel for itself. The
    deviation is fixed about the plane's mean; the mean is random too, with about .7 times that deviation, since the
    zero frequency has amplitude one.

    Source: Mintun, Kirillov & Xie, NeurIPS 2021; in CIFAR-10-C-bar and in ImageNet-C-bar. Any height and width:
    `_bar_spectral`.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one stream of phases per image.
        severity: 1 to 5.
        constants: `cifar` (deviation 16-45 of 255), `imagenet` (6-32 of 255), or `auto`: the former up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    level = constant(images, severity, constants, cifar=(2.5, 4.0, 5.5, 6.5, 7.0), imagenet=(1.0, 2.0, 3.0, 4.0, 5.0))
    channels, height, width = images.shape[1:]
    noise = coloured(seeds, channels, height, width, lambda frequency: 1 / (frequency**2 + 1))
    return (images + level * 6.4 / 255 * noise.to(images.device)).clamp(0, 1)
