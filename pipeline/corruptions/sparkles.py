from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._bar_warp import in_parts, side
from pipeline.corruptions._severity import constant
from pipeline.corruptions._sparkles import SPREAD, draw_star, star
from pipeline.numerics.randomness import per_sample

FAMILY = "pattern"
STARS = 5
PUBLISHED_SIDE = 32  # pixels, the smallest image for which the original is made


def sparkles(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Lay five white stars of 50 to 199 rays over the image; the severity is their radius.

    A ray's length is the radius times 1 + .25 N(0, 1), at least one pixel; brightness falls with the squared distance.

    Source: Mintun, Kirillov & Xie, NeurIPS 2021 (ImageNet-C-bar and CIFAR-10-C-bar). Differences to their code, which
    is for squares of 32 or 224 pixels: of other images the side is sqrt(h w), and the shortest ray of one pixel
    shrinks with images smaller than 32 pixels, where all severities would agree; no rounding down to 8 bits.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, five stars per image.
        severity: 1 to 5.
        constants: `cifar` (radius .007-.07 of the side), `imagenet` (.01-.06), or `auto`: CIFAR-10-C-bar's up to 64
            pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    radius = side(images) * constant(
        images, severity, constants, cifar=(0.007, 0.035, 0.056, 0.063, 0.07), imagenet=(0.01, 0.02, 0.03, 0.05, 0.06)
    )
    shortest = min(1, side(images) / PUBLISHED_SIDE)
    height, width = images.shape[-2:]

    def corrupt(images: Tensor, draws: Tensor) -> Tensor:
        dark = torch.ones(len(images), height, width, dtype=torch.float64, device=images.device)
        for drawn in draws.to(images.device).unbind(1):
            lengths = (radius * (1 + SPREAD * drawn[:, 3:])).clamp(min=shortest)
            centre = (drawn[:, 0] * height, drawn[:, 1] * width)
            dark *= 1 - star(centre, drawn[:, 2], lengths, 1, (height, width))
        return 1 - dark.unsqueeze(1).to(images) * (1 - images)

    draws = per_sample(lambda _, generator: torch.stack([draw_star(generator) for _ in range(STARS)]), seeds)
    return in_parts(corrupt, images, draws)
