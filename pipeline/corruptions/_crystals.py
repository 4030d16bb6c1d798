"""Ice crystals: fans of pointed leaves with side branches."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Growth(NamedTuple):
    """How crystals grow.

    Attributes:
        plants: number of nuclei from which crystals grow.
        leaves: crystals per nucleus.
        length: longest crystal, in pixels; the shortest has a quarter of it.
        width: of a crystal at its root, in pixels.
        barbs: branches per side of a crystal.
        bend: a crystal's largest sideways bend, in units of its length.
    """

    plants: int
    leaves: int
    length: float
    width: float
    barbs: int
    bend: float


def grow(growth: Growth, side: int, generator: torch.Generator) -> Tensor:
    """Draw crystals in fans of 126 degrees about random nuclei, with branches at 60 degrees, as ice has them.

    Returns:
        (side, side) in [0, 1], zero where no crystal is. Left and right border join, and so do the upper and lower one.
    """

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    plants, leaves, barbs = growth.plants, growth.leaves, growth.barbs
    roots = (side * draw(plants, 1, 2)).expand(-1, leaves, -1).reshape(-1, 2)
    angles = (2 * math.pi * draw(plants, 1) + 2.2 * (draw(plants, leaves) - 0.5)).view(-1, 1)
    lengths = growth.length * (0.25 + 0.75 * draw(len(roots), 1))
    bright = (0.35 + 0.65 * draw(plants, 1).expand(-1, leaves).reshape(-1, 1)) * (0.6 + 0.4 * draw(len(roots), 1))
    bends = growth.bend * (2 * draw(len(roots), 1) - 1)
    canvas = torch.zeros(side, side)
    _draw(canvas, roots, angles, lengths, bends, growth.width, bright)
    if barbs:
        share = ((torch.arange(barbs) + draw(len(roots), barbs)) / barbs).repeat(1, 2)  # (crystals, branches)
        nodes = torch.stack(_spine(roots, angles, lengths, bends, share), -1)
        turn = math.radians(60) * torch.tensor((1.0, -1.0)).repeat_interleave(barbs)
        branch_angles = angles - 2 * bends * share + turn
        branch_lengths = 0.5 * lengths * (1 - share) * share.sqrt() * (0.5 + 0.5 * draw(*share.shape))
        shape = (-1, 1)
        _draw(
            canvas,
            nodes.view(-1, 2),
            branch_angles.view(shape),
            branch_lengths.view(shape),
            torch.zeros(share.numel(), 1),
            1.0,
            bright.expand_as(share).reshape(shape),
        )
    return canvas


def _spine(roots: Tensor, angles: Tensor, lengths: Tensor, bends: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of the place at each share of the length, on a parabola: (crystals, places) each."""
    ahead, aside = lengths * share, lengths * bends * share**2
    rows = roots[:, :1] + ahead * angles.sin() + aside * angles.cos()
    return rows, roots[:, 1:] + ahead * angles.cos() - aside * angles.sin()


def _draw(
    canvas: Tensor, roots: Tensor, angles: Tensor, lengths: Tensor, bends: Tensor, width: float, bright: Tensor
) -> None:
    """Draw leaves that taper to a point, in place; one edge is brighter, and where leaves overlap the brightest shows.

    Args:
        canvas: (side, side).
        roots: (crystals, 2), row and column.
        angles: (crystals, 1), as are lengths, bends and bright.
        lengths: in pixels.
        bends: sideways, in units of the length.
        width: at the root, in pixels.
        bright: at the root.
    """
    side = len(canvas)
    share = torch.linspace(0, 1, math.ceil(1.5 * lengths.max().item()))[None]
    rows, columns = _spine(roots, angles, lengths, bends, share)
    for lane in torch.linspace(-1, 1, math.ceil(2 * width)).tolist() if width > 1 else (0.0,):
        across = 0.5 * width * lane * (1 - share)
        row = (rows + across * angles.cos()).round().long().remainder(side)
        column = (columns - across * angles.sin()).round().long().remainder(side)
        shade = bright * (1 - 0.4 * share) * (0.65 - 0.35 * lane)
        canvas.view(-1).scatter_reduce_(0, (row * side + column).view(-1), shade.view(-1), "amax")
