"""Surfaces of quads inside a class, bounded by loops inside it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.numerics.box import Box
from pipeline.numerics.norms import l2, per_sample
from pipeline.numerics.paths import Entered, Paths, all_inside, enter, find_paths, sample_counts

SIDES = 4  # bottom, top, left, right: at v = 0, v = 1, u = 0, u = 1; along u, u, v, v
COMPARED = 3  # points per direction and quad at which two surfaces are compared


class Curves:
    """Polylines with numbers, each a function of a parameter from 0 to 1; more can be added."""

    def __init__(self, paths: Paths) -> None:
        """Numbers 0, 1, ... for the pairs of the paths."""
        self.count = len(paths.connected)
        self.curve, self.position, self.width = paths.pair, paths.position, paths.width
        self.start, self.end = paths.start, paths.end
        self._index()

    def add(self, paths: Paths) -> int:
        """Add the pairs of more paths; returns the number of the first."""
        first = self.count
        self.count += len(paths.connected)
        self.curve = torch.cat([self.curve, first + paths.pair])
        for name in ("position", "width", "start", "end"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(paths, name)]))
        self._index()
        return first

    def _index(self) -> None:
        self._keys = 2 * self.curve + self.position  # gaps between curves, so that parameter 1 finds its own
        lengths = l2(self.end.double() - self.start.double())
        self._lengths, self._before = lengths, lengths.cumsum(0) - lengths

    def _find(self, curve: Tensor, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Segment of each point, and the share of the segment that lies before it, (m,) each."""
        segment = torch.searchsorted(self._keys, 2 * curve + parameter, right=True) - 1
        return segment, (parameter - self.position[segment]) / self.width[segment]

    def points(self, curve: Tensor, parameter: Tensor) -> Tensor:
        """Points (m, c, h, w) of curves (m,) int64 at parameters (m,) float64."""
        segment, share = self._find(curve, parameter)
        start, end = self.start[segment], self.end[segment]
        return start + per_sample(share.to(start), start) * (end - start)

    def lengths(self, curve: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Lengths of the parts of curves between two parameters, (m,) float64."""
        ends = []
        for parameter in (first, last):
            segment, share = self._find(curve, parameter)
            ends.append(self._before[segment] + share * self._lengths[segment])
        return (ends[1] - ends[0]).abs()


class Quads(NamedTuple):
    """Coons patches: quads whose sides are parts of curves.

    Attributes:
        loop: (m,) int64, the loop in which each quad lies.
        curve: (m, 4) int64, curves of the sides.
        first: (m, 4) float64, parameter of the curve at which the side starts.
        last: (m, 4) float64, that at which it ends.
        corner: (m, 2) float64, u and v of the quad's lower left corner in its loop.
    """

    loop: Tensor
    curve: Tensor
    first: Tensor
    last: Tensor
    corner: Tensor

    def only(self, which: Tensor) -> Quads:
        """Some of the quads."""
        return Quads(*(values[which] for values in self))

    def side(self, curves: Curves, side: int, share: Tensor) -> Tensor:
        """Points (m, c, h, w) of a side of each quad, as far along it as the share (m,) float64 says."""
        first, last = self.first[:, side], self.last[:, side]
        return curves.points(self.curve[:, side], first + share * (last - first))

    def points(self, curves: Curves, u: Tensor, v: Tensor, box: Box) -> Tensor:
        """Points (m, c, h, w) of the patches at u, v (m,) float64, each put back to the nearest point of the box.

        Coons's bilinearly blended patch: its sides are the quad's. It can leave the box; the nearest point of a convex
        set is a continuous map that leaves the sides as they are.
        """
        zero, one = torch.zeros_like(u), torch.ones_like(u)
        bottom, top = self.side(curves, 0, u), self.side(curves, 1, u)
        left, right = self.side(curves, 2, v), self.side(curves, 3, v)
        (a, b), (c, d) = ([self.side(curves, row, end) for end in (zero, one)] for row in (0, 1))
        across, up = (per_sample(values.to(a), a) for values in (u, v))
        blend = torch.lerp(bottom, top, up) + torch.lerp(left, right, across)
        return box.clip(blend - torch.lerp(torch.lerp(a, b, across), torch.lerp(c, d, across), up))


class Filling(NamedTuple):
    """What became of loops, (k,) each.

    Attributes:
        filled: bool, whether a surface of quads inside the class was found.
        patch: bool, whether it is the Coons patch of the loop itself.
        quads: int64, number of quads; 0 where not filled.
        levels: int64, halvings of the smallest quad; 0 where not filled.
        deviation: float64, mean distance from the Coons patch at equal parameters; 0 where not filled.
        forward: int64, forward passes.
        backward: int64, backward passes.
    """

    filled: Tensor
    patch: Tensor
    quads: Tensor
    levels: Tensor
    deviation: Tensor
    forward: Tensor
    backward: Tensor


def fill(
    model: nn.Module,
    sides: Paths,
    target: Tensor,
    spacing: Tensor,
    *,
    levels: int,
    depth: int,
    steps: int,
    overshoot: float,
    box: Box,
    batch_size: int,
) -> Filling:
    """Fill loops by surfaces inside their class: the Coons patch, or four smaller ones, and so on.

    A quad is sampled on a grid. Where it leaves the class its middle is pushed into the class and joined by paths
    inside the class (`paths.find_paths`) to the middles of its four sides, and the four quads between them are looked
    at in turn. Sides are shared, so the surface has no gaps. All quads of all loops are looked at together.

    Args:
        model: images to logits.
        sides: 4 k paths, the bottoms of all loops, then their tops, left and right sides; all of them connected.
        target: (k,) int64, the class.
        spacing: (k,) distance between samples; a quad has at least three per direction.
        levels: largest number of halvings of a quad.
        depth: as in `find_paths`, of the paths inside the surface.
        steps: as in `enter`.
        overshoot: as in `enter`.
        box: of valid images, not flipped.
        batch_size: images per pass.
    """
    mesh = _Mesh(model, Curves(sides), target, spacing, box, batch_size)
    search = {"steps": steps, "overshoot": overshoot, "box": box, "batch_size": batch_size}
    quads, whole = mesh.start(), mesh.start()
    number, reached = torch.zeros_like(target), torch.zeros_like(target)
    patch = torch.zeros_like(mesh.filled)
    deviation = torch.zeros_like(whole.corner[:, 0])
    for level in range(levels + 1):
        held = mesh.inside(quads)
        reached[quads.loop] = level
        done, quads = quads.only(held), quads.only(~held)
        number.index_add_(0, done.loop, torch.ones_like(done.loop))
        if level == 0:
            patch = held
        else:
            distance = mesh.distance(done, whole.only(done.loop), 0.5**level)
            deviation.index_add_(0, done.loop, 0.25**level * distance)
        if level == levels:
            mesh.filled[quads.loop] = False
        if level == levels or not len(quads.loop):
            break
        quads = mesh.split(quads, 0.5 ** (level + 1), depth, search)
    filled = mesh.filled
    return Filling(filled, patch, number * filled, reached * filled, deviation * filled, mesh.forward, mesh.backward)


class _Mesh:
    """The surfaces of all loops while they are made.

    Attributes:
        filled: (k,) bool, whether a loop can still be filled.
        forward: (k,) int64, forward passes so far.
        backward: (k,) int64, backward passes so far.
    """

    def __init__(
        self, model: nn.Module, curves: Curves, target: Tensor, spacing: Tensor, box: Box, batch_size: int
    ) -> None:
        self.model, self.curves, self.target, self.spacing = model, curves, target, spacing
        self.box, self.batch_size = box, batch_size
        self.filled = torch.ones_like(target, dtype=torch.bool)
        self.forward, self.backward = torch.zeros_like(target), torch.zeros_like(target)

    def start(self) -> Quads:
        """One quad for each loop."""
        count = len(self.target)
        loop = torch.arange(count, device=self.target.device)
        curve = torch.stack([side * count + loop for side in range(SIDES)], dim=1)
        zeros = torch.zeros(count, SIDES, dtype=torch.float64, device=loop.device)
        return Quads(loop, curve, zeros, zeros + 1, zeros[:, :2])

    def inside(self, quads: Quads) -> Tensor:
        """Whether each quad lies in the class: on a grid as dense along its longest side as the spacing says."""
        parts = [(quads.curve[:, side], quads.first[:, side], quads.last[:, side]) for side in range(SIDES)]
        longest = torch.stack([self.curves.lengths(*part) for part in parts]).amax(dim=0)
        count = sample_counts(longest, self.spacing[quads.loop])

        def sample(quad: Tensor, place: Tensor) -> Tensor:
            across = count[quad]
            u, v = ((steps + 1).double() / (across + 1) for steps in (place % across, place // across))
            return quads.only(quad).points(self.curves, u, v, self.box)

        held, passes = all_inside(self.model, sample, count.square(), self.target[quads.loop], self.batch_size)
        self.forward.index_add_(0, quads.loop, passes)
        return held

    def distance(self, quads: Quads, whole: Quads, width: float) -> Tensor:
        """Mean distance of quads of that width from their loop's own patch at equal parameters, (m,) float64."""
        total = torch.zeros_like(quads.corner[:, 0])
        shares = [(place + 1) / (COMPARED + 1) for place in range(COMPARED)]
        for rows in torch.split(torch.arange(len(total), device=total.device), self.batch_size):
            part, patch = quads.only(rows), whole.only(rows)
            for u, v in itertools.product(shares, shares):
                across, up = part.corner[:, 0], part.corner[:, 1]
                there = patch.points(self.curves, across + width * u, up + width * v, self.box)
                own = part.points(self.curves, torch.full_like(across, u), torch.full_like(up, v), self.box)
                total[rows] += l2(own.double() - there.double())
        return total / COMPARED**2

    def split(self, quads: Quads, width: float, depth: int, search: Mapping[str, Any]) -> Quads:
        """Four quads of that width for each, of the loops that can still be filled after that."""
        half = torch.full_like(quads.corner[:, 0], 0.5)
        target = self.target[quads.loop]
        middle = enter(self.model, quads.points(self.curves, half, half, self.box), target, **search)
        self._count(quads.loop, middle)
        ends = [quads.side(self.curves, side, half) for side in range(SIDES)]
        held = middle.found
        for points in ends:  # the middle of a side lies between its samples; as the end of a path it has to hold
            at = enter(self.model, points, target, **{**search, "steps": 0})
            self._count(quads.loop, at)
            held = held & at.found
        self.filled[quads.loop[~held]] = False
        going = self.filled[quads.loop].nonzero().squeeze(1)
        quads, count = quads.only(going), len(going)
        bottom, top, left, right = (points[going] for points in ends)
        centre = middle.points[going]
        paths = find_paths(
            self.model,
            torch.cat([bottom, centre, left, centre]),
            torch.cat([centre, top, centre, right]),
            target[going].repeat(SIDES),
            self.spacing[quads.loop].repeat(SIDES),
            depth=depth,
            **search,
        )
        self._count(quads.loop.repeat(SIDES), paths)
        self.filled[quads.loop.repeat(SIDES)[~paths.connected]] = False
        number = self.curves.add(paths) + torch.arange(count, device=going.device)
        below, above, before, behind = (number + place * count for place in range(SIDES))
        quarters = []
        for u, v in itertools.product((0, 1), (0, 1)):
            # inner sides are whole curves, outer ones half of the quad's own: bottom, top, left, right
            quarters.append(self._quarter(quads, u, v, width, (before, behind)[u], (below, above)[v]))
        together = Quads(*(torch.cat(values) for values in zip(*quarters, strict=True)))
        return together.only(self.filled[together.loop])

    def _quarter(self, quads: Quads, u: int, v: int, width: float, crossing: Tensor, rising: Tensor) -> Quads:
        """The quarter at that corner, between the curve that crosses the quad from left to right and the rising one."""
        curve, first, last = quads.curve.clone(), quads.first.clone(), quads.last.clone()
        half = (quads.first + quads.last) / 2
        for side, place in ((v, u), (2 + u, v)):  # outer sides
            (first if place else last)[:, side] = half[:, side]
        for side, own in ((1 - v, crossing), (3 - u, rising)):
            curve[:, side], first[:, side], last[:, side] = own, 0, 1
        corner = quads.corner + width * quads.corner.new_tensor([u, v])
        return Quads(quads.loop, curve, first, last, corner)

    def _count(self, loop: Tensor, made: Entered | Paths) -> None:
        self.forward.index_add_(0, loop, made.forward)
        self.backward.index_add_(0, loop, made.backward)
