"""Lanczos's method for a batch of symmetric operators known by their products with vectors alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Ritz(NamedTuple):
    """What a Krylov space of m dimensions says about each of n operators on d entries.

    Attributes:
        values: (n, m) float64, Ritz values, ascending; the ends come near the ends of the spectrum first.
        weights: (n, m) float64, not negative, of sum 1: squared components of the start. Sums of weights times
            f(values) are Gauss quadratures of <start, f(operator) start>, exact for polynomials of degree 2 m - 1.
        vectors: (n, m, d), unit Ritz vectors in the dtype of the start.
        asymmetry: (n,) float64, |T - T^T| / |T| of the operator T in the Krylov space; 0 for a symmetric one.
    """

    values: Tensor
    weights: Tensor
    vectors: Tensor
    asymmetry: Tensor


def lanczos(operator: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> Ritz:
    """Ritz values and vectors of symmetric operators after some steps, all of them in one batch.

    Lanczos, "An iteration method for the solution of the eigenvalue problem", 1950; Golub and Welsch, "Calculation of
    Gauss quadrature rules", 1969. Departures: vectors are made orthogonal to all earlier ones, twice, so that no
    eigenvalue appears as a ghost; and the whole operator in the Krylov space is kept instead of its three diagonals, of
    which the symmetric part counts, since operators made of finite differences are symmetric only approximately.

    Args:
        operator: (n, d) to (n, d), row by row.
        start: (n, d), none of them zero.
        iterations: steps m, at most d. Where the space is exhausted earlier, the rest has the start's mean value,
            which lies within the spectrum, and zero weight.
    """
    count, entries = start.shape
    steps = min(iterations, entries)
    basis = start.new_zeros(count, steps, entries)
    matrix = torch.zeros(count, steps, steps, dtype=torch.float64, device=start.device)
    current = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
    alive = torch.ones(count, dtype=torch.bool, device=start.device)
    scale = torch.zeros(count, dtype=start.dtype, device=start.device)
    for step in range(steps):
        basis[:, step] = torch.where(alive[:, None], current, 0)
        rest = torch.where(alive[:, None], operator(current), 0)
        scale = torch.maximum(scale, torch.linalg.vector_norm(rest, dim=1))
        for _ in range(2):
            along = torch.einsum("nmd,nd->nm", basis[:, : step + 1], rest)
            rest = rest - torch.einsum("nmd,nm->nd", basis[:, : step + 1], along)
            matrix[:, : step + 1, step] += along.double()
        matrix[:, step, step] = torch.where(alive, matrix[:, step, step], matrix[:, 0, 0])
        length = torch.linalg.vector_norm(rest, dim=1)
        alive = alive & (length > entries * torch.finfo(start.dtype).eps * scale)
        if step + 1 < steps:
            matrix[:, step + 1, step] = torch.where(alive, length, 0).double()
            current = torch.where(alive[:, None], rest / length[:, None], current)
    size = matrix.flatten(1).norm(dim=1)
    asymmetry = torch.where(size > 0, (matrix - matrix.mT).flatten(1).norm(dim=1) / size, 0)
    finite = matrix.flatten(1).isfinite().all(dim=1)
    values, coefficients = torch.linalg.eigh(torch.where(finite[:, None, None], (matrix + matrix.mT) / 2, 0))
    vectors = coefficients.mT.to(start) @ basis
    values = torch.where(finite[:, None], values, torch.nan)
    return Ritz(values, coefficients[:, 0].square(), vectors, asymmetry)
