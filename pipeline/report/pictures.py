"""Rows of the gallery table as pictures that a page holds in itself."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

UNIT = (0.0, 1.0)
DIVERGING = "RdBu_r"
QUALITY = 80  # of WebP, from 0 to 100
ROUNDING = 1e-3  # of the range; by as much pixels may leave it, and a change fill more than half of it
Row = Mapping[Any, Any]


class Picture(NamedTuple):
    """Addresses (`data:image/png;base64,...`) of files of the image's own size.

    Attributes:
        clean: the clean image.
        perturbed: the perturbed image.
        difference: perturbed minus clean, magnified: of grey images in diverging colours (red: larger, blue: smaller),
            of others added to mid-grey.
    """

    clean: str
    perturbed: str
    difference: str


def pictures(
    row: Row, *, limits: tuple[float, float] | None = None, factor: float | None = None, lossy: bool = False
) -> Picture:
    """The pictures of one row. Equal rows give equal bytes.

    Args:
        row: of the gallery table.
        limits: values shown as black and as white; without them the row's own `extent`.
        factor: by which the difference is magnified; without it the row's own `magnification`.
        lossy: WebP files where they are smaller than PNG files: a tenth, for photographs of some size. A small
            perturbation does not outlive that in `perturbed`; in `difference`, magnified before, it does.
    """
    low, high = limits or extent([row])
    factor = factor or magnification([row])
    clean, perturbed = image(row, "clean"), image(row, "perturbed")
    change = np.nan_to_num(0.5 + factor * (perturbed - clean), nan=0.5)
    if change.shape[2] == 1:
        change = mpl.colormaps[DIVERGING](np.clip(change[..., 0], 0, 1))[..., :3]
    scaled = [(np.nan_to_num(pixels, nan=low) - low) / (high - low) for pixels in (clean, perturbed)]
    return Picture(*(_address(pixels, lossy) for pixels in (*scaled, change)))


def image(row: Row, column: str) -> NDArray[Any]:
    """(height, width, channels) float32: the column `clean` or `perturbed` of a row of the gallery table."""
    pixels = np.frombuffer(row[column], dtype="<f4").reshape(row["channels"], row["height"], row["width"])
    return pixels.transpose(1, 2, 0)


def extent(rows: Iterable[Row]) -> tuple[float, float]:
    """Values to show as black and as white: 0 and 1, or the extremes of data, such as flipped ones, beyond them."""
    low, high = UNIT
    for row in rows:
        for column in ("clean", "perturbed"):
            pixels = image(row, column)
            pixels = pixels[np.isfinite(pixels)]
            low, high = min(low, float(pixels.min(initial=low))), max(high, float(pixels.max(initial=high)))
    return (0.0 if low > -ROUNDING else low, 1.0 if high < 1 + ROUNDING else high)


def magnification(rows: Iterable[Row]) -> float:
    """Factor, with one leading digit, by which the largest change of any row fills half the range of pixels."""
    largest = 0.0
    for row in rows:
        change = np.abs(image(row, "perturbed") - image(row, "clean"))
        largest = max(largest, float(change[np.isfinite(change)].max(initial=0)))
    if largest == 0:
        return 1.0
    ratio = 0.5 / largest * (1 + ROUNDING)
    scale = 10.0 ** math.floor(math.log10(ratio))
    return float(f"{math.floor(ratio / scale) * scale:.0e}")


def norms(row: Row) -> dict[str, float]:
    """Of a row's perturbation, by the columns of the perturbation table, in its units."""
    change = (image(row, "perturbed") - image(row, "clean")).astype(float)
    return {
        "l0_pixels": int((change != 0).any(axis=2).sum()),
        "l0_entries": int((change != 0).sum()),
        "l1": float(np.abs(change).sum()),
        "l2": math.sqrt(float((change**2).sum())),
        "linf": float(np.abs(change).max()),
    }


def scaling(factor: float) -> str:
    """A factor in words."""
    if factor == 1:
        return "not magnified"
    return f"magnified {factor:g} times" if factor > 1 else f"scaled by {factor:g}"


def shades(limits: tuple[float, float]) -> str:
    """An extent in words."""
    return "black is {:.2f}, white {:.2f}".format(*limits).replace("-", "−")


def _address(pixels: NDArray[Any], lossy: bool) -> str:
    """A picture of (height, width, channels) values, of which those from 0 to 1 are shown."""
    entries = (255 * np.clip(pixels, 0, 1)).round().astype(np.uint8)
    # of other numbers of channels than grey's and RGB's there is no picture: their mean stands for them
    if entries.shape[2] not in (1, 3):
        entries = entries.mean(axis=2, keepdims=True).round().astype(np.uint8)
    picture = Image.fromarray(entries[..., 0] if entries.shape[2] == 1 else entries)
    files = {"png": _file(picture, "PNG")}
    if lossy:
        files["webp"] = _file(picture, "WEBP", quality=QUALITY)
    name = min(files, key=lambda name: len(files[name]))
    return f"data:image/{name};base64,{base64.b64encode(files[name]).decode()}"


def _file(picture: Image.Image, name: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, name, **options)
    return sink.getvalue()
