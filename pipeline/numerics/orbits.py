"""Orbits of images: the images that rotations, translations, scalings and changes of colour make of them.

All maps take images (n, c, h, w), act on each image alone, are computed in float64 and rounded once to the dtype of the
images, so that neither the batch nor the reduced precision of a GPU's products shows. What comes from outside the image
is filled in as `padding` says, as in `torch.nn.functional.grid_sample`: `reflection` (about the outer edge of the
border pixels, which thus repeat once), `border` or `zeros`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))  # rows: luma and two of colour
QUARTER = 90.0  # degrees


class Element(NamedTuple):
    """One element of an orbit.

    Attributes:
        transform: `rotation`, `translation`, `scale`, or of colours `brightness`, `contrast`, `gamma`, `saturation` or
            `hue`.
        values: of the rotation and the hue the angle in degrees, of the translation the shift downwards and to the
            right in shares of the sides, of all others a factor or exponent.
    """

    transform: str
    values: tuple[float, ...]


def orbit(family: str, strength: float, channels: int) -> list[Element]:
    """The elements of one strength; strength 0 stands for the identity.

    Args:
        family: `rotation` (by +- strength degrees), `translation` (by strength, a share of the side, along four
            directions), `scale` (by 1 + strength and its inverse) or `colour` (brightness, contrast, gamma and, of
            images of three channels, saturation by 1 + strength and its inverse, and hue by +- 90 strength degrees).
        strength: in the unit of the family.
        channels: of the images.
    """
    ways = [(1 + strength,), (1 / (1 + strength),)]
    if family == "rotation":
        return [Element(family, (sign * strength,)) for sign in (1, -1)]
    if family == "translation":
        shifts = ((strength, 0.0), (-strength, 0.0), (0.0, strength), (0.0, -strength))
        return [Element(family, shift) for shift in shifts]
    if family == "scale":
        return [Element(family, way) for way in ways]
    names = ("brightness", "contrast", "gamma") + (("saturation",) if channels == 3 else ())
    elements = [Element(name, way) for name in names for way in ways]
    if channels == 3:
        elements += [Element("hue", (sign * QUARTER * strength,)) for sign in (1, -1)]
    return elements


@torch.no_grad()
def transformed(images: Tensor, element: Element, padding: str) -> Tensor:
    """The element of every image's orbit; colours are clipped to [0, 1].

    Args:
        images: (n, c, h, w); for changes of colour with values in [0, 1].
        element: of the orbit.
        padding: of the maps that move pixels.
    """
    if element.transform in MOVES:
        return MOVES[element.transform](images, *element.values, padding=padding)
    changed = COLOURS[element.transform](images.double().clamp(0, 1), *element.values)
    return changed.clamp(0, 1).to(images.dtype)


def rotated(images: Tensor, degrees: float, *, padding: str) -> Tensor:
    """Turn about the centre, counter-clockwise for positive angles."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    down, right = _offsets(images)
    return _sampled(images, sin * right + cos * down, cos * right - sin * down, padding)


def translated(images: Tensor, down: float, right: float, *, padding: str) -> Tensor:
    """Shift by shares of the height and of the width."""
    rows, columns = _offsets(images)
    height, width = images.shape[-2:]
    return _sampled(images, rows - down * height, columns - right * width, padding)


def scaled(images: Tensor, factor: float, *, padding: str) -> Tensor:
    """Enlarge about the centre by a factor, or shrink if it is below 1."""
    rows, columns = _offsets(images)
    return _sampled(images, rows / factor, columns / factor, padding)


def _offsets(images: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of the pixels' centres from the centre of the image, in pixels: (h, 1) downwards, (1, w) rightwards."""
    down, right = (
        torch.arange(side, dtype=torch.float64, device=images.device) - (side - 1) / 2 for side in images.shape[-2:]
    )
    return down[:, None], right[None]


def _sampled(images: Tensor, down: Tensor, right: Tensor, padding: str) -> Tensor:
    """Take every pixel, bilinearly, from a place given by its distance from the centre in pixels: (h, w) each."""
    height, width = images.shape[-2:]
    places = [(2 / side * offset).expand(height, width) for side, offset in ((width, right), (height, down))]
    points = torch.stack(places, dim=-1).expand(len(images), height, width, 2)  # the outer edges lie at -1 and 1
    moved = F.grid_sample(images.double(), points, mode="bilinear", padding_mode=padding, align_corners=False)
    return moved.to(images.dtype)


def _brightness(images: Tensor, factor: float) -> Tensor:
    return factor * images


def _contrast(images: Tensor, factor: float) -> Tensor:
    """Scale the distance from the mean grey of the image."""
    mean = _grey(images).mean((-2, -1), keepdim=True)
    return mean + factor * (images - mean)


def _gamma(images: Tensor, exponent: float) -> Tensor:
    return images**exponent


def _saturation(images: Tensor, factor: float) -> Tensor:
    """Scale the distance from the grey of the same luma."""
    grey = _grey(images)
    return grey + factor * (images - grey)


def _hue(images: Tensor, degrees: float) -> Tensor:
    """Turn the two colour coordinates of YIQ, which keeps the luma."""
    angle = math.radians(degrees)
    turn = torch.eye(3, dtype=torch.float64)
    turn[1:, 1:] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    basis = torch.tensor(YIQ, dtype=torch.float64)
    matrix = (torch.linalg.inv(basis) @ turn @ basis).to(images.device)
    return torch.einsum("ij,njhw->nihw", matrix, images)


def _grey(images: Tensor) -> Tensor:
    """Luma of images of three channels, else the mean of the channels: (n, 1, h, w)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = torch.tensor(YIQ[0], dtype=images.dtype, device=images.device)
    return (weights.view(3, 1, 1) * images).sum(1, keepdim=True)


MOVES: Mapping[str, Callable[..., Tensor]] = {"rotation": rotated, "translation": translated, "scale": scaled}
COLOURS: Mapping[str, Callable[..., Tensor]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "gamma": _gamma,
    "saturation": _saturation,
    "hue": _hue,
}
