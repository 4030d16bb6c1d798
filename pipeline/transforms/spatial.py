"""Random smooth deformation: PRIME's spatial primitive."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

LOWEST_CUT = 2
HIGHEST_CUT = 100  # of the default rule: PRIME's own value at 32 pixels


def spatial(
    images: Tensor,
    *,
    generator: torch.Generator,
    cut_max: int | None = None,
    alpha: float = 1.0,
    displacement: float = 1.0,
) -> Tensor:
    """Deform each image by a random field of sine modes, with bilinear interpolation; the border stays in place.

    Each component of the displacement at (x, y) in [0, 1]^2 is size * sqrt(T) * sum_ij c_ij sin(pi i x) sin(pi j y) / r
    over r = sqrt(i^2 + j^2) < cut + 1/2, with c_ij ~ N(0, 1); its typical length is size * sqrt(pi T log(cut)) / 2.
    For each image C ~ U{3, ..., cut_max}; cut in {2, ..., C} and T in [T1, max(T1, alpha T2)] follow arcsine laws
    (Beta(1/2, 1/2)). T1 gives half a pixel, T2 is the largest temperature that does not fold the image.
    Sources: Petrini et al., "Relative stability toward diffeomorphisms indicates performance in deep nets", NeurIPS
    2021; Modas et al., ECCV 2022. Differences to PRIME's released code: C, cut, T and the field are drawn per image,
    there once for the whole batch; images need not be square (each component is scaled by its own side, T1 by the
    longer one); `cut_max` follows the size, there 100 for 32 pixels and 500 for 224.

    Args:
        images: (n, c, h, w) in [0, 1].
        generator: CPU generator of all draws.
        cut_max: largest cut, at least 3. None: one less than the longer side, at most 100, since on a grid of s points
            a sine of frequency s - 1 vanishes and those above repeat lower ones.
        alpha: scales T2. Where T2 is below T1 (cut above 2 size / pi) the interval is the single point T1.
        displacement: factor on the displacement, 1 in the papers; 0 is exactly the identity.

    Returns:
        (n, c, h, w) in [0, 1].

    Raises:
        ValueError: cut_max below 3.
    """
    n, _, height, width = images.shape
    size = max(height, width)
    if cut_max is None:
        cut_max = max(3, min(HIGHEST_CUT, size - 1))
    if cut_max < 3:
        raise ValueError(f"cut_max {cut_max}: expected at least 3")
    highest = torch.randint(3, cut_max + 1, (n,), generator=generator)
    cut = (LOWEST_CUT + (highest + 1 - LOWEST_CUT) * _arcsine(n, generator)).long().clamp(max=cut_max)
    cut = torch.minimum(cut, highest)  # the arcsine draw can be 1
    low, high = temperature_range(cut, size=size, alpha=alpha)
    temperature = low + (high - low) * _arcsine(n, generator)
    fields = random_fields(height, width, cut, generator=generator).to(images)
    scale = displacement * temperature.sqrt()[:, None, None, None] * torch.tensor([height, width]).view(2, 1, 1)
    return deformed(images, scale.to(images) * fields).clamp(0, 1)


def temperature_range(cut: Tensor, *, size: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Smallest and largest temperature for each cut, always a valid interval."""
    low = 1 / (math.pi * size**2 * cut.log())
    return low, torch.maximum(low, alpha * 4 / (math.pi**3 * cut**2 * cut.log()))


def random_fields(height: int, width: int, cut: Tensor, *, generator: torch.Generator) -> Tensor:
    """Displacements at temperature 1 in units of the sides: cut (n,) -> (n, 2, height, width), vertical first."""
    top = int(cut.max())
    k = torch.arange(1, top + 1)
    radius = (k[:, None] ** 2 + k**2).sqrt()
    weights = (radius < cut[:, None, None] + 0.5) / radius  # (n, top, top)
    modes = weights[:, None] * torch.randn(len(cut), 2, top, top, generator=generator)
    return _sines(height, top) @ modes @ _sines(width, top).T


def deformed(images: Tensor, displacements: Tensor) -> Tensor:
    """Take each pixel from where its displacement points, bilinearly, at the border's edge if that lies outside.

    Args:
        images: (n, c, h, w).
        displacements: (n, 2, h, w) in pixels, vertical first.
    """
    height, width = images.shape[-2:]
    y = displacements[:, 0] + torch.arange(height, device=images.device)[:, None]
    x = displacements[:, 1] + torch.arange(width, device=images.device)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)  # (n, h, w)
    top, left = y.long(), x.long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    flat = images.flatten(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = (row * width + column).flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        return flat.gather(2, index).view_as(images)

    down, along = (y - top)[:, None], (x - left)[:, None]
    above = torch.lerp(at(top, left), at(top, right), along)
    below = torch.lerp(at(bottom, left), at(bottom, right), along)
    return torch.lerp(above, below, down)


@functools.lru_cache(maxsize=32)
def _sines(size: int, frequencies: int) -> Tensor:
    """sin(pi k x) at `size` equally spaced points from 0 to 1: (size, frequencies) float32, exactly 0 at both ends."""
    k = torch.arange(1, frequencies + 1, dtype=torch.float64)
    waves = torch.sin(math.pi * k * torch.linspace(0, 1, size, dtype=torch.float64)[:, None])
    waves[0] = waves[-1] = 0
    return waves.float()


def _arcsine(n: int, generator: torch.Generator) -> Tensor:
    """Draws of the arcsine law, Beta(1/2, 1/2), by inversion: (n,)."""
    return torch.sin(math.pi / 2 * torch.rand(n, generator=generator)) ** 2
