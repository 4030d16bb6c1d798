"""The set of valid images, as a box in the pixels or behind the frequency flip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from pipeline.numerics.frequency import flip, flip_gain


class Box(NamedTuple):
    """All images with low <= x <= high, or with low <= flip(x) <= high for data whose frequencies are flipped.

    Attributes:
        low: smallest value, may be -inf.
        high: largest value, may be inf.
        flipped: whether the bounds hold for the flipped image.
    """

    low: float = 0.0
    high: float = 1.0
    flipped: bool = False

    def clip(self, images: Tensor) -> Tensor:
        """Nearest point of the box in l2, (..., h, w); `flip` is orthonormal, so clipping behind it is exact."""
        if self.flipped:  # in float64, so that what comes back is rounded once
            return flip(flip(images.double()).clamp(self.low, self.high)).to(images.dtype)
        return images.clamp(self.low, self.high)

    def excess(self, images: Tensor) -> Tensor:
        """How far the farthest pixel lies outside, 0 inside, (n,) for (n, ..., h, w); inf where an entry is not finite.

        The bounds are rounded to the dtype of the images, as `clip` rounds them: what it returns has no excess, or for
        a flipped box one of a few units of the last place.
        """
        pixels = flip(images.double()) if self.flipped else images
        outside = (pixels - pixels.clamp(self.low, self.high)).flatten(1).abs().amax(dim=1)
        return outside.masked_fill(~images.flatten(1).isfinite().all(dim=1), math.inf)

    def diameter(self, shape: Sequence[int], norm: str) -> float:
        """Largest distance of two points: a budget at which an attack can reach the whole box.

        Exact but for `l1` of a flipped box, which is bounded by sqrt(entries) times the l2 diameter (Cauchy-Schwarz).

        Args:
            shape: of an image, (..., h, w).
            norm: `l1`, `l2` or `linf`; for others the number of entries, as of `l0`.
        """
        side, entries = self.high - self.low, math.prod(shape)
        if norm == "l2":
            return side * math.sqrt(entries)
        if norm == "linf":
            return side * (flip_gain(shape[-2], shape[-1]) if self.flipped else 1)
        return side * entries if norm == "l1" else float(entries)


UNIT = Box()
