from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._bar_warp import bilinear, in_parts
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import uniform

FAMILY = "warp"
SMALLEST = 4  # pixels: in a smaller cell no pixel moves


def pinch_and_twirl(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Pinch and twirl the image in the disk inscribed in each cell of a grid, left or right at random.

    A pixel at the share d of the disk's radius shows the place at d sin(pi d / 2)^-amount, turned by angle (1 - d)^2.
    There are 3 x 3 cells (`cifar`) or 5 x 5 (`imagenet`); what is left of the image at the lower and right ends stays.
    Bilinear interpolation.

    Source: Mintun, Kirillov & Xie, NeurIPS 2021 (CIFAR-10-C-bar). For larger images: the authors' own candidates for
    224 pixels (there under the name pinch_and_twirl_v2), at the ranks that CIFAR-10-C-bar takes from their list for 32.
    Differences to their code, which is for squares of 32 or 224 pixels: cells of other images have the side
    min(h, w) // 3 or 5, at least 4 pixels, and as many stand in a row as fit; the image's edge pixel continues beyond
    it, where theirs is black (out of reach at 32 and 224 pixels); the cells are warped at once, not one after the other
    (equal, since none reads a pixel of an earlier one); no rounding down to 8 bits.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, the directions of the twirls of each image.
        severity: 1 to 5.
        constants: `cifar` (angle .86-1.57, amount .32-.5), `imagenet` (angle .65-1.57, amount .27-.5), or `auto`:
            CIFAR-10-C-bar's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    level, cells = constant(
        images,
        severity,
        constants,
        cifar=((5.5, 3), (6.0, 3), (6.5, 3), (8.5, 3), (10.0, 3)),
        imagenet=((4.15, 5), (4.8, 5), (5.45, 5), (8.05, 5), (10.0, 5)),
    )
    height, width = images.shape[-2:]
    cell = max(SMALLEST, min(height, width) // cells)
    down, across = height // cell, width // cell
    straight, aside = _disk(cell, angle=level / 10 * math.pi / 2, amount=0.04 * level + 0.1)
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in (height, width))

    def corrupt(images: Tensor, drawn: Tensor) -> Tensor:
        way = torch.where(drawn < 0.5, 1.0, -1.0).repeat_interleave(cell, 1).repeat_interleave(cell, 2)
        places = []
        for offset, start in ((0, rows[:, None]), (1, columns)):
            moved = start.expand(len(images), height, width).clone()
            still, turned = (part[offset].repeat(down, across) for part in (straight, aside))
            moved[:, : down * cell, : across * cell] += still + way * turned
            places.append(moved)
        return bilinear(images, *places, border="nearest").clamp(0, 1)

    return in_parts(corrupt, images, uniform(seeds, (down, across)))


def _disk(cell: int, angle: float, amount: float) -> tuple[Tensor, Tensor]:
    """How far the pixels of a cell move: in either direction of the twirl alike, and with its sign.

    Returns:
        Two tensors (2, cell, cell) float64: rows, columns.
    """
    line = torch.arange(cell, dtype=torch.float64) - cell / 2
    row, column = line[:, None].expand(cell, cell), line.expand(cell, cell)
    share = (row * row + column * column).sqrt() / (cell / 2)
    inside = (share > 0) & (share <= 1)
    share = share.masked_fill(~inside, 1)  # where nothing moves
    pinch = torch.sin(math.pi / 2 * share) ** -amount
    turn = angle * (1 - share) ** 2
    along, across = pinch * torch.cos(turn) - 1, pinch * torch.sin(turn)
    straight, aside = torch.stack((row * along, column * along)), torch.stack((-column * across, row * across))
    return straight * inside, aside * inside
