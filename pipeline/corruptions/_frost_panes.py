"""Panes of drawn frost, in place of photographs."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.corruptions._crystals import Growth, grow

SIDE = 480  # pixels; every pane joins on to itself at its borders
FREQUENCIES = (0.5, 2, 4, 8, 16, 32, 64, 110)  # cycles per 224 pixels, of Pane.power
SHARES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)  # of Pane.grey


class Pane(NamedTuple):
    """What is drawn on a pane, and the figures that it is brought to: a photograph's, over random pieces of 224 pixels.

    Attributes:
        growth: how the crystals grow.
        relief: share of light from one side, against the crystals' own brightness.
        rough: weight of the even noise between the crystals.
        grey: quantiles of the grey value at SHARES.
        power: spectral density at FREQUENCIES, log2, up to a constant. The first one is set so that the means of random
            pieces vary as the photographs' do, as far as panes of this size allow; the others are measured.
        colour: mean of red, green and blue.
        spread: standard deviation of red, green and blue.
        stain: the part of red's deviation that comes from a slow stain, which the other channels lack.
    """

    growth: Growth
    relief: float
    rough: float
    grey: tuple[float, ...]
    power: tuple[float, ...]
    colour: tuple[float, float, float]
    spread: tuple[float, float, float]
    stain: float


TURQUOISE = Pane(
    growth=Growth(plants=500, leaves=3, length=45, width=2, barbs=2, bend=0.9),
    relief=0.9,
    rough=0.6,
    grey=(0.317, 0.374, 0.399, 0.449, 0.494, 0.549, 0.642, 0.700, 0.862),
    power=(12.0, 5.6, 2.8, 0.0, -2.0, -2.7, -3.7, -6.3),
    colour=(0.302, 0.579, 0.644),
    spread=(0.111, 0.065, 0.058),
    stain=0.085,
)
WHITE = Pane(
    growth=Growth(plants=420, leaves=6, length=80, width=6, barbs=0, bend=0.1),
    relief=0.6,
    rough=0.3,
    grey=(0.220, 0.546, 0.638, 0.749, 0.805, 0.851, 0.901, 0.927, 0.991),
    power=(8.5, 2.7, 1.2, 0.0, -1.3, -3.5, -5.2, -8.4),
    colour=(0.776, 0.793, 0.829),
    spread=(0.079, 0.082, 0.086),
    stain=0.0,
)
SLATE = Pane(
    growth=Growth(plants=1200, leaves=7, length=16, width=4, barbs=0, bend=0.2),
    relief=0.7,
    rough=0.4,
    grey=(0.099, 0.329, 0.435, 0.553, 0.619, 0.679, 0.780, 0.890, 0.995),
    power=(8.5, 1.9, 1.0, 0.0, -1.2, -2.1, -3.7, -6.5),
    colour=(0.568, 0.626, 0.677),
    spread=(0.106, 0.106, 0.111),
    stain=0.0,
)
NIGHT = Pane(
    growth=Growth(plants=480, leaves=3, length=70, width=1, barbs=18, bend=0.3),
    relief=0.0,
    rough=0.1,
    grey=(0.093, 0.168, 0.216, 0.322, 0.416, 0.525, 0.703, 0.835, 1.000),
    power=(7.5, 2.3, 1.7, 0.0, -2.0, -3.9, -5.9, -7.1),
    colour=(0.395, 0.440, 0.487),
    spread=(0.150, 0.148, 0.144),
    stain=0.0,
)
PANES = (TURQUOISE, WHITE, WHITE, SLATE, NIGHT)


@cache
def panes() -> Tensor:
    """The five panes, the white one twice with different draws: (5, 480, 480, 4) uint8. Not to be written to.

    Whole grey levels, as in a photograph, so that rounding in the Fourier transforms does not reach them. The fourth
    byte is empty: so a pixel is one 32-bit word, and can be fetched at once.
    """
    painted = torch.stack([_paint(pane, seed) for seed, pane in enumerate(PANES)])
    words = torch.zeros(len(PANES), SIDE, SIDE, 4, dtype=torch.uint8)
    words[..., :3] = (painted * 255).round().byte().permute(0, 2, 3, 1)
    return words


def _paint(pane: Pane, seed: int) -> Tensor:
    """Grow crystals, light them, bring their spectrum and grey values to the pane's, and colour them: (3, 480, 480)."""
    generator = torch.Generator().manual_seed(seed)
    power = torch.tensor(pane.power)
    crystals = grow(pane.growth, SIDE, generator)
    noise = _shaped(torch.randn(SIDE, SIDE, generator=generator), power)
    lit = crystals - pane.relief * crystals.roll((2, 1), (0, 1))
    grey = _graded(_shaped(lit / lit.std() + pane.rough * noise / noise.std(), power), pane.grey)
    spread = torch.tensor(pane.spread)
    spread[0] = math.sqrt(pane.spread[0] ** 2 - pane.stain**2)
    painted = torch.tensor(pane.colour)[:, None, None] + spread[:, None, None] * (grey - grey.mean()) / grey.std()
    slow = _shaped(torch.randn(SIDE, SIDE, generator=generator), -4 * torch.tensor(FREQUENCIES).log2())
    slow = (slow / slow.std()).clamp(-1.5, 1.5)  # a stronger stain would be pink, not grey
    painted[0] += pane.stain * (slow - slow.mean())
    return painted.clamp(0, 1)


def _shaped(texture: Tensor, power: Tensor) -> Tensor:
    """Scale the spectrum ring by ring to the wanted density, and keep the phases, which carry the crystals."""
    rows, columns = torch.fft.fftfreq(SIDE), torch.fft.rfftfreq(SIDE)
    radius = 224 * (rows[:, None] ** 2 + columns**2).sqrt()  # cycles per 224 pixels
    spectrum = torch.fft.rfft2(texture - texture.mean())
    ring = (2 * radius.clamp(min=0.3).log2() + 4).round().long()  # half octaves
    count = torch.bincount(ring.view(-1))
    found = torch.bincount(ring.view(-1), spectrum.abs().square().view(-1)) / count.clamp(min=1)
    octave = radius.clamp(min=FREQUENCIES[0], max=FREQUENCIES[-1]).log2()
    known = torch.tensor(FREQUENCIES).log2()
    place = torch.bucketize(octave, known[1:-1])
    share = (octave - known[place]) / (known[place + 1] - known[place])
    wanted = torch.lerp(power[place], power[place + 1], share)
    shaped: Tensor = torch.fft.irfft2(spectrum * (2**wanted / found[ring]).sqrt(), s=(SIDE, SIDE))
    return shaped


def _graded(texture: Tensor, quantiles: tuple[float, ...]) -> Tensor:
    """Map the values, in their order, to the wanted quantiles, linearly in between."""
    ordered = texture.flatten().sort().values
    known = ordered[[round(share * (len(ordered) - 1)) for share in SHARES]]
    goal = torch.tensor(quantiles)
    place = torch.bucketize(texture, known[1:-1])
    share = (texture - known[place]) / (known[place + 1] - known[place])
    return torch.lerp(goal[place], goal[place + 1], share)
