from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.corruptions._bar_warp import in_parts
from pipeline.corruptions._bar_warp_spline import prefilter, taps
from pipeline.corruptions._severity import constant

FAMILY = "blur"
TURNS = 21
BLOCK = 2048  # pixels for which taps are joined at a time


def circular_motion_blur(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Average 21 rotations about the centre, with weights that fall like a Gaussian; the severity is the largest angle.

    The rotations interpolate by cubic splines, and are black where they look outside the image, as in the original.

    Source: Mintun, Kirillov & Xie, NeurIPS 2021 (CIFAR-10-C-bar). For larger images: the authors' own candidates for
    224 pixels, at the ranks that CIFAR-10-C-bar takes from their list for 32. Differences to their code: the rotations
    and their average, which are linear, are joined into one sum per pixel, which is equal but for float rounding; no
    rounding down to 8 bits.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: unused: the corruption is deterministic.
        severity: 1 to 5.
        constants: `cifar` (4.2-9 degrees), `imagenet` (3.5-8.6), or `auto`: CIFAR-10-C-bar's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    level = constant(
        images, severity, constants, cifar=(2.8, 3.6, 4.4, 5.2, 6.0), imagenet=(2.35, 3.2, 4.05, 4.9, 5.75)
    )
    height, width = images.shape[-2:]
    pixels = _average(height, width, 1.5 * level)
    order = pixels.order.to(images.device)

    def corrupt(images: Tensor, _: Tensor) -> Tensor:
        # one row per pixel: what a tap reads of all images lies side by side
        lines = prefilter(images).flatten(2).flatten(0, 1).T.contiguous()
        total = torch.zeros_like(lines)
        for source, weight in zip(pixels.sources, pixels.weights, strict=True):
            total[: len(source)] += lines.index_select(0, source.to(images.device)) * weight.to(images)[:, None]
        blurred = torch.empty_like(total)
        blurred[order] = total
        return blurred.T.reshape(images.shape).clamp(0, 1)

    return in_parts(corrupt, images, images, coarse=16)


class _Sums(NamedTuple):
    """The weighted sum that each pixel is.

    Pixels in the order of falling numbers of taps; for each k, index (m,) int32 and weight (m,) float32 of the k-th tap
    of the first m pixels, which are those that have so many.
    """

    order: Tensor
    sources: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]


@functools.lru_cache(maxsize=2)
def _average(height: int, width: int, degrees: float) -> _Sums:
    """Join all taps of all rotations; a pixel near the centre reads the same few pixels in every one."""
    blocks = [torch.arange(start, min(start + BLOCK, height * width)) for start in range(0, height * width, BLOCK)]
    joined = [_join(*_taps(pixels, height, width, degrees)) for pixels in blocks]
    most = max(index.shape[1] for index, _, _ in joined)
    index, weight = (
        torch.cat([torch.nn.functional.pad(block[part], (0, most - block[part].shape[1])) for block in joined])
        for part in (0, 1)
    )
    order = torch.cat([count for _, _, count in joined]).argsort(descending=True, stable=True)
    count = torch.cat([count for _, _, count in joined])[order]
    index, weight = index[order].T, weight[order].T
    members = [int((count > tap).sum()) for tap in range(most)]
    return _Sums(
        order,
        tuple(index[tap, :m].contiguous() for tap, m in enumerate(members)),
        tuple(weight[tap, :m].contiguous() for tap, m in enumerate(members)),
    )


def _taps(pixels: Tensor, height: int, width: int, degrees: float) -> tuple[Tensor, Tensor]:
    """What the pixels read in all rotations: (m, 16 * turns) int64 and float64."""
    row, column = pixels // width - (height - 1) / 2, pixels % width - (width - 1) / 2
    share = [2 * turn / (TURNS - 1) - 1 for turn in range(TURNS)]
    factor = [math.exp(-2 * s * s) for s in share]
    indices, weights = [], []
    for turn in range(TURNS):
        angle = math.radians(share[turn] * degrees)
        rows = math.cos(angle) * row + math.sin(angle) * column + (height - 1) / 2
        columns = math.cos(angle) * column - math.sin(angle) * row + (width - 1) / 2
        inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
        row_index, row_weight = taps(rows.double().clamp(0, height - 1), height)
        column_index, column_weight = taps(columns.double().clamp(0, width - 1), width)
        weight = (row_weight[:, :, None] * column_weight[:, None]).flatten(1) * inside[:, None]
        indices.append((row_index[:, :, None] * width + column_index[:, None]).flatten(1))
        weights.append(weight * (factor[turn] / sum(factor)))
    return torch.cat(indices, 1), torch.cat(weights, 1)


def _join(index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add the weights of equal indices in each row.

    Returns:
        (m, k) int32 and float32, k being the largest number of different indices; (m,) int64, their numbers.
    """
    index, order = index.sort(dim=1, stable=True)
    place = torch.nn.functional.pad((index[:, 1:] != index[:, :-1]).long().cumsum(1), (1, 0))
    count = place[:, -1] + 1
    shape = (len(index), int(count.max()))
    sums = torch.zeros(shape, dtype=weight.dtype).scatter_add_(1, place, weight.gather(1, order))
    return torch.zeros(shape, dtype=index.dtype).scatter_(1, place, index).int(), sums.float(), count
