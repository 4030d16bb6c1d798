"""Images as floats."""

from __future__ import annotations

import torch
from torch import Tensor


def as_floats(images: Tensor) -> Tensor:
    """Images of a data file as float32: uint8 pixels in [0, 1], data that are floats as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
