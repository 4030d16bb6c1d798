from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._bar_warp_spline import taps
from pipeline.corruptions._grey import LUMA
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import per_sample

FAMILY = "warp"


def transverse_chromatic_aberration(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Enlarge the three colours by 1, 1 + s/2 and 1 + s, in random order, as a lens does that bends them differently.

    The size is enlarged to a whole number of pixels, so severities may agree on very small images, and the middle is
    cut out, to a whole pixel. The original interpolates by cubic B-splines without their prefilter, which also blurs a
    little, the colour that is not enlarged included; so does ours.

    Source: Mintun, Kirillov & Xie, NeurIPS 2021 (CIFAR-10-C-bar, there transverse_chromatic_abberation). For larger
    images: the authors' own candidates for 224 pixels, at the ranks that CIFAR-10-C-bar takes from their list
    for 32: the same values. Differences to their code: a greyscale image, which it does not take, is enlarged as three
    equal colours, and their luma is shown; no rounding to 8 bits.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one order of the colours per image.
        severity: 1 to 5.
        constants: `cifar` or `imagenet` (both s = .05-.5), or `auto`.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    strengths = (0.05, 0.1, 0.25, 0.45, 0.5)
    strength = constant(images, severity, constants, cifar=strengths, imagenet=strengths)
    order = per_sample(lambda _, generator: torch.randperm(3, generator=generator), seeds).flatten()
    planes = images.expand(-1, 3, -1, -1).flatten(0, 1)
    out = torch.empty_like(planes)
    for rank, scale in enumerate((1.0, 1 + strength / 2, 1 + strength)):
        chosen = (order == rank).nonzero()[:, 0].to(images.device)
        out[chosen] = _enlarge(_enlarge(planes[chosen], scale, 1), scale, 2)
    out = out.clamp(0, 1).view(len(images), 3, *images.shape[2:])
    if images.shape[1] == 3:
        return out
    red, green, blue = (weight * plane for weight, plane in zip(LUMA, out.unbind(1), strict=True))
    return (red + green + blue).unsqueeze(1).clamp(0, 1)


def _enlarge(planes: Tensor, scale: float, axis: int) -> Tensor:
    """Enlarge along one axis and cut out the middle; the outer pixels' centres stay where they were.

    Args:
        planes: (n, h, w) floating point.
        scale: at least 1; the size is rounded to whole pixels.
        axis: 1 or 2.

    Returns:
        (n, h, w), of the planes' type.
    """
    size = planes.shape[axis]
    enlarged = round(size * scale)
    shown = torch.arange(size, dtype=torch.float64) + (enlarged - size) // 2
    index, weights = taps(shown * ((size - 1) / (enlarged - 1)), size)
    total = torch.zeros_like(planes)
    for source, weight in zip(index.unbind(1), weights.unbind(1), strict=True):
        line = weight.to(planes)[:, None] if axis == 1 else weight.to(planes)
        total += planes.index_select(axis, source.to(planes.device)) * line
    return total
