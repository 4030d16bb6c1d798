from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._bar_warp import in_parts, side
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import per_sample

FAMILY = "noise"
PERIOD = 256  # cells of the lattice; the finest octave of a square spans 112 of them
CELLS = 7  # of the coarsest octave along a side: one per 32 pixels at 224
OCTAVES = (1, 2, 4, 8, 16)


def perlin_noise(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Mix the image with grey clouds: Perlin's turbulence, the sum of |gradient noise| over five octaves.

    With the turbulence t >= 0 and a share a: (1 - a) image + a min(1, (t + 1) / 2), so the image also gets brighter.

    Source: Mintun, Kirillov & Xie, NeurIPS 2021; in ImageNet-C-bar. The noise: Perlin, "An image synthesizer", SIGGRAPH
    1985. CIFAR-10-C-bar leaves it out; the authors' ten candidate severities are the same for 32 and 224 pixels, and so
    are `cifar` and `imagenet`. The coarsest cell is a seventh of the side (of an image not square, sqrt(h w)); at small
    sizes the fine octaves have several cells per pixel, and vanish where all pixels fall on the lattice (at 8 pixels
    the finest two).

    Departures: a gradient has the direction of a uniform point of a square, which their code rounds to 512 x 512
    places, of which one gives no direction but NaN (in 0.1 % of the images); and their shuffle of the lattice swaps
    each entry with any other one, which is not quite uniform; ours is.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one stream of lattices per image.
        severity: 1 to 5.
        constants: no difference (share .23-.44).

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    published = (4.6, 5.2, 5.8, 7.6, 8.8)
    share = 0.05 * constant(images, severity, constants, cifar=published, imagenet=published)
    height, width = images.shape[-2:]

    def clouds(part: Tensor, lattices: Tensor) -> Tensor:
        turbulence = torch.zeros((len(part), height, width), device=part.device)
        for octave in OCTAVES:
            turbulence += _noise(lattices, height, width, octave * CELLS / side(images)).abs_() / octave
        grey = (0.5 * turbulence + 0.5).clamp_(max=1)[:, None]
        return ((1 - share) * part + share * grey).clamp_(0, 1)

    return in_parts(clouds, images, per_sample(_lattice, seeds).to(images.device))


def _lattice(_: int, generator: torch.Generator) -> Tensor:
    """A sequence of unit gradients (down, across), and where in it each row of the lattice starts: (256, 3) float32."""
    gradients = 2 * torch.rand((PERIOD, 2), generator=generator) - 1
    starts = torch.randperm(PERIOD, generator=generator)
    return torch.cat((gradients / gradients.norm(dim=1, keepdim=True), starts[:, None]), 1)


def _noise(lattices: Tensor, height: int, width: int, step: float) -> Tensor:
    """Gradient noise at pixels that are `step` cells apart: (n, h, w) float32.

    Around each lattice point the noise is the gradient's linear function; the four of a cell are blended by smooth
    weights. The weights are products over the axes, so the blend goes across first, for whole rows of the lattice.
    """
    rows, (row, below), row_weights, row_slopes = _blend(height, step, lattices.device)
    columns, (column, right), weights, slopes = _blend(width, step, lattices.device)
    place = (lattices[:, rows % PERIOD, 2, None].long() + columns) % PERIOD
    down, across = (lattices[..., axis].gather(1, place.flatten(1)).view(place.shape) for axis in (0, 1))
    down = down.index_select(2, column) * weights[0] + down.index_select(2, right) * weights[1]  # (n, k, w)
    across = across.index_select(2, column) * slopes[0] + across.index_select(2, right) * slopes[1]
    blend = torch.zeros((len(lattices), height, width), device=lattices.device)
    for corner, weight, slope in zip((row, below), row_weights[..., None], row_slopes[..., None], strict=True):
        blend += down.index_select(1, corner) * slope
        blend += across.index_select(1, corner) * weight
    return 1.5 * blend


def _blend(size: int, step: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Along one axis: the lattice points that the pixels need; of each pixel its two, their weights, weights * offset.

    Returns:
        Lattice points (k,) int64; places among them (2, size) int64; weights and slopes (2, size) float32.
    """
    place = torch.arange(size, dtype=torch.float64) * step
    before = place.floor()
    offset = place - before
    smooth = offset**2 * (3 - 2 * offset)
    weights = torch.stack((1 - smooth, smooth))
    slopes = weights * torch.stack((offset, offset - 1))
    points, index = torch.unique(torch.stack((before, before + 1)).long(), return_inverse=True)
    return points.to(device), index.to(device), weights.float().to(device), slopes.float().to(device)
