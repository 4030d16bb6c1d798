from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._bar_warp import bilinear, in_parts, side
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import uniform

FAMILY = "warp"


def ripple(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Stretch and squeeze rows and columns by a sine of random wavelength and phase; the severity is its amplitude.

    A pixel (y, x) shows the place (y + a sin(2 pi y / p + q), x + a sin(2 pi x / r + s)), wavelengths p and r being
    uniform on .1-.3 of the side. Bilinear interpolation; beyond the image all is black.

    Source: Mintun, Kirillov & Xie, NeurIPS 2021 (CIFAR-10-C-bar). For larger images: the authors' own candidates for
    224 pixels, at the ranks that CIFAR-10-C-bar takes from their list for 32. Differences to their code, which is for
    squares of 32 or 224 pixels: of other images the side is sqrt(h w); no rounding down to 8 bits.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, wavelengths and phases per image.
        severity: 1 to 5.
        constants: `cifar` (amplitude .01375-.02 of the side), `imagenet` (.008125-.0175), or `auto`: CIFAR-10-C-bar's
            up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    level = constant(
        images, severity, constants, cifar=(5.5, 6.0, 6.5, 7.5, 8.0), imagenet=(3.25, 4.0, 4.75, 6.25, 7.0)
    )
    amplitude, length = 0.0025 * level * side(images), side(images)

    def moved(size: int, wave: Tensor, phase: Tensor) -> Tensor:
        place = torch.arange(size, dtype=torch.float64)
        wavelength = (0.1 + 0.2 * wave[:, None]) * length
        return place + amplitude * torch.sin(2 * math.pi * (place / wavelength + phase[:, None]))

    def corrupt(images: Tensor, drawn: Tensor) -> Tensor:
        rows = moved(images.shape[-2], drawn[:, 0], drawn[:, 2])[:, :, None]
        columns = moved(images.shape[-1], drawn[:, 1], drawn[:, 3])[:, None]
        return bilinear(images, rows, columns, border="black").clamp(0, 1)

    return in_parts(corrupt, images, uniform(seeds, (4,)).double())
