"""Cubic B-splines as scipy.ndimage reads them in its mode `constant`: mirrored about the edge pixels, black outside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.corruptions._filters import correlate

REACH = 16  # pixels: at this distance the weight of the prefilter is 1e-9


def prefilter(images: Tensor) -> Tensor:
    """Coefficients of the cubic spline through the pixels, which takes the place of scipy's recursive filter.

    The inverse of the B-spline's samples (1/6, 4/6, 1/6) is sqrt(3) (sqrt(3) - 2)^|k|; it falls so fast that the sum
    over `REACH` pixels either way is exact to 1e-9.

    Args:
        images: (n, c, h, w) floating point.

    Returns:
        (n, c, h, w), of the images' type.
    """
    line = torch.arange(-REACH, REACH + 1, dtype=torch.float64).abs()
    kernel = math.sqrt(3) * (math.sqrt(3) - 2) ** line
    return correlate(correlate(images, kernel[:, None], border="mirror"), kernel[None], border="mirror")


def taps(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The four pixels that a cubic B-spline joins at each place along one axis, and their weights.

    Args:
        places: (...) float64, in [0, size - 1].
        size: pixels of the axis, at least 2.

    Returns:
        Indices (..., 4) int64, mirrored about the edge pixels; weights (..., 4) float64, whose sum is one.
    """
    below = places.floor()
    near, far = places - below, 1 - (places - below)
    first = far**3 / 6
    second = (near * near * (near - 2) * 3 + 4) / 6
    third = (far * far * (far - 2) * 3 + 4) / 6
    fourth = near**3 / 6
    index = (below.to(torch.int64)[..., None] + torch.arange(-1, 3)).remainder(2 * (size - 1))
    return torch.minimum(index, 2 * (size - 1) - index), torch.stack((first, second, third, fourth), -1)
