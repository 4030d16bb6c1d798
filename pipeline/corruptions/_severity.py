"""Which published constant a corruption uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from torch import Tensor

Constants = Literal["auto", "cifar", "imagenet"]
Value = TypeVar("Value")

SMALL_IMAGE = 64  # pixels on the longer side: up to here CIFAR-C's constants, above it ImageNet-C's


def constant(
    images: Tensor, severity: int, constants: Constants, *, cifar: Sequence[Value], imagenet: Sequence[Value]
) -> Value:
    """The constant of a severity, out of the two published lists of Hendrycks & Dietterich (ICLR 2019).

    ImageNet-C's constants suit 224 pixels; on small images they destroy the object, so CIFAR-C has its own list.

    Args:
        images: (n, c, h, w); only the size is read.
        severity: 1 (mild) to 5 (strong).
        constants: `cifar`, `imagenet`, or `auto`: CIFAR-C's if the longer side has at most 64 pixels.
        cifar: CIFAR-C's five constants.
        imagenet: ImageNet-C's five constants.

    Raises:
        ValueError: severity outside 1-5.
    """
    if not 1 <= severity <= 5:
        raise ValueError(f"severity {severity}: expected 1 to 5")
    small = constants == "cifar" or (constants == "auto" and max(images.shape[-2:]) <= SMALL_IMAGE)
    return (cifar if small else imagenet)[severity - 1]
