"""Random smooth deformation: PRIME's spatial primitive."""

from __future__ import annotations

import functools
import math
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.contracts import NonNegative, Range, UserError
from pipeline.transforms._blocks import Transform, transformed

LOWEST_CUT = 2
SMALL_SIZE = 64  # pixels: up to here mode `official` takes the released setting for CIFAR, above that for ImageNet


def spatial(
    *,
    images: Tensor,
    generator: torch.Generator,
    mode: Literal["default", "official"] = "default",
    cut_max: Annotated[int, Range(low=3)] | None = None,
    alpha: NonNegative = 1.0,
    displacement: NonNegative = 1.0,
) -> Tensor:
    """Deform each image by a random field of sine modes, with bilinear interpolation; the border stays in place.

    Each component of the displacement at (x, y) in [0, 1]^2 is size * sqrt(T) * sum_ij c_ij sin(pi i x) sin(pi j y) / r
    over r = sqrt(i^2 + j^2) < cut + 1/2, with c_ij ~ N(0, 1); its typical length is size * sqrt(pi T log(cut)) / 2.
    For each image C ~ U{3, ..., cut_max}; cut in {2, ..., C} and T in [T1, max(T1, alpha T2)] follow arcsine laws
    (Beta(1/2, 1/2)). T1 gives half a pixel, T2 is the largest temperature that does not fold the image.
    Sources: Petrini et al., "Relative stability toward diffeomorphisms indicates performance in deep nets", NeurIPS
    2021; Modas et al., ECCV 2022. Differences to PRIME's released code, of which mode `official` removes the first two:
    C, cut, T and the field are drawn per image, there once for the whole batch, with one field for all images;
    `cut_max` follows the size, there 100 for 32 pixels and 500 for 224, where a third and a fifth of the fields hold
    frequencies that the pixels cannot carry; images need not be square (each component is scaled by its own side, T1
    by the longer one); `displacement` is new.

    Args:
        images: (n, c, h, w) in [0, 1].
        generator: CPU generator of all draws.
        mode: `official` follows the released code: one field a batch, and its own `cut_max`.
        cut_max: largest cut. None: one less than the longer side (but at least 3), since on a grid of s points a sine
            of frequency s - 1 vanishes and those above repeat lower ones; in mode `official` 100 up to 64 pixels, 500
            above.
        alpha: scales T2. Where T2 is below T1 (cut above 2 size / pi) the interval is the single point T1.
        displacement: factor on the displacement, 1 in the papers; 0 is exactly the identity.

    Returns:
        (n, c, h, w) in [0, 1].

    Raises:
        UserError: cut_max below 3.
    """
    if displacement == 0:
        return images.detach().clone()
    n, _, height, width = images.shape
    transform = random_deformations(
        n, height, width, generator=generator, mode=mode, cut_max=cut_max, alpha=alpha, displacement=displacement
    )
    return transformed(images, transform, generator=generator)


def random_deformations(
    n: int,
    height: int,
    width: int,
    *,
    generator: torch.Generator,
    mode: Literal["default", "official"],
    cut_max: int | None,
    alpha: float,
    displacement: float,
) -> Transform:
    """The draws of `spatial` for n images, as a transform; sorted by the cut."""
    size = max(height, width)
    if cut_max is None:
        cut_max = max(3, size - 1) if mode == "default" else 100 if size <= SMALL_SIZE else 500
    if cut_max < 3:
        raise UserError(f"cut_max: given {cut_max}, expected at least 3")
    cut = random_cuts(1 if mode == "official" else n, cut_max, generator=generator)
    low, high = temperature_range(cut, size=size, alpha=alpha)
    temperature = low + (high - low) * _arcsine(len(cut), generator)
    scale = displacement * temperature.sqrt()[:, None] * torch.tensor([height, width])  # (n, 2), in pixels
    ends = (2 * mode_counts(cut)).cumsum(0)
    normals = torch.randn(int(ends[-1]), generator=generator)

    if mode == "official":
        with torch.autocast("cpu", enabled=False):
            field = sine_fields(height, width, cut, normals, scale, cut_max)
        return lambda images, draws: deformed(images, field.to(images).expand(len(images), -1, -1, -1))

    def transform(images: Tensor, draws: slice) -> Tensor:
        own = normals[int(ends[draws.start - 1]) if draws.start else 0 : int(ends[draws.stop - 1])]
        fields = sine_fields(height, width, cut[draws], own.to(images), scale[draws].to(images), cut_max)
        return deformed(images, fields)

    return transform


