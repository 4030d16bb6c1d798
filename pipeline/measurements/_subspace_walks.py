"""Walks to the decision boundary inside subspaces: DeepFool and SuperDeepFool for pairs of sample and subspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, UserError
from pipeline.measurements._subspace_planes import Planes
from pipeline.measurements.inference import correct, logits_of, nullable
from pipeline.numerics.box import Box
from pipeline.numerics.confined import nearest_valid
from pipeline.numerics.crossing import first_beyond
from pipeline.numerics.norms import l2, per_sample, unit
from pipeline.numerics.subspaces import Subspaces

Mode = Literal["superdeepfool", "deepfool", "official"]
HALVINGS = 20  # the margin is within 1e-6 of its length above a crossing
FLOOR = 1e-4  # the released code's shortest step
SETTLED = 1e-3  # share by which a round must shorten the way for another one to follow, and its overshoot at least
STUCK = 1e-2  # share of a step below which the box has left nothing of it
FOUND: Mapping[str, Column] = {  # the columns that all measurements of margins share
    "label": Column("int32", "true class"),
    "prediction": Column("int32", "class of the clean image, from which the distance is measured"),
    "correct": Column("bool", "prediction is the label"),
    "converged": Column("bool", "a point of another class was found inside the subspace"),
    "margin": Column(
        "float64", "l2 distance to the boundary inside the subspace, in units of the data; null if none was found"
    ),
    "iterations": Column("int32", "linearisations"),
}


class Walked(NamedTuple):
    """What the walks found; pair = sample * number of subspaces + subspace.

    Attributes:
        logits: (n, classes) of the clean images.
        converged: (pairs,) bool, whether a point of another class was found.
        margins: (pairs,) float64 lengths, of no meaning where none was found.
        iterations: (pairs,) int64 linearisations.
    """

    logits: Tensor
    converged: Tensor
    margins: Tensor
    iterations: Tensor

    def columns(self, labels: Tensor) -> dict[str, Sequence[Any]]:
        """`row`, and the columns of `FOUND`."""
        repeats = len(self.converged) // len(labels)
        return {
            "row": [row for row in range(len(labels)) for _ in range(repeats)],
            "label": labels.repeat_interleave(repeats).tolist(),
            "prediction": self.logits.argmax(dim=1).repeat_interleave(repeats).tolist(),
            "correct": correct(self.logits, labels).repeat_interleave(repeats).tolist(),
            "converged": self.converged.tolist(),
            "margin": nullable(self.margins, self.converged),
            "iterations": self.iterations.tolist(),
        }


def walk(
    model: nn.Module,
    images: Tensor,
    spaces: Subspaces,
    *,
    batch_size: int,
    mode: Mode,
    steps: int,
    rounds: int,
    overshoot: float,
    candidates: int,
    box: Box | None,
) -> Walked:
    """Walk from each image to the boundary inside each subspace; `dct_margin` describes the modes.

    Args:
        model: images to logits.
        images: (n, c, h, w).
        spaces: the subspaces.
        batch_size: pairs per pass.
        mode: `superdeepfool`, `deepfool` or `official`.
        steps: largest number of linearisations of a DeepFool.
        rounds: largest number of rounds of SuperDeepFool after the first DeepFool.
        overshoot: share by which a step is lengthened to cross the boundary.
        candidates: rivals, those with the largest logits on the clean image; all other classes if there are fewer.
        box: of valid images, among them the clean ones; None walks without bounds.

    Raises:
        UserError: `official` with a box, which the released code does not know.
    """
    if mode == "official" and box is not None:
        raise UserError("boxed: true with mode official, expected false; the other modes can keep to valid images")
    logits = logits_of(model, images, batch_size)
    planes = Planes(model, images, spaces, logits, candidates, box)
    walks = _Walks(planes, batch_size, 1 + overshoot, FLOOR if mode == "official" else 0)
    found = walks.descend(walks.start(), steps, fresh=False)
    walks.keep(found)
    if mode != "official":
        walks.shorten(found)
    if mode == "superdeepfool":
        walks.shorten(walks.refine(found, steps, rounds))
    return Walked(logits, walks.lengths.isfinite(), walks.measured(), walks.iterations)


class _Walks:
    """The state of all walks.

    Attributes:
        shifts: (pairs, ...), where each walk stands: coefficients, in its subspace, of the way from the clean image.
        starts: the same, where its DeepFool began.
        ends: the same, the shortest crossing so far.
        lengths: (pairs,) its length; inf where there is none yet.
        iterations: (pairs,) linearisations so far.
    """

    def __init__(self, planes: Planes, batch_size: int, stretch: float, floor: float) -> None:
        self.planes, self.batch_size, self.stretch, self.floor = planes, batch_size, stretch, floor
        images, spaces = planes.images, planes.spaces
        pairs, one = len(images) * len(spaces), planes.source.new_zeros(1)
        shape = spaces.analyse(images[:1], one).shape[1:]
        self.shifts, self.starts, self.ends = (images.new_zeros(pairs, *shape) for _ in range(3))
        self.lengths = images.new_full((pairs,), torch.inf)
        self.iterations = torch.zeros(pairs, dtype=torch.int64, device=images.device)

    def start(self) -> Tensor:
        """Take every pair's first step; the pairs that had one, (m,) int64."""
        valid = torch.zeros_like(self.lengths, dtype=torch.bool)
        for rows in self._split(torch.arange(len(self.planes.images), device=valid.device)):
            for pairs, *nearest in self.planes.first(rows):
                valid[pairs] = self._step(pairs, *nearest)
        self.iterations += 1
        return valid.nonzero().squeeze(1)

    def descend(self, pairs: Tensor, steps: int, *, fresh: bool) -> Tensor:
        """DeepFool from `starts` to the other side, in one batch that is refilled as pairs finish.

        A walk that is farther out than the pair's shortest crossing so far is given up.

        Args:
            pairs: (m,) int64.
            steps: largest number of linearisations.
            fresh: whether the first step is still to be taken.

        Returns:
            The pairs that arrived; their `shifts` are beyond the boundary, overshoot included.
        """
        taken = torch.full_like(self.iterations, 0 if fresh else 1)
        arrived, active, queue = [pairs[:0]], pairs[:0], pairs
        while len(active) or len(queue):
            room = self.batch_size - len(active)
            entering, queue = queue[:room], queue[room:]
            moving = torch.cat([active, entering]) if fresh else active
            if len(moving):
                taken[moving] += 1
                self.iterations[moving] += 1
                moving = moving[self._step(moving, *self.planes.nearest(moving, self.shifts[moving]))]
            active = moving if fresh else torch.cat([moving, entering])
            if not len(active):
                continue
            trial = self.shifts[active]
            if self.planes.box is None:
                trial = self.starts[active] + self.stretch * (trial - self.starts[active])
                # from a start near the boundary the way is so short that the overshoot of it may not cross
                trial = (1 + SETTLED if fresh else 1) * trial
            over = self.planes.over(active, trial)
            self.shifts[active[over]] = trial[over]
            arrived.append(active[over])
            nearer = l2(self.shifts[active]) < self.lengths[active]
            active = active[~over & nearer & (taken[active] < steps)]
        return torch.cat(arrived)

    def refine(self, pairs: Tensor, steps: int, rounds: int) -> Tensor:
        """Rounds of SuperDeepFool: {projection of the way on the normal at its end; DeepFool from there}.

        Args:
            pairs: (m,) int64, which have arrived.
            steps: largest number of linearisations of a DeepFool.
            rounds: largest number of rounds.

        Returns:
            The pairs that found a shorter end, which is not yet shortened to the boundary.
        """
        changed = torch.zeros_like(self.lengths, dtype=torch.bool)
        self.shifts[pairs] = self.ends[pairs]
        for _ in range(rounds):
            pairs, over = self._feet(pairs)
            changed[self.keep(pairs[over])] = True
            pairs = self.descend(pairs[~over], steps, fresh=True)
            before = self.lengths[pairs]
            changed[self.keep(pairs)] = True
            pairs = pairs[self.lengths[pairs] < (1 - SETTLED) * before]
            if not len(pairs):
                break
        return changed.nonzero().squeeze(1)

    def keep(self, pairs: Tensor) -> Tensor:
        """Make `shifts` the ends where they are shorter than the ends so far; the pairs of which that is true."""
        lengths = l2(self.shifts[pairs])
        better = lengths < self.lengths[pairs]
        pairs = pairs[better]
        self.ends[pairs], self.lengths[pairs] = self.shifts[pairs], lengths[better]
        return pairs

    def shorten(self, pairs: Tensor) -> None:
        """Shorten the ends of some pairs until they lie just beyond the boundary."""
        for part in self._split(pairs):
            ends, sample = self.ends[part], self.planes.sample(part)

            def logits_at(rows: Tensor, scale: Tensor, part: Tensor = part, ends: Tensor = ends) -> Tensor:
                return self.planes.logits_at(part[rows], per_sample(scale, ends) * ends[rows])

            scale = first_beyond(logits_at, self.planes.logits[sample], self.planes.source[sample], HALVINGS)
            self.ends[part] = per_sample(scale, ends) * ends
            self.lengths[part] = l2(self.ends[part])

    def measured(self) -> Tensor:
        """Lengths of the ways from the clean images to the ends, (pairs,) float64."""
        if self.planes.box is None:
            return l2(self.ends.double())
        lengths = self.lengths.double()
        for part in self._split(torch.arange(len(lengths), device=lengths.device)):
            clean = self.planes.images[self.planes.sample(part)].double()
            length = l2(self.planes.points(part, self.ends[part]).double() - clean)
            lengths[part] = torch.where(lengths[part].isfinite(), length, torch.inf)
        return lengths

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        return torch.split(rows, self.batch_size) if len(rows) else ()

    def _step(self, pairs: Tensor, distance: Tensor, gradient: Tensor, slope: Tensor) -> Tensor:
        """Move some pairs to their nearest planes; whether there was one, and room on the way, (m,) bool."""
        usable = distance.isfinite()
        step = gradient * per_sample(distance.clamp_min(self.floor) / slope, gradient)
        step = torch.where(per_sample(usable, step), step, 0)
        if self.planes.box is None:
            self.shifts[pairs] += step
            return usable
        here, step = self.shifts[pairs], self.stretch * step  # what is tested must be valid: the overshoot goes in here
        found, reached = self._valid(pairs, here, here + step, unit(step))
        rest = (usable & ~reached).nonzero().squeeze(1)
        if len(rest):  # as far as the box lets the step come
            near, free = self._valid(pairs[rest], (here + step)[rest], here[rest], torch.zeros_like(here[rest]))
            found[rest], reached[rest] = near, free & (l2(near - here[rest]) > STUCK * l2(step[rest]))
        reached &= usable
        self.shifts[pairs[reached]] = found[reached]
        return reached

    def _valid(self, pairs: Tensor, start: Tensor, through: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        planes = self.planes
        assert planes.box is not None
        clean, space = planes.images[planes.sample(pairs)], planes.space(pairs)
        return nearest_valid(clean, planes.spaces, space, planes.box, start, through, normal)

    def _feet(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Put walks on the points nearest to the clean images of the planes tangent to the boundary at their `shifts`.

        Returns:
            The pairs that have such a point, their `starts` and `shifts`, and whether it is of another class already.
        """
        kept, crossed = [pairs[:0]], [pairs[:0].bool()]
        for part in self._split(pairs):
            ends = self.shifts[part]
            normal = self.planes.normal(part, ends)
            height = (normal * ends).flatten(1).sum(dim=1)
            feet, there = per_sample(height, normal) * normal, l2(normal) > 0
            if self.planes.box is not None:
                outwards = per_sample(height.sign(), normal) * normal
                feet, reached = self._valid(part, torch.zeros_like(ends), ends, outwards)
                there &= reached
            self.iterations[part] += 1
            self.starts[part], self.shifts[part] = feet, feet
            kept.append(part[there])
            crossed.append(self.planes.over(part[there], feet[there]) if there.any() else kept[-1].bool())
        return torch.cat(kept), torch.cat(crossed)
