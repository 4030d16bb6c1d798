"""Canny's edge detector on whole numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

TANGENT_22 = 13573  # tan(22.5 degrees) in units of 2^-15
WITHIN_IMAGE = np.zeros((3, 3, 3), dtype=bool)  # neighbours of an edge pixel: the eight in its own image
WITHIN_IMAGE[1] = True


def canny(images: NDArray[np.uint8], *, low: int, high: int) -> NDArray[np.bool_]:
    """Find the edges of 8-bit images: the ridges of the gradient.

    A ridge is an edge where the gradient exceeds `high`, and where it exceeds `low` and hangs together with such a
    place. The details are OpenCV's with its default options: Sobel gradients over 3 x 3 pixels with repeated edge
    pixels, |gx| + |gy| as length, three sectors of directions, and which of two equal neighbours wins.

    Source: Canny, "A computational approach to edge detection", PAMI 1986.

    Args:
        images: (n, h, w).
        low: smallest length of a gradient, exclusive.
        high: length from which, exclusive, a ridge is an edge by itself.

    Returns:
        (n, h, w), true on edges.
    """
    padded = np.pad(images.astype(np.int16), ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    right = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    gx, gy = down[:, :, 2:] - down[:, :, :-2], right[:, 2:] - right[:, :-2]
    framed = np.pad(np.abs(gx) + np.abs(gy), ((0, 0), (1, 1), (1, 1)))
    length = framed[:, 1:-1, 1:-1]

    # Most pixels lie on no slope, so the ridges are sought on a list of those that do.
    slope = length > low
    image, row, column = slope.nonzero()
    line = framed.shape[2]
    place = (image * framed.shape[1] + row + 1) * line + column + 1  # in the flat frame
    gx, gy = gx[slope].astype(np.int32), gy[slope].astype(np.int32)
    wide, steepness = np.abs(gx), np.abs(gy) * (1 << 15) - np.abs(gx) * TANGENT_22  # at most 2^25
    straight = (steepness < 0) | (steepness > wide * (1 << 16))
    across = np.where(steepness < 0, 1, np.where(straight, line, np.where((gx ^ gy) < 0, line - 1, line + 1)))
    here, before, after = (framed.ravel()[place + step] for step in (0, -across, across))
    ridge = np.zeros(images.shape, dtype=bool)
    ridge[slope] = (here > before) & ((here > after) | (straight & (here == after)))
    parts, count = ndimage.label(ridge, structure=WITHIN_IMAGE)
    kept: NDArray[np.bool_] = np.zeros(count + 1, dtype=bool)
    kept[parts[ridge & (length > high)]] = True
    edges: NDArray[np.bool_] = kept[parts]
    return edges
