from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._bar_warp import in_parts, side
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import uniform

FAMILY = "pattern"


def concentric_sine_waves(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Add rings around a random centre, whose radius waves with the angle.

    In spite of the name the rings' profile is a sawtooth from -1/2 to 1/2; the sine is that of the angle. Centre: a
    uniform point of the image; waves per turn: uniform in [0, 10], not whole, so that the rings break at one angle;
    amplitude of the wave and width of a ring: uniform in [0, a tenth of the side].

    Source: Mintun, Kirillov & Xie, NeurIPS 2021; in ImageNet-C-bar, whose code spells it cocentric. CIFAR-10-C-bar
    leaves it out: `cifar` takes from the authors' ten candidate severities for 32 pixels those that stand where
    ImageNet-C-bar's five stand in the ten for 224. The original is for squares: of other images the side
    is sqrt(h w).

    The rings are computed in float64 and then rounded, since a float32 angle depends on the place in the batch.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one stream of rings per image.
        severity: 1 to 5.
        constants: `cifar` (height of the sawtooth 19-64 of 255), `imagenet` (38-128 of 255), or `auto`: the former up
            to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    level = constant(images, severity, constants, cifar=(1.5, 2.5, 4.0, 4.5, 5.0), imagenet=(3.0, 5.0, 8.0, 9.0, 10.0))
    height, width = images.shape[-2:]
    tenth = side(images) / 10
    # On (0, 1], lest a ring have no width.
    drawn = 1 - uniform(seeds, (5,)).double()
    drawn *= torch.tensor((width, height, 10, tenth, tenth), dtype=torch.float64)
    rows, columns = (torch.arange(size, dtype=torch.float64, device=images.device) for size in (height, width))

    def rings(part: Tensor, draws: Tensor) -> Tensor:
        centre_x, centre_y, waves, amplitude, ring = draws[..., None, None].unbind(1)  # (n, 1, 1) each
        x, y = columns - centre_x, rows[:, None] - centre_y
        radius = (x.square() + y.square()).sqrt_() + amplitude * (torch.atan2(x, y) * waves).sin_()
        noise = (radius.remainder_(ring) / ring - 0.5).float()[:, None]
        return (part + level * 12.8 / 255 * noise).clamp_(0, 1)

    return in_parts(rings, images, drawn.to(images.device))
