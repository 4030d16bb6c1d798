"""Principal curvatures of level sets {F = const} of logit differences, from products with the Hessian.

With n = grad F / |grad F| and P = 1 - n n^T they are the eigenvalues of P Hess(F) P / |grad F| but for its zero along
n. The sign is that of F: where F < 0 inside a ball of radius R, all are +1 / R.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.numerics import randomness
from pipeline.numerics.lanczos import lanczos
from pipeline.numerics.norms import l2, per_sample, unit

Products = Callable[[Tensor, Tensor, Tensor], Tensor]  # rows (m,), points (m, ...), directions (m, k, ...): (m, k, ...)
MEMORY = 2**26  # entries of the bases that Lanczos holds at a time


class Effort(NamedTuple):
    """How much work a spectrum is worth.

    Attributes:
        draws: random orthonormal bases, or centres within the radius, over which differences are averaged.
        full_below: images of so many entries at most get all eigenvalues, larger ones Lanczos's.
        iterations: of Lanczos.
        probes: random vectors from which Lanczos starts.
        batch_size: images per pass.
    """

    draws: int
    full_below: int
    iterations: int
    probes: int
    batch_size: int


class Spectrum(NamedTuple):
    """Curvatures of n level sets in d dimensions, as a density: values with weights of sum 1.

    Attributes:
        values: (n, m) float64; NaN throughout where a product was not finite.
        weights: (n, m) float64: all equal where the values are all d - 1 curvatures, else of a quadrature.
        asymmetry: (n,) float64, |H - H^T| / |H| of the Hessian as it was found.
        leading: (n, k, d), unit directions of the k largest curvatures in magnitude.
    """

    values: Tensor
    weights: Tensor
    asymmetry: Tensor
    leading: Tensor


def spectrum(
    products: Products,
    points: Tensor,
    gradients: Tensor,
    radius: float | None,
    seeds: Tensor,
    effort: Effort,
    leading: int = 1,
) -> Spectrum:
    """Principal curvatures at points, all of them or by stochastic Lanczos quadrature.

    All: the Hessian is the mean of sum_q (H q) q^T over random orthonormal bases q. With differences of radius h its
    expectation is the Hessian averaged over the ball of radius h (the divergence theorem, for the gradient), which is
    symmetric and exists for rectifier networks as well; the asymmetry says how much is left of a draw. Exact products
    need no draws. Quadrature: Golub and Meurant, "Matrices, moments and quadrature", 1994; Lanczos runs from random
    tangents, and products are averaged over centres drawn uniformly from the ball (the point itself if there is one).

    Args:
        products: of the Hessians of F, as `numerics.hessian` makes them.
        points: (n, c, h, w).
        gradients: (n, c, h, w) of F at the points, not zero.
        radius: of the differences, in units of the data; None: exact.
        seeds: (n,) int64.
        effort: see there.
        leading: directions asked for, k; fewer if there are not as many.
    """
    full = points[0].numel() <= effort.full_below
    find, chunk = (_full, effort.batch_size // points[0].numel()) if full else (_quadrature, effort.batch_size)
    parts = [
        find(products, rows, points[rows], gradients[rows], radius, seeds[rows.to(seeds.device)], effort, leading)
        for rows in torch.split(torch.arange(len(points), device=points.device), max(1, chunk))
    ]
    return Spectrum(*(torch.cat(found) for found in zip(*parts, strict=True)))


def centres(points: Tensor, radius: float | None, seeds: Tensor, draws: int) -> Tensor:
    """Points (n, draws, ...) drawn uniformly from the balls about points (n, ...); these alone for one draw or none."""
    if radius is None or draws == 1:
        return points[:, None]
    entries = points[0].numel()
    seeds = seeds ^ 1  # a stream of their own
    towards = unit(randomness.normal(seeds, (draws, entries)).double().flatten(0, 1))
    far = randomness.uniform(seeds ^ 2, (draws,)).double().flatten()[:, None] ** (1 / entries)
    return points[:, None] + (radius * far * towards).to(points).view(len(points), draws, *points.shape[1:])


def operator(
    products: Products, rows: Tensor, around: Tensor, normals: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """Products (m, d) to (m, d) averaged over centres (m, draws, ...), projected off the normals (m, d), if given."""
    draws = around.shape[1]
    sample, points = rows.repeat_interleave(draws), around.flatten(0, 1)

    def apply(vectors: Tensor) -> Tensor:
        vectors = vectors if normals is None else off(vectors, normals)
        directions = vectors.view(len(rows), 1, *points.shape[1:]).repeat_interleave(draws, dim=0)
        found = products(sample, points, directions).view(len(rows), draws, -1).mean(dim=1)
        return found if normals is None else off(found, normals)

    return apply


def off(vectors: Tensor, normals: Tensor) -> Tensor:
    """Vectors (..., d) without their parts along unit normals (..., d)."""
    return vectors - (vectors * normals).sum(dim=-1, keepdim=True) * normals


def tangents(normals: Tensor) -> Tensor:
    """Orthonormal bases (n, d - 1, d) of the hyperplanes orthogonal to unit normals (n, d), by Householder reflection.

    The reflection exchanges the normal with the first axis (or its opposite), hence the other axes with tangents.
    """
    mirror = normals.clone()
    mirror[:, 0] += torch.where(normals[:, 0] < 0, -1, 1)
    mirror /= torch.linalg.vector_norm(mirror, dim=1, keepdim=True)
    identity = torch.eye(normals.shape[1], dtype=normals.dtype, device=normals.device)
    return (identity - 2 * mirror[:, :, None] * mirror[:, None])[:, 1:]


def _full(
    products: Products,
    rows: Tensor,
    points: Tensor,
    gradients: Tensor,
    radius: float | None,
    seeds: Tensor,
    effort: Effort,
    leading: int,
) -> Spectrum:
    hessians = _hessians(products, rows, points, radius, seeds, effort)
    size = hessians.flatten(1).norm(dim=1)
    asymmetry = torch.where(size > 0, (hessians - hessians.mT).flatten(1).norm(dim=1) / size, 0)
    plane = tangents(unit(gradients.flatten(1).double()))
    curved = plane @ ((hessians + hessians.mT) / 2) @ plane.mT / per_sample(_slopes(gradients), hessians)
    finite = curved.flatten(1).isfinite().all(dim=1)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], curved, 0))
    values = torch.where(finite[:, None], values, torch.nan)
    weights = torch.full_like(values, 1 / max(values.shape[1], 1))
    return Spectrum(values, weights, asymmetry, _leading(values, vectors.mT @ plane, leading))


def _hessians(
    products: Products, rows: Tensor, points: Tensor, radius: float | None, seeds: Tensor, effort: Effort
) -> Tensor:
    """Hessians as found, (m, d, d) float64: column j is the product with axis j."""
    entries = points[0].numel()
    if radius is None:
        bases = torch.eye(entries, dtype=torch.float64, device=points.device).expand(len(points), 1, -1, -1)
    else:
        drawn = randomness.normal(seeds, (effort.draws, entries, entries)).double().to(points.device)
        bases = torch.linalg.qr(drawn)[0]
    found = torch.zeros(len(points), entries, entries, dtype=torch.float64, device=points.device)
    for basis in bases.unbind(dim=1):
        for some in torch.split(basis, effort.batch_size, dim=1):
            directions = some.to(points).view(len(points), -1, *points.shape[1:])
            found += products(rows, points, directions).flatten(2).double().mT @ some
    return found / bases.shape[1]


def _quadrature(
    products: Products,
    rows: Tensor,
    points: Tensor,
    gradients: Tensor,
    radius: float | None,
    seeds: Tensor,
    effort: Effort,
    leading: int,
) -> Spectrum:
    count, entries = len(points), points[0].numel()
    normals = unit(gradients.flatten(1))
    starts = randomness.normal(seeds, (effort.probes, entries)).to(points)
    around = centres(points, radius, seeds, effort.draws)
    pairs = torch.arange(count * effort.probes, device=points.device)
    chunk = max(1, min(effort.batch_size // around.shape[1], MEMORY // (effort.iterations * entries)))
    values, weights, asymmetry, vectors = [], [], [], []
    for some in torch.split(pairs, chunk):
        own, probe = some // effort.probes, some % effort.probes
        start = off(starts[own, probe], normals[own])
        steps = min(effort.iterations, entries - 1)
        found = lanczos(operator(products, rows[own], around[own], normals[own]), start, steps)
        values.append(found.values / _slopes(gradients[own])[:, None])
        weights.append(found.weights / effort.probes)
        asymmetry.append(found.asymmetry)
        vectors.append(_leading(found.values, found.vectors, leading)[probe == 0])  # every probe finds the same ends
    merged, shares, odd = (torch.cat(part).view(count, -1) for part in (values, weights, asymmetry))
    return Spectrum(merged, shares, odd.mean(dim=1), torch.cat(vectors))


def _slopes(gradients: Tensor) -> Tensor:
    return l2(gradients.double())


def _leading(values: Tensor, vectors: Tensor, count: int) -> Tensor:
    """Of vectors (n, m, d) the `count` whose values (n, m) are the largest in magnitude."""
    largest = values.abs().topk(min(count, values.shape[1]), dim=1).indices
    return vectors.gather(1, largest[:, :, None].expand(-1, -1, vectors.shape[2]))
