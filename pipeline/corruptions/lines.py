from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._bar_warp import in_parts, side
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import per_sample

FAMILY = "pattern"
GREY = 128 / 255
FAR = 1e9


def lines(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Draw grey lines, one pixel wide and smooth, through random points; the severity is their number.

    A line is twice as long as the image's side, about a point uniform in it, and runs between whole pixels. Its
    direction is uniform about the image's main one, in a range of .1 to 1 turn. A pixel is covered by one minus its
    distance to the line, inside the rectangle that the line's ends span: this is what the antialiased algorithm that
    the original calls (scikit-image's line_aa) draws (equal on 3,624 lines of all slopes).

    Source: Mintun, Kirillov & Xie, NeurIPS 2021 (CIFAR-10-C-bar). For larger images: the authors' own candidates for
    224 pixels, at the ranks that CIFAR-10-C-bar takes from their list for 32. Differences to their code, which is for
    squares of 32 or 224 pixels: of other images the side is sqrt(h w); at least one line is drawn, which matters below
    20 pixels, where severities may agree; no rounding down to 8 bits after every line (it darkens the original by up to
    .3 grey levels on average, 3 at most).

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, the lines of each image.
        severity: 1 to 5.
        constants: `cifar` (.05-.25 lines per pixel of the side), `imagenet` (.08-.4), or `auto`: CIFAR-10-C-bar's up to
            64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    density = constant(
        images, severity, constants, cifar=(0.05, 0.1, 0.15, 0.2, 0.25), imagenet=(0.08, 0.16, 0.24, 0.32, 0.4)
    )
    count = max(1, int(density * side(images)))
    height, width = images.shape[-2:]

    def draw(_: int, generator: torch.Generator) -> Tensor:
        main, variation = torch.rand(2, generator=generator, dtype=torch.float64)
        row, column, turn = torch.rand(3, count, generator=generator, dtype=torch.float64)
        angle = 2 * math.pi * (main + (0.1 + 0.9 * variation) * (turn - 0.5))
        down, right = side(images) * torch.cos(angle), side(images) * torch.sin(angle)
        row, column = height * row, width * column
        return torch.stack((row - down, column - right, row + down, column + right), 1).trunc()

    def corrupt(images: Tensor, ends: Tensor) -> Tensor:
        shown = torch.ones(len(images), height, width, device=images.device)
        for line in ends.to(images).unbind(1):
            shown *= _distance(line, height, width).clamp(max=1)
        return GREY + shown.unsqueeze(1) * (images - GREY)

    return in_parts(corrupt, images, per_sample(draw, seeds), coarse=16).clamp(0, 1)


def _distance(ends: Tensor, height: int, width: int) -> Tensor:
    """Distance of the pixels to lines, and more than 1 outside the rectangle between a line's ends.

    Ends and pixels are whole numbers, so the cross product is exact, and so are its signs and ties.

    Args:
        ends: (n, 4) float32: first row and column, last row and column.
        height: rows of the image.
        width: columns of the image.

    Returns:
        (n, h, w) float32.
    """
    start_row, start_column, end_row, end_column = ends[:, :, None].unbind(1)
    down, right = end_row - start_row, end_column - start_column
    row, column = (torch.arange(size, device=ends.device, dtype=ends.dtype) for size in (height, width))
    by_row, by_column = (row - start_row) * right, (column - start_column) * down
    by_row = by_row.masked_fill((row - start_row) * (row - end_row) > 0, FAR)
    by_column = by_column.masked_fill((column - start_column) * (column - end_column) > 0, -FAR)
    length = (down * down + right * right).sqrt()
    return (by_row[:, :, None] - by_column[:, None]).abs_().div_(length[:, :, None])
