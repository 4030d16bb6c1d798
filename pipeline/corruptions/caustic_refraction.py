from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._bar_warp import bilinear, in_parts, side
from pipeline.corruptions._filters import correlate, gaussian
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import uniform

FAMILY = "warp"
REFRACTION = 4.0  # ratio of the indices of refraction
FLAT = 0.999  # cosine of the angle below which light is not refracted
SIGMA = 1.0  # pixels, of the Gaussian that softens the caustics
REACH = 4  # pixels to which it reaches


def caustic_refraction(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """See the image through water: bright bands of light, at whose flanks it is displaced, lit and shaded.

    A caustic pattern of random time and size (.75-1.25 of the side) is softened and taken for the height of the water.
    Its slope tilts the surface; where the tilt is more than 2.56 degrees, a ray from above is bent by Snell's law and
    shows a place displaced in proportion to the bend. Bilinear interpolation; beyond the image all is black, and the
    water has height zero.

    Source: Mintun, Kirillov & Xie, NeurIPS 2021 (ImageNet-C-bar). For smaller images: the authors' own
    candidates for 32 pixels, at the ranks that ImageNet-C-bar takes from their list for 224. Differences to their code,
    which is for squares of 32 or 224 pixels: of other images the side is sqrt(h w); displacements are not rounded to
    1/1000 of a pixel; no rounding down to 8 bits. The pattern is computed on the CPU in double precision, since the
    smallest tilt that refracts is a threshold.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, time and size of the pattern per image.
        severity: 1 to 5.
        constants: `imagenet` (displaces by up to .1175-.4575 of the side times the sine of the bend), `cifar`
            (.07-.23), or `auto`: ImageNet-C-bar's above 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    level = constant(images, severity, constants, cifar=(1.4, 1.8, 2.6, 3.4, 4.6), imagenet=(2.35, 3.2, 4.9, 6.6, 9.15))
    height, width = images.shape[-2:]
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in (height, width))

    def corrupt(images: Tensor, drawn: Tensor) -> Tensor:
        time, size = 0.5 + 1.5 * drawn[:, 0], (0.75 + 0.5 * drawn[:, 1]) * side(images)
        water = _soften(_caustics(time, size, rows, columns))
        framed = torch.nn.functional.pad(water, (1, 1, 1, 1))
        down = framed[:, 2:, 1:-1] - framed[:, :-2, 1:-1]
        right = framed[:, 1:-1, 2:] - framed[:, 1:-1, :-2]
        shift = 0.05 * level * side(images) * _bend(down * down + right * right)
        shown = bilinear(images, rows[:, None] + shift * down, columns + shift * right, border="black")
        return (shown + (0.2 * level * (down - right)).unsqueeze(1).to(images)).clamp(0, 1)

    return in_parts(corrupt, images, uniform(seeds, (2,)).double())


def _caustics(time: Tensor, size: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Brightness of the light that waves gather: five steps of a well-known formula of shader programs.

    With the angles (i, j) of a step, 1/200 over its length is |sin(i + t) cos(j + t)| over the root of
    (p cos(j + t))^2 + (q sin(i + t))^2, where p and q are the angles of the pixel itself.

    Args:
        time: (n,) float64.
        size: (n,) float64 in pixels: the period of the pattern.
        rows: (h,) float64.
        columns: (w,) float64.

    Returns:
        (n, h, w) float64 in [0, 1].
    """
    period = size[:, None, None]
    p, q = (2 * math.pi * (place / period).remainder(1) - 250 for place in (rows[:, None], columns))
    first, second = _circle(p), _circle(q)
    gathered = torch.ones((), dtype=torch.float64)
    for step in range(5):
        t = (time * (1 - 3.5 / (step + 1)))[:, None, None]
        sine, cosine = _circle(t)
        # cos(t - i) + sin(t + j) and sin(t - j) + cos(t + i), from the sines and cosines at hand
        to_first = cosine * (first[1] + second[0]) + sine * (first[0] + second[1])
        to_second = sine * (second[1] - first[0]) + cosine * (first[1] - second[0])
        first, second = _circle(p + to_first), _circle(q + to_second)
        crest = first[0] * cosine + first[1] * sine  # sin(i + t)
        trough = second[1] * cosine - second[0] * sine  # cos(j + t)
        gathered = gathered + 200 * (crest * trough).abs() / ((p * trough) ** 2 + (q * crest) ** 2).sqrt()
    contrast = (1.17 - (gathered / 5) ** 1.4) ** 2
    return (contrast * contrast).square().clamp(0, 1)


def _circle(angle: Tensor) -> tuple[Tensor, Tensor]:
    return angle.sin(), angle.cos()


def _soften(water: Tensor) -> Tensor:
    """Gaussian blur; beyond the border lies the image's reflection, the edge pixel itself included: (n, h, w)."""
    weights = gaussian(SIGMA, REACH)
    for axis, kernel in ((1, weights[:, None]), (2, weights[None])):
        size = water.shape[axis]
        place = torch.arange(-REACH, size + REACH).remainder(2 * size)
        framed = water.index_select(axis, torch.minimum(place, 2 * size - 1 - place))
        water = correlate(framed[None], kernel, border="nearest")[0].narrow(axis, REACH, size)
    return water


def _bend(slope: Tensor) -> Tensor:
    """Horizontal part of a ray from above, bent by a surface of a squared slope, over the slope: same shape.

    With a the tilt and b = arcsin(sin(a) / ratio) it is sin(a - b) / tan(a), of which the slope is tan(a).
    """
    cosine = 1 / (1 + slope).sqrt()
    sine = (1 - cosine * cosine) / REFRACTION**2  # squared, of the refracted ray
    bent = cosine * ((1 - sine).sqrt() - cosine / REFRACTION)
    return bent.where(cosine < FLAT, 0)
