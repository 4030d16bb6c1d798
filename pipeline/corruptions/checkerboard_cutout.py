from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._bar_warp import side
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import per_sample

FAMILY = "occlusion"
GREY = 128 / 255
SMALLEST, LARGEST = 0.1, 0.25  # side of a cell, in sides of the image


def checkerboard_cutout(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Cover some of the dark cells of a turned checkerboard with grey; the severity is the share of them.

    The board has a random angle and cells of a random side, .1 to .25 of the image's (at least one pixel); each cell
    of one colour is covered on its own, with the same probability.

    Source: Mintun, Kirillov & Xie, "On interaction between augmentations and corruptions in natural corruption
    robustness", NeurIPS 2021 (ImageNet-C-bar and CIFAR-10-C-bar). Differences to their code, which is for squares of
    32 or 224 pixels: of other images the side is sqrt(h w); the cells are numbered by rounding down, theirs towards
    zero and around the end of the list, which gives the same law, as no two cells in view share a number there.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one board per image.
        severity: 1 to 5.
        constants: `cifar` (covers .1-.5 of the cells of one colour), `imagenet` (.2-.6), or `auto`: CIFAR-10-C-bar's
            up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    share = constant(images, severity, constants, cifar=(0.1, 0.2, 0.3, 0.4, 0.5), imagenet=(0.2, 0.3, 0.4, 0.5, 0.6))
    height, width = images.shape[-2:]
    reach = math.ceil(math.hypot(height, width) / max(SMALLEST * side(images), 1))  # cells between two corners

    def draw(_: int, generator: torch.Generator) -> Tensor:
        angle, length = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        cell = max((SMALLEST + length * (LARGEST - SMALLEST)) * side(images), 1)
        covered = torch.rand(2 * reach, 2 * reach, generator=generator, dtype=torch.float64) < share
        return _board(height, width, 2 * math.pi * angle, cell, covered, reach)

    hidden = per_sample(draw, seeds).unsqueeze(1).to(images.device)
    return torch.where(hidden, images.new_tensor(GREY), images)


def _board(height: int, width: int, angle: float, cell: float, covered: Tensor, reach: int) -> Tensor:
    """Which pixels lie in a covered cell: (h, w) bool. `covered` holds the cells -reach, ..., reach - 1."""
    row = torch.arange(height, dtype=torch.float64)[:, None] / cell
    column = torch.arange(width, dtype=torch.float64) / cell
    cosine, sine = math.cos(angle), math.sin(angle)
    first = (cosine * row + sine * column).floor().to(torch.int64)
    second = (cosine * column - sine * row).floor().to(torch.int64)
    dark = (first + second).remainder(2) == 0
    return dark & covered[first + reach, second + reach]
