from __future__ import annotations

from io import BytesIO
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.corruptions._severity import constant

FAMILY = "digital"


def jpeg_compression(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Write each image as a JPEG file of low quality and read it again.

    Pillow codes and decodes, as in the original: 8 bits, colour (not brightness) at half the resolution, the standard
    tables scaled by the quality. The entries are rounded to 8 bits first, since a JPEG file has no others; a published
    image has 8 bits already. An image of one channel is coded as brightness alone; the original codes it as a grey
    colour image, which gives the same levels. The last bit may depend on the JPEG library that Pillow was built with.

    Source: Hendrycks & Dietterich, ICLR 2019. No other departure.

    Args:
        images: (n, c, h, w) float32 in [0, 1]; c is 1 or 3.
        seeds: unused: the corruption is deterministic.
        severity: 1 to 5.
        constants: `cifar` (quality 80-40), `imagenet` (25-7), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1], whole grey levels.
    """
    quality = constant(images, severity, constants, cifar=(80, 65, 58, 50, 40), imagenet=(25, 18, 15, 10, 7))
    levels = images.clamp(0, 1).mul_(255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    decoded = np.empty_like(levels)
    for picture, out in zip(levels, decoded, strict=True):
        file = BytesIO()
        Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(file, "JPEG", quality=quality)
        with Image.open(file) as compressed:
            out[...] = np.asarray(compressed).reshape(out.shape)
    return torch.from_numpy(decoded).permute(0, 3, 1, 2).contiguous().to(images).div_(255)
