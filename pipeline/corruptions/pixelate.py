from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._severity import constant

FAMILY = "digital"
ENTRIES = 2**20  # worked on at once on a CPU: 4 MiB, which its cache holds


def pixelate(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Shrink the image by a box filter to int(scale * size) pixels a side and enlarge it again without smoothing.

    Pillow's box: a pixel counts, whole, for the one cell that holds its centre. Differences to Pillow: nothing is
    rounded to 8 bits on the way, so the result can differ by one grey level; and a centre exactly between two cells
    belongs to the lower one, where Pillow's floating point decides (no such centre exists at 32 or 224 pixels).
    Since sizes are whole numbers, severities may agree on very small images (8 pixels: 7, 7, 6, 6, 5 cells a side).

    Source: Hendrycks & Dietterich, ICLR 2019.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: unused: the corruption is deterministic.
        severity: 1 to 5.
        constants: `cifar` (scale .95-.65), `imagenet` (.6-.25), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    scale = constant(
        images, severity, constants, cifar=(0.95, 0.9, 0.85, 0.75, 0.65), imagenet=(0.6, 0.5, 0.4, 0.3, 0.25)
    )
    height, width = images.shape[-2:]
    rows, columns = (max(1, int(size * scale)) for size in (height, width))
    downwards, across = (_shown(*sizes).to(images.device) for sizes in ((height, rows), (width, columns)))
    result = torch.empty_like(images)
    batch = max(1, len(images) if images.is_cuda else ENTRIES // images.shape[1:].numel())
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        cells = _means(_means(images[part], columns, -1), rows, -2).clamp_(0, 1)
        torch.index_select(cells.index_select(-1, across), -2, downwards, out=result[part])
    return result


def _means(images: Tensor, cells: int, axis: int) -> Tensor:
    """Average the pixels along one axis into `cells` boxes."""
    size = images.shape[axis]
    # Centres (pixel + 1/2) in units of 1/(2 size) cells, in whole numbers: a tie belongs to the lower cell here, where
    # pixels are gathered, and to the upper one where they are shown.
    gathered_by = (_centres(size, cells) - 1) // (2 * size)
    count = torch.bincount(gathered_by, minlength=cells)  # pixels per cell
    first = count.cumsum(0) - count
    shape = [-1 if dim == axis % images.ndim else 1 for dim in range(images.ndim)]
    total = images.index_select(axis, first.to(images.device))
    for step in range(1, int(count.max())):  # a fixed order of addition: equal bits in any batch and on any device
        member = (first + step).clamp(max=size - 1).to(images.device)
        total += images.index_select(axis, member) * (step < count).view(shape).to(images)
    return total / count.view(shape).to(images)


def _shown(size: int, cells: int) -> Tensor:
    """The cell that each of `size` pixels shows."""
    return _centres(size, cells) // (2 * size)


def _centres(size: int, cells: int) -> Tensor:
    return (2 * torch.arange(size) + 1) * cells
