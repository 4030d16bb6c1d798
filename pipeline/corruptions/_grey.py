"""Grey value of colours."""

from __future__ import annotations

from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # red, green, blue: ITU-R BT.601, as in OpenCV and Pillow


def grey(images: Tensor) -> Tensor:
    """Brightness of each pixel as (n, 1, h, w): the weighted mean of red, green and blue; one channel is itself."""
    if images.shape[1] == 1:
        return images
    return LUMA[0] * images[:, :1] + LUMA[1] * images[:, 1:2] + LUMA[2] * images[:, 2:]
