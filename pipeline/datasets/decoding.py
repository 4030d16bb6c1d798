"""Decode image files to uint8 arrays of one size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.contracts import UserError

MODES = {1: "L", 3: "RGB"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # that are read, as Pillow names them
WIDE = ("PNG", "PPM")  # formats whose values of 16 bits Pillow may hold in 32


def check_crop(size: int | None, crop: float) -> None:
    """Raise UserError if part of each image is to be cropped, but no size says to which side."""
    if size is None and crop < 1:
        raise UserError(f"crop {crop:g} without size: set 'size', the side of the cropped images in pixels, as well")


def decode(items: Iterable[tuple[str, bytes]], channels: int, size: int | None, crop: float = 1.0) -> NDArray[Any]:
    """Decode encoded images to one (n, channels, height, width) uint8 array.

    Args:
        items: pairs of a name (for messages) and the encoded file's bytes.
        channels: 1 (luma) or 3 (RGB); how images of another mode are converted, `open_image` says.
        size: side in pixels; the shorter side is resized to size / crop (bicubic, antialiased), rounded, and the
            centre cropped. None keeps the images as they are, which must then all be of one size.
        crop: share of the resized shorter side that the centre crop keeps, above 0: 0.875 resizes to 256 for 224.

    Raises:
        UserError: a file is no readable image (see `open_image`), would be too large when resized, or the sizes differ
            and `size` is not given.
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

    The content decides which format it is, not the file's name; of `FORMATS` alone, as some of Pillow's other readers
    start programs (Ghostscript for EPS). Of an animation or a file of several pages the first image counts. Of 16 bits
    per value the upper eight are kept. Palettes and CMYK become RGB. An alpha channel is dropped: what is transparent
    gets the colour stored there. Orientation tags and colour profiles do not count.

    Raises:
        UserError: the file is no readable image, is so large that it may be a decompression bomb (over
            `PIL.Image.MAX_IMAGE_PIXELS`, or with text chunks of over a megabyte), or holds floats or whole numbers of
            32 bits, which have no known range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's name no file
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            return _eight_bits(image).convert(MODES[channels])
    except UnidentifiedImageError:
        reason = f"none of {', '.join(FORMATS)}" if content else "it is empty"
    except Exception as error:  # each of Pillow's readers has exceptions of its own for what it trips over
        reason = " ".join(str(error).split()) or type(error).__name__
    raise UserError(f"{name}: not a readable image ({reason}); remove or replace it")


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image, with the upper eight bits of values of sixteen; Pillow alone would turn all above 255 white.

    Raises:
        ValueError: values of another range.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in WIDE):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("whole numbers of 32 bits" if image.mode == "I" else "floats, not whole numbers")
    return image


def _one(name: str, content: bytes, channels: int, size: int | None, crop: float) -> NDArray[Any]:
    image = open_image(name, content, channels)
    if size is not None and (crop < 1 or image.size != (size, size)):
        short = round(size / crop)
        scale = short / min(image.size)
        width, height = (max(short, round(side * scale)) for side in image.size)
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            here = f"{image.width} x {image.height} pixels"
            raise UserError(
                f"{name}: {here} would become {width} x {height}, expected at most {Image.MAX_IMAGE_PIXELS} pixels; "
                "crop or remove it"
            )
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = ((side - size) // 2 for side in image.size)
        image = image.crop((left, top, left + size, top + size))
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)
