"""Frequency subspaces of the orthonormal discrete cosine transform (DCT-II) over the last two axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def dct_matrix(size: int, like: Tensor | None = None) -> Tensor:
    """Orthonormal DCT-II matrix C, (size, size): row k is the cosine of frequency k, and C @ C.T = I.

    Computed in float64, then given the dtype and device of `like` (float64 on the CPU without it).
    """
    position = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (position + 0.5) * position[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix if like is None else matrix.to(like)


def diagonal_frequencies(height: int, width: int, size: int, step: int) -> Sequence[int]:
    """First frequency of each block on the diagonal of the coefficient plane: 0, step, ... while the block fits.

    The blocks of "Hold me tight!" (Ortiz-Jimenez et al., NeurIPS 2020): rows and columns t .. t + size - 1 of the
    plane, in every channel. Empty if none fits.
    """
    return range(0, min(height, width) - size + 1, step)


class DiagonalBlocks:
    """Diagonal blocks as separable orthonormal bases, to look at each sample through a block of its own.

    A block's subspace is spanned by products of `size` vertical and `size` horizontal cosines, so S^T x and S a are
    two small matrix products per channel; no mask over the plane and no full transform is needed, and norms of
    coefficients are norms of images.
    """

    def __init__(self, images: Tensor, size: int, frequencies: Sequence[int]) -> None:
        """Bases for images shaped as `images` (..., h, w), in their dtype and on their device.

        Args:
            images: gives shape, dtype and device.
            size: rows and columns of a block.
            frequencies: first frequency of each block, as of `diagonal_frequencies`.
        """
        height, width = images.shape[-2:]
        vertical, horizontal = dct_matrix(height, images), dct_matrix(width, images)
        self._vertical = torch.stack([vertical[t : t + size] for t in frequencies])  # (blocks, size, h)
        self._horizontal = torch.stack([horizontal[t : t + size] for t in frequencies])  # (blocks, size, w)

    def __len__(self) -> int:
        return len(self._vertical)

    def analyse(self, images: Tensor, block: Tensor) -> Tensor:
        """Coefficients S^T x: (n, ..., h, w) and block indexes (n,) to (n, ..., size, size)."""
        vertical, horizontal = self._bases(images, block)
        return vertical @ images @ horizontal.mT

    def synthesise(self, coefficients: Tensor, block: Tensor) -> Tensor:
        """Images S a: (n, ..., size, size) and block indexes (n,) to (n, ..., h, w)."""
        vertical, horizontal = self._bases(coefficients, block)
        return vertical.mT @ coefficients @ horizontal

    def _bases(self, like: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(block), *[1] * (like.ndim - 3))
        vertical, horizontal = self._vertical[block], self._horizontal[block]
        return vertical.view(*shape, *vertical.shape[1:]), horizontal.view(*shape, *horizontal.shape[1:])
