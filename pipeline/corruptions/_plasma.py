"""Plasma fractals: random heights that are rough at every scale."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.numerics.randomness import uniform

PIECE = 2**18  # heights worked on at once, so that they stay in the processor's cache


def heights(seeds: Tensor, size: int, decay: float) -> Tensor:
    """Diamond-square maps on a torus, each stretched to [0, 1].

    From a coarse grid with one known height, every pass halves the grid's step: a square's centre becomes the mean of
    its four corners plus a uniform draw (the square step), then the middle of each side the mean of its four neighbours
    plus a draw (the diamond step). The draws shrink with the step.

    Source: Fournier, Fussell & Carpenter, "Computer rendering of stochastic models", CACM 1982.

    Args:
        seeds: (n,) int64, one map per seed.
        size: side of the map, a power of two from 2 up.
        decay: the amplitude of the draws falls by decay^2 from one pass to the next (the decay applies twice in
            Hendrycks & Dietterich's code, ICLR 2019, whose constants suppose it).

    Returns:
        (n, size, size) float32 on the CPU, smallest height 0 and largest 1.
    """
    count = max(1, PIECE // size**2)
    return torch.cat([_heights(seeds[row : row + count], size, decay) for row in range(0, len(seeds), count)])


def _heights(seeds: Tensor, size: int, decay: float) -> Tensor:
    draws = uniform(seeds, (size * size - 1,)).mul_(2).sub_(1)
    maps = torch.zeros(len(seeds), size, size)
    step, amplitude, used = size, 1.0, 0
    while step >= 2:
        count, half = size // step, step // 2
        wobbles = draws[:, used : used + 3 * count * count].view(-1, 3, count, count) * amplitude
        corners = maps[:, ::step, ::step]
        below = corners + corners.roll(-1, 1)
        centres = (below + below.roll(-1, 2)) / 4 + wobbles[:, 0]
        maps[:, half::step, half::step] = centres
        above_and_below, left_and_right = centres + centres.roll(1, 1), corners + corners.roll(-1, 2)
        maps[:, ::step, half::step] = (above_and_below + left_and_right) / 4 + wobbles[:, 1]
        left_and_right, above_and_below = centres + centres.roll(1, 2), corners + corners.roll(-1, 1)
        maps[:, half::step, ::step] = (left_and_right + above_and_below) / 4 + wobbles[:, 2]
        step, amplitude, used = half, amplitude / decay**2, used + 3 * count * count
    maps -= maps.amin((1, 2), keepdim=True)
    return maps.div_(maps.amax((1, 2), keepdim=True))
