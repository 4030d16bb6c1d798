"""Random smooth change of the intensities: PRIME's colour primitive."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

POINTS_PER_FREQUENCY = 8  # of the table, on [0, 1]


def colour(
    images: Tensor,
    *,
    generator: torch.Generator,
    frequencies: int = 100,
    t_max: float = 0.01,
    bandwidth: int | None = None,
) -> Tensor:
    """Map each value v to v + sum_k c_k sin(pi k v), clipped to [0, 1], with random coefficients; 0 and 1 stay.

    For each image the highest frequency is K ~ U{1, ..., frequencies} and the variance T ~ U(0, t_max); for each image
    and channel c_k ~ N(0, T), k = 1, ..., K. Before the clip the values move by sqrt(T K / 2) (root mean square).
    Source: Modas et al., ECCV 2022. Difference to the released code: K, T and the band are drawn per image, there once
    for the whole batch.

    Args:
        images: (n, c, h, w) in [0, 1].
        generator: CPU generator of all draws.
        frequencies: largest K, at least 1.
        t_max: largest variance of a coefficient; 0 is exactly the identity.
        bandwidth: keep only the frequencies k0, ..., k0 + bandwidth - 1 up to K, with k0 ~ U{1, ..., K} for each image;
            None keeps all.

    Returns:
        (n, c, h, w) in [0, 1].
    """
    coefficients = random_coefficients(
        *images.shape[:2], generator=generator, frequencies=frequencies, t_max=t_max, bandwidth=bandwidth
    )
    return (images + shift(images, coefficients.to(images))).clamp(0, 1)


def random_coefficients(
    n: int, channels: int, *, generator: torch.Generator, frequencies: int, t_max: float, bandwidth: int | None
) -> Tensor:
    """Coefficients of `colour`, zero outside each image's band: (n, channels, frequencies) float32 on the CPU."""
    highest = torch.randint(1, frequencies + 1, (n, 1, 1), generator=generator)
    temperature = t_max * torch.rand(n, 1, 1, generator=generator)
    k = torch.arange(1, frequencies + 1)
    kept = k <= highest
    if bandwidth is not None:
        lowest = 1 + (torch.rand(n, 1, 1, generator=generator) * highest).long()
        kept &= (k >= lowest) & (k < lowest + bandwidth)
    return temperature.sqrt() * kept * torch.randn(n, channels, frequencies, generator=generator)


def shift(images: Tensor, coefficients: Tensor) -> Tensor:
    """sum_k c_k sin(pi k v) at every value v: (n, c, h, w), (n, c, K) -> (n, c, h, w).

    The function of v is tabulated once per image and channel, by one matrix product, and read with cubic Hermite
    interpolation between 8 K intervals. The interpolation misses a sine of frequency K by (pi / 8)^4 / 384 < 7e-5 of
    its amplitude at most, far below a grey level, and costs two table rows a pixel where the sum costs K sines.
    """
    points = POINTS_PER_FREQUENCY * coefficients.shape[-1]
    table = coefficients @ _basis(coefficients.shape[-1], coefficients.dtype, coefficients.device)
    value, slope = table[..., : points + 1], table[..., points + 1 :]  # each (n, c, points + 1); slope per interval
    place = images.flatten(2) * points  # (n, c, h w)
    left = place.long().clamp(0, points - 1)
    t = place - left
    value0, value1 = value.gather(-1, left), value.gather(-1, left + 1)
    slope0, slope1 = slope.gather(-1, left), slope.gather(-1, left + 1)
    rise = value1 - value0
    cubic = value0 + t * (slope0 + t * (3 * rise - 2 * slope0 - slope1 + t * (slope0 + slope1 - 2 * rise)))
    return cubic.view_as(images)


@functools.lru_cache(maxsize=8)
def _basis(frequencies: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values, then slopes per interval, of sin(pi k v) at equal steps on [0, 1]: (K, 2 (8 K + 1))."""
    points = POINTS_PER_FREQUENCY * frequencies
    k = torch.arange(1, frequencies + 1, dtype=torch.float64)[:, None]
    phase = math.pi * k * (torch.arange(points + 1, dtype=torch.float64) / points)
    # Computed in double precision: the sines at v = 1 vanish to float32, so 1 is a fixed point.
    return torch.cat((phase.sin(), math.pi * k / points * phase.cos()), dim=1).to(device, dtype)
