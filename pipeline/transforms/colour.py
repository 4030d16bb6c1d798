"""Random smooth change of the intensities: PRIME's colour primitive."""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor

from pipeline.contracts import Count, NonNegative
from pipeline.transforms._blocks import Transform, transformed

POINTS_PER_FREQUENCY = 16  # of the table, on [0, 1]


def colour(
    *,
    images: Tensor,
    generator: torch.Generator,
    mode: Literal["default", "official"] = "default",
    frequencies: Count = 100,
    t_max: NonNegative = 0.01,
    bandwidth: Count | None = None,
) -> Tensor:
    """Map each value v to v + sum_k c_k sin(pi k v), clipped to [0, 1], with random coefficients; 0 and 1 stay.

    For each image the highest frequency is K ~ U{1, ..., frequencies} and the variance T ~ U(0, t_max); for each image
    and channel c_k ~ N(0, T), k = 1, ..., K. Before the clip the values move by sqrt(T K / 2) (root mean square).
    Source: Modas et al., ECCV 2022. Differences to the released code: K, T and the band are drawn per image, there once
    for the whole batch (mode `official` does so too); and the sum is read from a table, see `shift`.

    Args:
        images: (n, c, h, w) in [0, 1].
        generator: CPU generator of all draws.
        mode: `official` follows the released code: one K, T and band a batch.
        frequencies: largest K.
        t_max: largest variance of a coefficient; 0 is exactly the identity.
        bandwidth: keep only the frequencies k0, ..., k0 + bandwidth - 1 up to K, with k0 ~ U{1, ..., K} for each image;
            None keeps all.

    Returns:
        (n, c, h, w) in [0, 1].
    """
    n, channels = images.shape[:2]
    transform = random_curves(
        n, channels, generator=generator, mode=mode, frequencies=frequencies, t_max=t_max, bandwidth=bandwidth
    )
    return transformed(images, transform, generator=generator)


def random_curves(
    n: int,
    channels: int,
    *,
    generator: torch.Generator,
    mode: Literal["default", "official"],
    frequencies: int,
    t_max: float,
    bandwidth: int | None,
) -> Transform:
    """The draws of `colour` for n images, as a transform; sorted by the highest frequency."""
    shared = 1 if mode == "official" else n
    first, last = random_bands(shared, generator=generator, frequencies=frequencies, bandwidth=bandwidth)
    deviation = (t_max * torch.rand(shared, 1, 1, generator=generator)).sqrt()
    k = torch.arange(1, frequencies + 1)
    inside = (k >= first[:, None, None]) & (k <= last[:, None, None])
    coefficients = deviation * inside * torch.randn(n, channels, frequencies, generator=generator)
    first, last = first.expand(n), last.expand(n)

    def transform(images: Tensor, draws: slice) -> Tensor:
        band = slice(int(first[draws].min()) - 1, int(last[draws].max()))
        return shift(images, coefficients[draws].to(images), band).add_(images).clamp_(0, 1)

    return transform


def random_bands(
    n: int, *, generator: torch.Generator, frequencies: int, bandwidth: int | None
) -> tuple[Tensor, Tensor]:
    """First and last frequency of each band, in ascending order of the last: (n,), (n,)."""
    last = torch.randint(1, frequencies + 1, (n,), generator=generator)
    first = torch.ones_like(last)
    if bandwidth is not None:
        first = 1 + (torch.rand(n, generator=generator) * last).long()
        last = torch.minimum(last, first + bandwidth - 1)
    last, order = last.sort()
    return first[order], last


def shift(images: Tensor, coefficients: Tensor, band: slice) -> Tensor:
    """sum_k c_k sin(pi k v) at every value v: (n, c, h, w), (n, c, K) -> (n, c, h, w).

    The function of v is tabulated once per image and channel, by one matrix product, and read with linear interpolation
    between 16 K intervals. In an interval of length d that misses a sine of frequency k by (pi k d)^2 / 8 of its
    amplitude at most (half the largest second derivative times the largest (v - a)(b - v) = d^2 / 4), here by 0.0049.
    The coefficients are independent, so the errors of a sum add up in quadrature: at the largest K and T root mean
    squares of 0.3 (PRIME's setting for CIFAR) and 0.6 grey levels of 255 (ImageNet's), 0.4 % of what the values move.
    It costs two table entries a value, the sum K sines.

    Args:
        images: (n, c, h, w) in [0, 1].
        coefficients: (n, c, K).
        band: of the K coefficients, all that are not zero.
    """
    frequencies = coefficients.shape[-1]
    points = POINTS_PER_FREQUENCY * frequencies
    basis = _basis(frequencies, coefficients.dtype, coefficients.device)
    table = coefficients[..., band] @ basis[band]  # (n, c, points + 2)
    place = images.flatten(2) * points  # (n, c, h w)
    left = place.long()
    value = table.gather(-1, left)
    return value.lerp_(table.gather(-1, left.add_(1)), place.frac_()).view_as(images)


@functools.lru_cache(maxsize=4)
def _basis(frequencies: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """sin(pi k v) at equal steps on [0, 1], and one step further for the reading at 1: (K, 16 K + 2)."""
    points = POINTS_PER_FREQUENCY * frequencies
    k = torch.arange(1, frequencies + 1, dtype=torch.float64)[:, None]
    waves = torch.sin(math.pi * k * (torch.arange(points + 2, dtype=torch.float64) / points))
    waves[:, -2] = 0  # rounding left about 1e-13: 1 is a fixed point
    return waves.to(device, dtype)
