"""PRIME as its paper reads, one image, one mode and one frequency at a time: the plain text that ours is compared with.

The laws are those of `pipeline.transforms.prime` in its default mode; nothing is shared with it. All three primitives
are computed at each step, and the one that was drawn is kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def naive_spectral(image: Tensor, generator: torch.Generator, *, sigma_max: float = 4.0) -> Tensor:
    """Filter an image (c, h, w) with a random 3 x 3 kernel."""
    sigma = sigma_max * torch.rand((), generator=generator)
    kernel = sigma * torch.randn(3, 3, generator=generator)
    kernel[1, 1] += 1
    return F.conv2d(image[:, None], kernel[None, None], padding=1)[:, 0].clamp(0, 1)


def naive_spatial(image: Tensor, generator: torch.Generator, *, cut_max: int | None = None) -> Tensor:
    """Deform an image (c, h, w) by a sum of sine modes."""
    height, width = image.shape[-2:]
    size = max(height, width)
    limit = max(3, size - 1) if cut_max is None else cut_max
    highest = int(torch.randint(3, limit + 1, (), generator=generator))
    cut = min(highest, int(2 + (highest - 1) * arcsine(generator)))
    low = 1 / (math.pi * size**2 * math.log(cut))
    high = max(low, 4 / (math.pi**3 * cut**2 * math.log(cut)))
    temperature = low + (high - low) * arcsine(generator)
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    down, along = torch.zeros(height, width), torch.zeros(height, width)
    for i in range(1, cut + 1):
        for j in range(1, cut + 1):
            radius = math.hypot(i, j)
            if radius < cut + 0.5:
                mode = torch.sin(math.pi * i * y) * torch.sin(math.pi * j * x) / radius
                coefficients = torch.randn(2, generator=generator)
                down += coefficients[0] * mode
                along += coefficients[1] * mode
    # In units of the sides a displacement by a whole side is `side` pixels; grid_sample's side has length 2.
    points_y = 2 * (y + math.sqrt(temperature) * down * height / (height - 1)) - 1
    points_x = 2 * (x + math.sqrt(temperature) * along * width / (width - 1)) - 1
    points = torch.stack((points_x, points_y), dim=-1)[None]
    return F.grid_sample(image[None], points, padding_mode="border", align_corners=True)[0].clamp(0, 1)


def naive_colour(
    image: Tensor,
    generator: torch.Generator,
    *,
    frequencies: int = 100,
    t_max: float = 0.01,
    bandwidth: int | None = None,
) -> Tensor:
    """Add random sines of the intensity to each channel of an image (c, h, w)."""
    last = int(torch.randint(1, frequencies + 1, (), generator=generator))
    first = 1
    if bandwidth is not None:
        first = int(torch.randint(1, last + 1, (), generator=generator))
        last = min(last, first + bandwidth - 1)
    deviation = (t_max * torch.rand((), generator=generator)).sqrt()
    out = image.clone()
    for channel in range(len(image)):
        for k in range(first, last + 1):
            coefficient = deviation * torch.randn((), generator=generator)
            out[channel] += coefficient * torch.sin(math.pi * k * image[channel])
    return out.clamp(0, 1)


def naive_prime(
    images: Tensor,
    generator: torch.Generator,
    *,
    width: int = 3,
    depth: int = 3,
    sigma_max: float = 4.0,
    cut_max: int | None = None,
    frequencies: int = 100,
    t_max: float = 0.01,
    bandwidth: int | None = None,
) -> Tensor:
    """Augment images (n, c, h, w) in [0, 1], one after the other."""
    augmented = []
    for image in images:
        shares = -torch.rand(width + 1, generator=generator).log()
        weights = shares / shares.sum()  # Dirichlet(1, ..., 1)
        out = weights[0] * image
        for chain in range(width):
            x = image
            for _ in range(depth):
                candidates = (
                    x,
                    naive_spectral(x, generator, sigma_max=sigma_max),
                    naive_spatial(x, generator, cut_max=cut_max),
                    naive_colour(x, generator, frequencies=frequencies, t_max=t_max, bandwidth=bandwidth),
                )
                x = candidates[int(torch.randint(len(candidates), (), generator=generator))]
            out = out + weights[1 + chain] * x
        augmented.append(out)
    return torch.stack(augmented)


def arcsine(generator: torch.Generator) -> float:
    """A draw of Beta(1/2, 1/2)."""
    return float(torch.sin(math.pi / 2 * torch.rand((), generator=generator)) ** 2)
