"""Decode image files to uint8 arrays of one size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.contracts import UserError

MODES = {1: "L", 3: "RGB"}


def check_crop(size: int | None, crop: float) -> None:
    """Raise UserError if part of each image is to be cropped, but no size says to which side."""
    if size is None and crop < 1:
        raise UserError(f"crop {crop:g} without size: set 'size', the side of the cropped images in pixels, as well")


def decode(items: Iterable[tuple[str, bytes]], channels: int, size: int | None, crop: float = 1.0) -> NDArray[Any]:
    """Decode encoded images to one (n, channels, height, width) uint8 array.

    Args:
        items: pairs of a name (for messages) and the encoded file's bytes.
        channels: 1 (luma) or 3 (RGB); images of another mode are converted by Pillow.
        size: side in pixels; the shorter side is resized to size / crop (bicubic, antialiased), rounded, and the
            centre cropped. None keeps the images as they are, which must then all be of one size.
        crop: share of the resized shorter side that the centre crop keeps, above 0: 0.875 resizes to 256 for 224.

    Raises:
        UserError: a file is no readable image, or the sizes differ and `size` is not given.
    """
    arrays: list[NDArray[Any]] = []
    for name, content in items:
        array = _one(name, content, channels, size, crop)
        if arrays and array.shape != arrays[0].shape:
            here, first = (f"{a.shape[2]} x {a.shape[1]}" for a in (array, arrays[0]))
            raise UserError(
                f"{name}: {here} pixels, the images before it {first}; set the data set's 'size' to resize them"
            )
        arrays.append(array)
    if not arrays:
        raise UserError("no image to decode: the split is empty")
    return np.stack(arrays)


def open_image(name: str, content: bytes, channels: int) -> Image.Image:
    """Decode one image to Pillow's mode of 1 (luma) or 3 (RGB) channels.

    Raises:
        UserError: the file is no readable image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content)).convert(MODES[channels])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{name}: not a readable image ({error}); remove or replace it") from None


def _one(name: str, content: bytes, channels: int, size: int | None, crop: float) -> NDArray[Any]:
    image = open_image(name, content, channels)
    if size is not None and (crop < 1 or image.size != (size, size)):
        short = round(size / crop)
        scale = short / min(image.size)
        width, height = (max(short, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = ((side - size) // 2 for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)
