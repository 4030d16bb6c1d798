from __future__ import annotations

from typing import Literal

from torch import Tensor

from pipeline.corruptions._filters import blur
from pipeline.corruptions._severity import constant

FAMILY = "blur"


def gaussian_blur(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Blur with a Gaussian of standard deviation sigma pixels, cut at four sigma; the edge pixel is repeated outside.

    Source: Hendrycks & Dietterich, ICLR 2019 (an extra corruption there); kernel and border are scikit-image's, which
    made the published archives. Difference to it: sums are in single precision (a thousandth of a grey level at most).

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: unused: the corruption is deterministic.
        severity: 1 to 5.
        constants: `cifar` (sigma .4-1), `imagenet` (1-6), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    sigma = constant(images, severity, constants, cifar=(0.4, 0.6, 0.7, 0.8, 1.0), imagenet=(1.0, 2.0, 3.0, 4.0, 6.0))
    return blur(images, sigma).clamp_(0, 1)
