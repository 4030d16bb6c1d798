"""What the warps, patterns and occlusions of C-bar share: lengths, parts of a batch, bilinear interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

PIXELS = 2**16  # worked on at a time on a CPU: the temporaries of a part stay in the cache
GPU_PIXELS = 2**22


def side(images: Tensor) -> float:
    """Length in pixels to which lengths are in proportion: the side of a square image, of others sqrt(h w)."""
    return math.sqrt(images.shape[-2] * images.shape[-1])


def in_parts(corrupt: Callable[[Tensor, Tensor], Tensor], images: Tensor, draws: Tensor, *, coarse: int = 1) -> Tensor:
    """Corrupt a few images at a time, which bounds the memory.

    Args:
        corrupt: called with some of the images and their draws; the parts' bounds must not change its result.
        images: (n, c, h, w) float32.
        draws: (n, ...), one row per image.
        coarse: how many times the usual number of pixels a part has: more where many short steps cost more than memory.

    Returns:
        (n, c, h, w) float32.
    """
    limit = coarse * PIXELS if images.device.type == "cpu" else GPU_PIXELS
    count = max(1, limit // (images.shape[-2] * images.shape[-1]))
    if len(images) <= count:
        return corrupt(images, draws)
    parts = [slice(start, start + count) for start in range(0, len(images), count)]
    return torch.cat([corrupt(images[part], draws[part]) for part in parts])


def bilinear(images: Tensor, rows: Tensor, columns: Tensor, *, border: Literal["black", "nearest"]) -> Tensor:
    """Read every channel at places between the pixels.

    Only gathers and entrywise products in a fixed order, so a batch equals its single images bit for bit.

    Args:
        images: (n, c, h, w) float32.
        rows: places in pixels, of a shape that broadcasts with that of `columns` to (n, h, w); floating point, on
            any device.
        columns: likewise.
        border: `black`: beyond the image all is zero, and a place less than one pixel outside is a mixture with it;
            `nearest`: places outside move to the nearest pixel of the edge.

    Returns:
        (n, c, h, w) float32, on the images' device.
    """
    height, width = images.shape[-2:]
    if border == "nearest":
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    flat = images.flatten(2)
    total = torch.zeros_like(flat)
    for row, row_share in _neighbours(rows, height, images):
        for column, column_share in _neighbours(columns, width, images):
            index = (row * width + column).expand(len(images), height, width).reshape(len(images), 1, -1)
            share = (row_share * column_share).expand(len(images), height, width).reshape(len(images), 1, -1)
            total += flat.gather(2, index.expand_as(flat)) * share
    return total.view_as(images)


def _neighbours(places: Tensor, size: int, like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The two pixels around each place along one axis, and their shares, zero for those outside the image."""
    below = places.floor()
    fraction = places - below
    pairs = []
    for pixel, share in ((below, 1 - fraction), (below + 1, fraction)):
        share = share * ((pixel >= 0) & (pixel < size))
        pairs.append((pixel.clamp(0, size - 1).to(like.device, torch.int64), share.to(like)))
    return pairs
