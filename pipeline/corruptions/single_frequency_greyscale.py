from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import uniform

FAMILY = "pattern"


def single_frequency_greyscale(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Add one plane wave of random frequency and phase, the same in all channels.

    One component of the frequency is uniform in [-pi, pi] radians per pixel, the other no larger, in random order; so
    the wave may have any length from two pixels on, at any size of the image, as in the original.

    Source: Mintun, Kirillov & Xie, NeurIPS 2021; in ImageNet-C-bar. CIFAR-10-C-bar leaves it out: `cifar` takes from
    the authors' ten candidate severities for 32 pixels those that stand where ImageNet-C-bar's five stand in the ten
    for 224 (cifar10_new_corruptions.csv and imagenet_new_corruptions.csv of their code).

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one stream of waves per image.
        severity: 1 to 5.
        constants: `cifar` (amplitude 12-59 of 255), `imagenet` (20-98 of 255), or `auto`: the former up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    level = constant(images, severity, constants, cifar=(0.6, 0.9, 1.2, 2.7, 3.0), imagenet=(1.0, 1.5, 2.0, 4.5, 5.0))
    height, width = images.shape[-2:]
    longer, ratio, swapped, phase = uniform(seeds, (4,)).double()[..., None].unbind(1)  # (n, 1) each
    longer = (2 * longer - 1) * math.pi
    shorter = (2 * ratio - 1) * longer.abs()
    across = torch.where(swapped < 0.5, longer, shorter) * torch.arange(width) + 2 * math.pi * phase
    down = torch.where(swapped < 0.5, shorter, longer) * torch.arange(height)
    # sin(across + down) by the theorem of addition: sines of lines, not of the whole plane.
    sin_across, cos_across = (part.float()[:, None, None].to(images.device) for part in (across.sin(), across.cos()))
    sin_down, cos_down = (part.float()[:, None, :, None].to(images.device) for part in (down.sin(), down.cos()))
    wave = sin_across * cos_down + cos_across * sin_down
    return (images + level * 19.6 / 255 * wave).clamp(0, 1)
