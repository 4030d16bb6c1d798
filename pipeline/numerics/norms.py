"""Sizes of perturbations, one value per sample, and projections onto lp balls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SPARSE_SHARE = 0.01  # of the entries, in a step of l1: SLIDE's quantile 0.99


def l0_pixels(shift: Tensor) -> Tensor:
    """Number of pixels changed in any channel, (n,) int64 for (n, c, h, w): the count of the sparse-attack papers."""
    return (shift != 0).any(dim=1).flatten(1).sum(dim=1)


def l0_entries(shift: Tensor) -> Tensor:
    """Number of changed entries, every channel of every pixel on its own, (n,) int64."""
    return (shift != 0).flatten(1).sum(dim=1)


def l1(shift: Tensor) -> Tensor:
    """Sum of absolute entries, (n,)."""
    return shift.flatten(1).abs().sum(dim=1)


def l2(shift: Tensor) -> Tensor:
    """Euclidean norm, (n,)."""
    norms: Tensor = torch.linalg.vector_norm(shift.flatten(1), dim=1)
    return norms


def linf(shift: Tensor) -> Tensor:
    """Largest absolute entry, (n,)."""
    return shift.flatten(1).abs().amax(dim=1)


def length(shift: Tensor, norm: str) -> Tensor:
    """The norm by its name, `l1`, `l2` or `linf`: (n,)."""
    return {"l1": l1, "l2": l2, "linf": linf}[norm](shift)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """View (n,) values so that they broadcast against (n, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def unit(shift: Tensor) -> Tensor:
    """Each sample divided by its l2 norm; zero where the sample is zero or not finite.

    The largest entry is divided out first, so that gradients too small to be squared in float32 keep their direction.
    """
    peak = linf(shift)
    usable = peak.isfinite() & (peak > 0)
    scaled = torch.where(per_sample(usable, shift), shift / per_sample(peak, shift), 0)
    return scaled / per_sample(torch.where(usable, l2(scaled), 1), shift)


def steepest(gradient: Tensor, norm: str) -> Tensor:
    """Step of unit length uphill, zero where the gradient is zero or not finite.

    `linf`: the sign. `l2`: the direction. `l1`: the signs of the entries of largest magnitude, `SPARSE_SHARE` of all
    and at least one, in equal parts: the sparse step of SLIDE (Tramer and Boneh, NeurIPS 2019). The steepest step
    itself has a single entry, with which an ascent would need as many steps as it has to change pixels. Departure:
    exactly that many entries are taken, there all that reach a quantile.
    """
    if norm == "l2":
        return unit(gradient)
    if norm == "l1":
        flat = gradient.flatten(1)
        top = flat.abs().topk(math.ceil(SPARSE_SHARE * flat.shape[1]), dim=1).indices
        gradient = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top)).view_as(gradient)
    signs = torch.where(per_sample(linf(gradient).isfinite(), gradient), gradient.sign(), 0)
    return signs / per_sample(l1(signs).clamp(min=1), signs) if norm == "l1" else signs


def project(shift: Tensor, norm: str, epsilon: float) -> Tensor:
    """Nearest point (l2) of the ball {norm <= epsilon}, sample by sample; norm is `l1`, `l2` or `linf`."""
    if norm == "linf":
        return shift.clamp(-epsilon, epsilon)
    if norm == "l1":
        return shrink(shift, epsilon, torch.full_like(shift, math.inf))
    return torch.where(per_sample(l2(shift) > epsilon, shift), unit(shift) * epsilon, shift)


def shrink(shift: Tensor, epsilon: float, limit: Tensor) -> Tensor:
    """Nearest point (l2) of the l1 ball, no entry of which exceeds its own limit in magnitude.

    The point is sign(s) min(max(|s| - t, 0), limit) with the smallest t >= 0 that brings the l1 norm down to epsilon.
    The norm falls piecewise linearly in t, so t is found exactly by sorting the knots. With infinite limits this is the
    projection of Duchi et al., "Efficient projections onto the l1-ball", ICML 2008; with limits, that of Croce and
    Hein, "Mind the box", ICML 2021.

    Args:
        shift: (n, ...).
        epsilon: radius of the ball.
        limit: as `shift`, not negative, may be inf.

    Returns:
        As `shift`.
    """
    size, limit = shift.flatten(1).abs(), limit.flatten(1)  # (n, d)
    knots, order = torch.cat(((size - limit).clamp(min=0), size), dim=1).sort(dim=1)
    bends = torch.cat((-torch.ones_like(size), torch.ones_like(size)), dim=1)  # an entry starts to fall, or is zero
    slopes = bends.gather(1, order).cumsum(dim=1)  # of the norm, behind each knot
    falls = (slopes[:, :-1] * knots.diff(dim=1)).cumsum(dim=1)
    start = torch.minimum(size, limit).sum(dim=1, keepdim=True)
    totals = torch.cat((start, start + falls), dim=1)  # the norm at each knot
    last = ((totals >= epsilon).sum(dim=1, keepdim=True) - 1).clamp(min=0)
    beyond = (totals.gather(1, last) - epsilon).clamp(min=0) / (-slopes.gather(1, last)).clamp(min=1)
    kept = torch.minimum((size - knots.gather(1, last) - beyond).clamp(min=0), limit)
    kept = kept * (epsilon / kept.sum(dim=1, keepdim=True).clamp(min=epsilon)) if epsilon else kept * 0  # rounding
    return kept.view_as(shift) * shift.sign()


def uniform_in_ball(shape: Sequence[int], norm: str, generator: torch.Generator) -> Tensor:
    """Uniform draws from the unit ball, one per row, float32 on the CPU: (n, ...) of that shape.

    `l1`: random signs on the first d of d + 1 exponential draws over their sum, which is uniform in the simplex.
    """
    n, entries = shape[0], math.prod(shape[1:])
    if norm == "linf":
        return 2 * torch.rand(tuple(shape), generator=generator) - 1
    normal = torch.randn(n, entries, generator=generator)
    if norm == "l2":
        return (unit(normal) * torch.rand(n, 1, generator=generator) ** (1 / entries)).view(tuple(shape))
    exponential = torch.empty(n, entries + 1).exponential_(generator=generator)
    return (normal.sign() * (exponential / exponential.sum(dim=1, keepdim=True))[:, :-1]).view(tuple(shape))
