"""Maps of images on their DCT coefficients: frequency flip, low-pass and high-pass.

They act on the last two axes, whatever the rank, and are linear. They are computed in float64 and rounded once to the
dtype of the images: a flip of a flip is the image to rounding, whatever the batch, and neither autocast nor the reduced
precision of a GPU's float32 products touches them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.numerics.subspaces import dct_matrix


def flip(images: Tensor) -> Tensor:
    """Reverse the order of the frequencies along both axes: an orthonormal map, and its own inverse.

    FLIP of "Hold me tight!" (Ortiz-Jimenez et al., NeurIPS 2020). Values leave [0, 1].
    """
    height, width = images.shape[-2:]
    rows, columns = _flip_matrix(height, images.device), _flip_matrix(width, images.device)
    return (rows @ images.double() @ columns).to(images.dtype)


def low_pass(images: Tensor, bandwidth: int) -> Tensor:
    """Keep the `bandwidth` lowest frequencies along each axis: the first b x b coefficients of each plane.

    The released code of "Hold me tight!" slices channel and row on a batch, which keeps other coefficients.
    """
    return _low_pass(images, bandwidth).to(images.dtype)


def high_pass(images: Tensor, bandwidth: int) -> Tensor:
    """What `low_pass` takes away: images - low_pass(images, bandwidth)."""
    return (images.double() - _low_pass(images, bandwidth)).to(images.dtype)


def mapping(frequency: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """The map that a data file's metadata name.

    Args:
        frequency: `map` (`flip`, `low_pass` or `high_pass`), and for the latter two `bandwidth`.
    """
    if frequency["map"] == "flip":
        return flip
    chosen = {"low_pass": low_pass, "high_pass": high_pass}[frequency["map"]]
    return functools.partial(chosen, bandwidth=frequency["bandwidth"])


def flip_gain(height: int, width: int) -> float:
    """Largest entry that the flip of an image with entries in [-1, 1] can have: its norm from linf to linf."""
    matrices = (_flip_matrix(size, torch.device("cpu")) for size in (height, width))
    return math.prod(float(matrix.abs().sum(dim=1).max()) for matrix in matrices)


def pass_range(height: int, width: int, bandwidth: int, *, high: bool) -> tuple[float, float]:
    """Smallest interval that holds every value of every low-passed (high-passed) image whose pixels lie in [0, 1].

    Each output pixel is a weighted sum of the inputs, so its extremes are the sums of the negative and of the positive
    weights.
    """
    rows, columns = (_pass_matrix(size, bandwidth, torch.device("cpu")) for size in (height, width))

    def halves(matrix: Tensor) -> tuple[Tensor, Tensor]:
        return matrix.clamp(min=0).sum(1), -matrix.clamp(max=0).sum(1)

    (row_up, row_down), (column_up, column_down) = halves(rows), halves(columns)
    up = torch.outer(row_up, column_up) + torch.outer(row_down, column_down)  # (h, w): sums of positive weights
    down = torch.outer(row_up, column_down) + torch.outer(row_down, column_up)
    if high:  # weights are the negated ones, with 1 added to the pixel's own, which is diagonal * diagonal <= 1
        own = torch.outer(rows.diagonal(), columns.diagonal())
        up, down = down + 1 - own, up - own
    return -float(down.max()), float(up.max())


def _low_pass(images: Tensor, bandwidth: int) -> Tensor:
    """`low_pass` in float64."""
    height, width = images.shape[-2:]
    rows, columns = (_pass_matrix(size, bandwidth, images.device) for size in (height, width))
    return rows @ images.double() @ columns


@functools.lru_cache(maxsize=16)
def _flip_matrix(size: int, device: torch.device) -> Tensor:
    """C^T J C with J the reversal: symmetric and orthonormal, (size, size) float64."""
    matrix = dct_matrix(size)
    return (matrix.T @ matrix.flip(0)).to(device)


@functools.lru_cache(maxsize=16)
def _pass_matrix(size: int, bandwidth: int, device: torch.device) -> Tensor:
    """Projection on the lowest cosines, (size, size) float64."""
    matrix = dct_matrix(size)[:bandwidth]
    return (matrix.T @ matrix).to(device)
