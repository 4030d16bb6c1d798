from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipeline.corruptions._bar_warp import in_parts, side
from pipeline.corruptions._severity import constant
from pipeline.corruptions._sparkles import SPREAD, draw_star, star
from pipeline.numerics.randomness import per_sample

FAMILY = "pattern"
RADIUS = 0.25  # of the side


def inverse_sparkles(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Show the image through a star of 50 to 199 rays and fade it to white outside; the severity is how fast.

    The star's centre lies in the middle half of both axes. A ray's length is a quarter of the side times
    1 + .25 N(0, 1).

    Source: Mintun, Kirillov & Xie, NeurIPS 2021 (ImageNet-C-bar and CIFAR-10-C-bar). Differences to their code, which
    is for squares of 32 or 224 pixels: of other images the side is sqrt(h w); no rounding down to 8 bits.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one star per image.
        severity: 1 to 5.
        constants: `cifar` (fades as length / distance to the power .26-1.3), `imagenet` (.26-2.6), or `auto`:
            CIFAR-10-C-bar's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    level = constant(images, severity, constants, cifar=(1.0, 1.5, 2.5, 4.5, 5.0), imagenet=(1.0, 2.0, 4.0, 9.0, 10.0))
    radius = RADIUS * side(images)
    height, width = images.shape[-2:]

    def corrupt(images: Tensor, drawn: Tensor) -> Tensor:
        drawn = drawn.to(images.device)
        centre = (0.25 + 0.5 * drawn[:, 0]) * height, (0.25 + 0.5 * drawn[:, 1]) * width
        lengths = radius * (1 + SPREAD * drawn[:, 3:])
        shown = star(centre, drawn[:, 2], lengths, 0.13 * level, (height, width))
        return 1 - shown.unsqueeze(1).to(images) * (1 - images)

    return in_parts(corrupt, images, per_sample(lambda _, generator: draw_star(generator), seeds))