def random_cuts(n: int, cut_max: int, *, generator: torch.Generator) -> Tensor:
    """Cuts in {2, ..., cut_max}, in ascending order: (n,)."""
    highest = torch.randint(3, cut_max + 1, (n,), generator=generator)
    cut = (LOWEST_CUT + (highest + 1 - LOWEST_CUT) * _arcsine(n, generator)).long()
    return torch.minimum(cut, highest).sort().values  # the arcsine draw can be 1


def temperature_range(cut: Tensor, *, size: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Smallest and largest temperature for each cut, always a valid interval."""
    low = 1 / (math.pi * size**2 * cut.log())
    return low, torch.maximum(low, alpha * 4 / (math.pi**3 * cut**2 * cut.log()))


def mode_counts(cut: Tensor) -> Tensor:
    """Number of pairs i, j >= 1 with sqrt(i^2 + j^2) < cut + 1/2: (n,) -> (n,)."""
    squares = torch.arange(1, int(cut.max()) + 1) ** 2
    ordered = (squares[:, None] + squares).flatten().sort().values
    return torch.searchsorted(ordered, cut**2 + cut, right=True)  # (cut + 1/2)^2 lies just above the whole number


def sine_fields(height: int, width: int, cut: Tensor, normals: Tensor, scale: Tensor, cut_max: int) -> Tensor:
    """Sums of sine modes.

    Args:
        height: points from 0 to 1, vertically.
        width: points from 0 to 1, horizontally.
        cut: (n,) on the CPU.
        normals: c_ij of all modes below the cuts, image by image, vertical components first; on the device of the
            result.
        scale: (n, 2), factors on the components.
        cut_max: at least every cut.

    Returns:
        (n, 2, height, width), exactly zero on the border.
    """
    n, top = len(cut), int(cut.max())
    squares = torch.arange(1, top + 1, device=normals.device) ** 2
    squares = squares[:, None] + squares
    kept = squares <= (cut**2 + cut).to(normals.device)[:, None, None]  # (n, top, top)
    shape = (n, 2, top, top)
    modes = torch.zeros(shape, dtype=normals.dtype, device=normals.device)
    modes.masked_scatter_(kept[:, None].expand(shape), normals)
    modes *= scale[:, :, None, None] / squares.sqrt().to(normals)
    down, along = (_sines(side, cut_max, normals.dtype, normals.device)[:, :top] for side in (height, width))
    return down @ (modes.view(-1, top) @ along.T).view(n, 2, top, width)


def deformed(images: Tensor, displacements: Tensor) -> Tensor:
    """Take each pixel from where its displacement points, bilinearly, at the border's edge if that lies outside.

    Args:
        images: (n, c, h, w).
        displacements: (n, 2, h, w) in pixels, vertical first.
    """
    sides = images.shape[-2:]
    points = images.new_empty(len(images), *sides, 2)  # in [-1, 1], horizontal first
    for axis, side in enumerate(sides):
        start = torch.linspace(-1, 1, side, device=images.device, dtype=images.dtype)
        start = start[:, None] if axis == 0 else start
        torch.add(start, displacements[:, axis], alpha=2 / max(side - 1, 1), out=points[..., 1 - axis])
    return F.grid_sample(images, points, mode="bilinear", padding_mode="border", align_corners=True).clamp_(0, 1)


@functools.lru_cache(maxsize=8)
def _sines(size: int, frequencies: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """sin(pi k x) at `size` equally spaced points from 0 to 1: (size, frequencies), exactly 0 at both ends."""
    k = torch.arange(1, frequencies + 1, dtype=torch.float64)
    waves = torch.sin(math.pi * k * torch.linspace(0, 1, size, dtype=torch.float64)[:, None])
    waves[0] = waves[-1] = 0
    return waves.to(device, dtype)


def _arcsine(n: int, generator: torch.Generator) -> Tensor:
    """Draws of the arcsine law, Beta(1/2, 1/2), by inversion: (n,)."""
    return torch.sin(math.pi / 2 * torch.rand(n, generator=generator)) ** 2
