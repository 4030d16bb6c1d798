"""Correlation of a batch with one kernel, with borders of any width."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

NEGLIGIBLE = 1e-9  # a weight below this moves no pixel by a thousandth of a grey level, whatever the kernel's size


def correlate(images: Tensor, kernel: Tensor, *, border: Literal["mirror", "nearest"]) -> Tensor:
    """Correlate every channel with one kernel; the output has the size of the input.

    The taps are added one after the other, so each pixel is computed by the same operations in any batch and the result
    is equal bit for bit, which no library convolution promises. Borders may be wider than the image.

    Args:
        images: (n, c, h, w) floating point.
        kernel: (kh, kw), both odd.
        border: `mirror` reflects about the edge pixel's centre (d c b | a b c d | c b a), `nearest` repeats the edge
            pixel (a a a | a b c d | d d d), as in scipy.ndimage.

    Returns:
        (n, c, h, w), of the images' type and device.
    """
    height, width = images.shape[-2:]
    rows, columns = kernel.shape
    padded = images[..., _source(height, rows // 2, border).to(images.device), :]
    padded = padded[..., _source(width, columns // 2, border).to(images.device)]
    total = torch.zeros_like(images)
    for row, column in (kernel.abs() > NEGLIGIBLE).nonzero().tolist():
        total += padded[..., row : row + height, column : column + width] * kernel[row, column].item()
    return total


def gaussian(sigma: float, radius: int) -> Tensor:
    """Normalised Gaussian weights at -radius, ..., radius: (2 radius + 1,) float64."""
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return weights / weights.sum()


def _source(size: int, pad: int, border: str) -> Tensor:
    """Index of the pixel that stands at each place of the padded line: (size + 2 pad,) int64."""
    place = torch.arange(-pad, size + pad)
    if border == "nearest" or size == 1:
        return place.clamp(0, size - 1)
    period = 2 * (size - 1)
    place = place.remainder(period)
    return torch.minimum(place, period - place)
