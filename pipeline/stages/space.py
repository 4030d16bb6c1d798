"""The space of a data set: the map from the images in its files to what classifiers see, and the valid set there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from pipeline.numerics.box import Box
from pipeline.numerics.frequency import mapping, pass_range


class Space(NamedTuple):
    """Where classifiers and attacks work.

    Attributes:
        map: images as floats (..., h, w) to the same shape: the frequency map of the data set, which can take pixels
            out of [0, 1], or the identity.
        box: the valid images behind the map.
    """

    map: Callable[[Tensor], Tensor]
    box: Box


def space(meta: Mapping[str, Any], shape: Sequence[int]) -> Space:
    """Space of a file that prepare wrote.

    The box of flipped data is exact: the map of the source's box. That of low-passed and high-passed data is the
    smallest interval that holds every mapped image, so it also holds images that no valid image is mapped to. Data
    without bounds have none behind the map either.

    Args:
        meta: the file's metadata: `box` and `frequency`.
        shape: of its images, (..., h, w).
    """
    least, most = meta["box"]
    low, high = -math.inf if least is None else least, math.inf if most is None else most
    frequency = meta["frequency"]
    if frequency is None:
        return Space(_same, Box(low, high))
    return Space(mapping(frequency), _box(frequency, low, high, shape))


def _box(frequency: Mapping[str, Any], low: float, high: float, shape: Sequence[int]) -> Box:
    bounded, side = math.isfinite(low) or math.isfinite(high), high - low
    if frequency["map"] == "flip":
        return Box(low, high, flipped=bounded)
    if math.isinf(side):
        return Box(-math.inf, math.inf)
    high_pass = frequency["map"] == "high_pass"
    least, most = pass_range(shape[-2], shape[-1], frequency["bandwidth"], high=high_pass)
    base = 0 if high_pass else low  # what becomes of the image that is constant at the lower bound
    return Box(base + side * least, base + side * most)


def _same(images: Tensor) -> Tensor:
    return images
