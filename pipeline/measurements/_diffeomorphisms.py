"""Random smooth deformations of a given typical size, drawn for each sample on its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.numerics.randomness import normal
from pipeline.transforms.spatial import deformed, mode_counts, sine_fields


def temperature(displacement: float, cut: int) -> float:
    """Temperature at which fields of this cut have a typical displacement, in shares of the side.

    Inverts size * sqrt(pi T log(cut)) / 2 of Petrini, Favero, Geiger, Wyart, "Relative stability toward diffeomorphisms
    indicates performance in deep nets", NeurIPS 2021. It is asymptotic in the cut, and for the centre of the image: the
    root mean square of the length over a finely sampled image is 0.91 of it for cut 2, 0.84 for 3 and 0.86 for 5.
    """
    return 4 * displacement**2 / (math.pi * math.log(cut))


def largest(cut: int) -> float:
    """Typical displacement, in shares of the side, above which the fields of this cut tend to fold the image."""
    return 1 / (math.pi * cut)


def fields(seeds: Tensor, draws: int, height: int, width: int, *, cut: int) -> Tensor:
    """Fields whose typical displacement is the whole side, to be scaled down: the sine modes of PRIME's primitive.

    Args:
        seeds: (n,) int64.
        draws: fields of each sample.
        height: of the images.
        width: of the images.
        cut: largest frequency, at least 2.

    Returns:
        (n, draws, 2, h, w) float64 on the CPU, in pixels, vertical first; zero on the border.
    """
    count = len(seeds) * draws
    cuts = torch.full((count,), cut)
    normals = normal(seeds, (draws, 2 * int(mode_counts(cuts[:1])))).double().flatten()
    sides = torch.tensor([height, width], dtype=torch.float64)
    scale = math.sqrt(temperature(1, cut)) * sides.expand(count, 2)
    return sine_fields(height, width, cuts, normals, scale, cut).view(len(seeds), draws, 2, height, width)


def deform(images: Tensor, displacements: Tensor) -> Tensor:
    """Images (n, c, h, w) with values in [0, 1], deformed by fields (n, 2, h, w) of displacements in pixels."""
    return deformed(images.double(), displacements.to(images.device)).to(images.dtype)
