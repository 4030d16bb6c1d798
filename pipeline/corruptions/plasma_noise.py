from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._bar_warp import in_parts, side
from pipeline.corruptions._grey import grey
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import uniform

FAMILY = "noise"


def plasma_noise(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Darken the image and add a plasma: sines of a plane that ever finer sines have swirled.

    With the noise in [-1, 1] and a strength a: (1 - a) image + a noise. Drawn per image: time in [0, 6 pi], 4 to 6
    swirls, sharpness in [.5, 1] and the unit of length, .075 to .2 of the side.

    Source: Mintun, Kirillov & Xie, NeurIPS 2021; in ImageNet-C-bar. CIFAR-10-C-bar leaves it out: `cifar` takes from
    the authors' ten candidate severities for 32 pixels those that stand where ImageNet-C-bar's five stand in the ten
    for 224. The shift of the swirls that their code carries along is always zero, and left out. Their images are square
    and in colour: of others the side is sqrt(h w), and a greyscale image gets the grey version of the coloured plasma.

    The plasma is computed in float64 and then rounded: its swirls multiply errors of rounding.

    Args:
        images: (n, c, h, w) float32 in [0, 1], c = 1 or 3.
        seeds: (n,) int64, one stream of plasmas per image.
        severity: 1 to 5.
        constants: `cifar` (strength 13-45 of 255), `imagenet` (30-64 of 255), or `auto`: the former up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    level = constant(
        images, severity, constants, cifar=(2.1, 4.2, 5.6, 6.3, 7.0), imagenet=(4.75, 7.0, 8.5, 9.25, 10.0)
    )
    strength = level * 6.4 / 255
    channels, height, width = images.shape[1:]
    low, high = torch.tensor(((0, 4, 0.5, 0.075), (6 * math.pi, 7, 1, 0.2)), dtype=torch.float64)
    drawn = low + (high - low) * uniform(seeds, (4,)).double()
    rows, columns = (torch.arange(size, dtype=torch.float64, device=images.device) for size in (height, width))

    def plasma(part: Tensor, draws: Tensor) -> Tensor:
        time, swirls, sharpness, scale = draws[..., None, None].unbind(1)  # (n, 1, 1) each
        unit = scale * side(images)
        x, y = (columns / unit).expand(-1, height, -1), (rows[:, None] / unit).expand(-1, -1, width)
        for step in range(int(draws[:, 1].max())):
            size = torch.where(step < swirls.floor(), (2.25 - sharpness) ** -step, 0)
            frequency, shift = 1.93**step, time / 1.15**step
            across = (y * frequency).add_(shift).cos_().mul_(size)
            down = (x * frequency).add_(shift).sin_().mul_(size)
            x, y = x + across - 0.3 * down, y + down + 0.3 * across
        red, blue = (x - time).sin_(), (y + time).sin_()
        green = (x + y).add_(time.sin()).mul_(0.5).sin_()
        noise = torch.stack((red, green, blue), 1)
        if channels == 1:
            noise = grey(noise)
        return ((1 - strength) * part + strength * noise.float()).clamp_(0, 1)

    return in_parts(plasma, images, drawn.to(images.device))
