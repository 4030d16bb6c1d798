from __future__ import annotations

import math
from collections import Counter
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.corruptions._severity import constant

FAMILY = "blur"
ENTRIES = 2**20  # per part of the batch: 4 MiB, which a processor's cache holds


def zoom_blur(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Mean of the image and of enlarged copies of its middle, as if the camera moved while the shutter was open.

    A copy is made like scipy.ndimage.zoom of order 1 does it: the middle ceil(size / zoom) pixels are stretched, first
    onto first and last onto last, over the whole number of pixels nearest to crop * zoom, of which the middle is kept.
    Crop and stretch being whole, small images zoom in steps: at 32 pixels the first factors leave the image as it is,
    and odd differences move a copy by half a pixel. Zoom 1 is one of the copies, so the image itself counts twice. The
    factors are those that numpy.arange makes: 7, 12, 16, 21, 26 of them for CIFAR-C, 12, 16, 11, 13, 11 for ImageNet-C.

    Source: Hendrycks & Dietterich, ICLR 2019. Departure: the original cuts a square whatever the image's shape; here
    height and width are each cut and stretched by their own size, which is the same on square images.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: unused: the corruption is deterministic.
        severity: 1 to 5.
        constants: `cifar` (zooms up to 1.06-1.25), `imagenet` (1.11-1.30), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    count, step = constant(
        images,
        severity,
        constants,
        cifar=((7, 0.01), (12, 0.01), (16, 0.01), (21, 0.01), (26, 0.01)),
        imagenet=((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03)),
    )
    channels, height, width = images.shape[1:]
    # Counting in steps of (1 + step) - 1, like numpy.arange, rounds the few sizes that lie on a tie like the original.
    zooms = [1 + place * ((1 + step) - 1) for place in range(count)]
    copies = Counter((_stretch(height, zoom), _stretch(width, zoom)) for zoom in zooms)
    parts = []
    size = max(1, ENTRIES // (channels * height * width))
    for start in range(0, len(images), size):
        part = images[start : start + size]
        rows_first = part.permute(2, 3, 0, 1).reshape(height, width, -1)  # a pixel of all images is one run in memory
        total = rows_first.clone()
        for (vertical, horizontal), times in copies.items():
            total += _interpolate(_interpolate(rows_first, vertical, 0), horizontal, 1) * times
        total = (total / (count + 1)).reshape(height, width, len(part), channels)
        parts.append(total.permute(2, 3, 0, 1).clamp(0, 1))
    return torch.cat(parts).contiguous()


class _Stretch(NamedTuple):
    """Output pixel i of a line shows the input at place first + (i + trim) * pace."""

    first: int
    trim: int
    pace: float


def _stretch(size: int, zoom: float) -> _Stretch:
    crop = math.ceil(size / zoom)
    stretched = round(crop * zoom)
    return _Stretch((size - crop) // 2, (stretched - size) // 2, (crop - 1) / (stretched - 1))


def _interpolate(images: Tensor, stretch: _Stretch, axis: int) -> Tensor:
    """Linear interpolation along one axis of (h, w, entries); elementwise, so equal bit for bit in any batch."""
    size = images.shape[axis]
    if stretch.pace == 1:
        return images
    place = stretch.first + (torch.arange(size, dtype=torch.float64) + stretch.trim) * stretch.pace
    lower = place.floor().clamp(max=size - 2)
    share = (place - lower).to(images).view((-1, 1, 1) if axis == 0 else (1, -1, 1))
    index = lower.long().to(images.device)
    return images.index_select(axis, index).mul_(1 - share).add_(images.index_select(axis, index + 1).mul_(share))
