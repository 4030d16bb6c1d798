"""Which points of a class the measurements of its region join, and the space in which they do so."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.numerics.box import Box
from pipeline.numerics.frequency import flip
from pipeline.numerics.randomness import uniform


class Space(NamedTuple):
    """Where paths are looked for: behind the frequency flip if the data are flipped, else in the data's own space.

    The flip keeps lengths and straight lines, and behind it the box is an interval for each entry.

    Attributes:
        model: images there to logits.
        put: maps images of the data there.
        box: of valid images there.
    """

    model: nn.Module
    put: Callable[[Tensor], Tensor]
    box: Box


class _BehindTheFlip(nn.Module):
    """A classifier of flipped images as one of pixels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(flip(pixels))
        return logits


def space_of(model: nn.Module, box: Box) -> Space:
    """Space of a data set with that box."""
    if box.flipped:
        return Space(_BehindTheFlip(model), flip, Box(box.low, box.high))
    return Space(model, lambda images: images, box)


def walls(box: Box, boxed: bool) -> Box:
    """The box, or none."""
    return box if boxed else Box(-math.inf, math.inf)


def groups(predictions: Tensor, seeds: Tensor, size: int) -> Tensor:
    """Disjoint groups of samples of one predicted class, (g, size) int64, in the order of their first members.

    Within a class samples follow each other in the order of their seeds, which are drawn from the samples' ids: who
    comes together is random and does not depend on the order of the samples. What is left over in a class is dropped.
    """
    order = seeds.to(predictions.device).argsort(stable=True)
    order = order[predictions[order].argsort(stable=True)]
    sizes = predictions.bincount()
    place = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[predictions[order]]
    found = order[place < (sizes // size * size)[predictions[order]]].view(-1, size)
    return found[found[:, 0].argsort()]


def following(seeds: Tensor, heads: int, allowed: Callable[[int], Tensor]) -> Tensor:
    """For each of the first `heads` samples the next one that is allowed, in the order of the seeds, (heads,) int64.

    Args:
        seeds: (n,) int64.
        heads: number of samples that look for another.
        allowed: maps a sample to (n,) bool.

    Returns:
        The other sample; -1 where none is allowed.
    """
    order = seeds.cpu().argsort(stable=True)
    rank = order.argsort()
    found = []
    for head in range(heads):
        after = order.roll(-int(rank[head]) - 1)
        fit = allowed(head).cpu()[after]
        found.append(int(after[fit.int().argmax()]) if fit.any() else -1)
    return torch.tensor(found, dtype=torch.int64)


def noise(seeds: Tensor, repeats: int, images: Tensor, box: Box) -> Tensor:
    """Uniform noise in the box, or between the extremes of the images where it has no bounds, (n, repeats, c, h, w)."""
    low = box.low if math.isfinite(box.low) else float(images.min())
    high = box.high if math.isfinite(box.high) else float(images.max())
    return low + (high - low) * uniform(seeds, (repeats, *images.shape[1:])).to(images)
