"""A star of rays of random length, which sparkles adds to an image and inverse_sparkles leaves of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RAYS = (50, 200)  # fewest, and one more than the most
SPREAD = 0.25  # standard deviation of a ray's length, in radii
SOFT = 1e-4  # square pixels, added to the squared distance


def draw_star(generator: torch.Generator) -> Tensor:
    """Draws of one star: two for the centre, uniform on [0, 1), the number of rays, and a normal one for each ray.

    Returns:
        (3 + most rays,) float64.
    """
    centre = torch.rand(2, generator=generator, dtype=torch.float64)
    rays = torch.randint(*RAYS, (1,), generator=generator).to(torch.float64)
    return torch.cat((centre, rays, torch.randn(RAYS[1] - 1, generator=generator, dtype=torch.float64)))


def star(centre: tuple[Tensor, Tensor], rays: Tensor, lengths: Tensor, power: float, shape: tuple[int, int]) -> Tensor:
    """Brightness of a star: (length / distance)^(2 power) along a ray, a quarter less between two.

    The length is interpolated linearly between the two rays on either side of a pixel. Both the length and the
    profile are continuous from ray to ray, so rounding of the angle moves no pixel visibly.

    Args:
        centre: row and column, (n,) float64 each, in pixels.
        rays: (n,) float64, their numbers.
        lengths: (n, most rays) float64 in pixels; entries from `rays` on are not read.
        power: half the exponent of the decay.
        shape: height and width.

    Returns:
        (n, h, w) float64 in [0, 1].
    """
    down = torch.arange(shape[0], dtype=torch.float64, device=rays.device)[:, None] - centre[0][:, None, None]
    right = torch.arange(shape[1], dtype=torch.float64, device=rays.device) - centre[1][:, None, None]
    turn = (torch.atan2(right, down) + math.pi) / (2 * math.pi) * rays[:, None, None]
    below = turn.floor()
    share = turn - below
    index, count = below.to(torch.int64).flatten(1), rays.to(torch.int64)[:, None]
    length, following = (lengths.gather(1, (index + step) % count).view_as(turn) for step in (0, 1))
    length = length + share * (following - length)
    glow = length * length / (down * down + right * right + SOFT)
    if power != 1:
        glow = glow**power
    return ((1 - (share - 0.5) ** 2) * glow).clamp(0, 1)
