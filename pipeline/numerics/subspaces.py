"""Orthonormal subspaces of image space: blocks of DCT-II frequencies over the last two axes, and any other ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

DEPENDENT = 1e-6  # share of a vector that must be left beside those before it


def dct_matrix(size: int, like: Tensor | None = None) -> Tensor:
    """Orthonormal DCT-II matrix C, (size, size): row k is the cosine of frequency k, and C @ C.T = I.

    Computed in float64, then given the dtype and device of `like` (float64 on the CPU without it).
    """
    position = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (position + 0.5) * position[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix if like is None else matrix.to(like)


def diagonal_starts(height: int, width: int, size: int, step: int) -> Sequence[tuple[int, int]]:
    """First row and column of each block on the diagonal of the coefficient plane: 0, step, ... while it fits.

    The blocks of "Hold me tight!" (Ortiz-Jimenez et al., NeurIPS 2020): rows and columns t .. t + size - 1 of the
    plane, in every channel. Empty if none fits.
    """
    return [(t, t) for t in range(0, min(height, width) - size + 1, step)]


def grid_starts(height: int, width: int, size: int, step: int) -> Sequence[tuple[int, int]]:
    """First row and column of all blocks that fit, row by row; those of the diagonal are among them."""
    rows, columns = (range(0, extent - size + 1, step) for extent in (height, width))
    return [(row, column) for row in rows for column in columns]


class Subspaces(Protocol):
    """Several subspaces with orthonormal bases, to look at each sample through one of its own.

    Norms of coefficients are norms of images: |S^T x| is the length of the part of x in S.
    """

    def __len__(self) -> int:
        """How many subspaces there are."""

    def analyse(self, images: Tensor, space: Tensor) -> Tensor:
        """Coefficients S^T x, (n, ..., *coefficients), of (n, ..., c, h, w) and the subspaces' indexes (n,)."""

    def synthesise(self, coefficients: Tensor, space: Tensor) -> Tensor:
        """Images S a, (n, ..., c, h, w): the inverse of `analyse` inside the subspace."""


class Blocks:
    """Blocks of the coefficient plane as separable orthonormal bases, coefficients (c, size, size).

    A block's subspace is spanned by products of `size` vertical and `size` horizontal cosines, so S^T x and S a are
    two small matrix products per channel; no mask over the plane and no full transform is needed.
    """

    def __init__(self, images: Tensor, size: int, starts: Sequence[tuple[int, int]]) -> None:
        """Bases for images shaped as `images` (..., h, w), in their dtype and on their device.

        Args:
            images: gives shape, dtype and device.
            size: rows and columns of a block.
            starts: first row and column of each block, as of `diagonal_starts`.
        """
        height, width = images.shape[-2:]
        vertical, horizontal = dct_matrix(height, images), dct_matrix(width, images)
        self._vertical = torch.stack([vertical[row : row + size] for row, _ in starts])  # (blocks, size, h)
        self._horizontal = torch.stack([horizontal[column : column + size] for _, column in starts])

    def __len__(self) -> int:
        return len(self._vertical)

    def analyse(self, images: Tensor, space: Tensor) -> Tensor:
        """Coefficients: (n, ..., h, w) and block indexes (n,) to (n, ..., size, size)."""
        vertical, horizontal = self._bases(images, space)
        return vertical @ images @ horizontal.mT

    def synthesise(self, coefficients: Tensor, space: Tensor) -> Tensor:
        """Images: (n, ..., size, size) and block indexes (n,) to (n, ..., h, w)."""
        vertical, horizontal = self._bases(coefficients, space)
        return vertical.mT @ coefficients @ horizontal

    def _bases(self, like: Tensor, space: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(space), *[1] * (like.ndim - 3))
        vertical, horizontal = self._vertical[space], self._horizontal[space]
        return vertical.view(*shape, *vertical.shape[1:]), horizontal.view(*shape, *horizontal.shape[1:])


class Frames:
    """Any subspaces, each by an orthonormal basis; coefficients (d,) with d the largest dimension.

    Smaller bases are filled up with zeros, which changes neither norms nor projections.
    """

    def __init__(self, images: Tensor, bases: Sequence[Tensor]) -> None:
        """Bases for images shaped as `images` (..., c, h, w), in their dtype and on their device.

        Args:
            images: gives shape, dtype and device.
            bases: of each subspace, (dimension, c h w) orthonormal rows.
        """
        self._shape = images.shape[-3:]
        largest = max(len(rows) for rows in bases)
        self._frames = images.new_zeros(len(bases), largest, math.prod(self._shape))
        for frame, rows in zip(self._frames, bases, strict=True):
            frame[: len(rows)] = rows.to(images)

    def __len__(self) -> int:
        return len(self._frames)

    def analyse(self, images: Tensor, space: Tensor) -> Tensor:
        """Coefficients: (n, ..., c, h, w) and subspace indexes (n,) to (n, ..., d)."""
        flat = images.flatten(-3)
        found = flat.new_empty(*flat.shape[:-1], self._frames.shape[1])
        for index in set(space.tolist()):  # a product for each subspace: no copy of its basis for each sample
            rows = space == index
            found[rows] = flat[rows] @ self._frames[index].T
        return found

    def synthesise(self, coefficients: Tensor, space: Tensor) -> Tensor:
        """Images: (n, ..., d) and subspace indexes (n,) to (n, ..., c, h, w)."""
        flat = coefficients.new_empty(*coefficients.shape[:-1], self._frames.shape[2])
        for index in set(space.tolist()):
            rows = space == index
            flat[rows] = coefficients[rows] @ self._frames[index]
        return flat.view(*flat.shape[:-1], *self._shape)


def orthonormal(vectors: Tensor, beside: Tensor | None = None) -> Tensor:
    """Orthonormal rows of the span of some vectors, in float64: Gram-Schmidt, in order, each projection done twice.

    Args:
        vectors: (k, entries), finite.
        beside: (m, entries) orthonormal rows; the result spans what of the vectors is orthogonal to them.

    Returns:
        (r, entries): r <= k, since a vector of which no more than 1e-6 lies beside those before it is left out.
    """
    vectors = vectors.double()
    done = vectors.new_empty(0, vectors.shape[1]) if beside is None else beside.double()
    given = len(done)
    basis = torch.cat([done, torch.empty_like(vectors)])
    count = given
    for vector in vectors:
        rest, before = vector, basis[:count]
        for _ in range(2):
            rest = rest - before.T @ (before @ rest)
        length = torch.linalg.vector_norm(rest)
        if length > DEPENDENT * torch.linalg.vector_norm(vector):
            basis[count] = rest / length
            count += 1
    return basis[given:count]


def random_subspace(dimension: int, entries: int, seed: int, beside: Tensor | None = None) -> Tensor:
    """A subspace drawn uniformly (Haar) from all of its dimension, (dimension, entries) orthonormal rows in float64.

    Args:
        dimension: of the subspace.
        entries: of the space.
        seed: of the draws.
        beside: (m, entries) orthonormal rows to which it is orthogonal; m + dimension is at most `entries`.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(dimension, entries, generator=generator, dtype=torch.float64)
    return orthonormal(draws, None if beside is None else beside.to(draws))
