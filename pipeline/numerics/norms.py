"""Sizes of perturbations, one value per sample, and projections onto lp balls."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Unit step of steepest ascent: sign for `linf`, direction for `l2`; zero where the gradient is not finite."""
    if norm == "linf":
        return torch.where(per_sample(linf(gradient).isfinite(), gradient), gradient.sign(), 0)
    return unit(gradient)


def project(shift: Tensor, norm: str, epsilon: float) -> Tensor:
    """Nearest point of the ball {norm <= epsilon}, sample by sample; norm is `l2` or `linf`."""
    if norm == "linf":
        return shift.clamp(-epsilon, epsilon)
    length = l2(shift)
    return torch.where(per_sample(length > epsilon, shift), unit(shift) * epsilon, shift)
