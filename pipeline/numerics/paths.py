"""Points pushed into a class, and polylines that stay inside one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.numerics.boundary import ROUNDING
from pipeline.numerics.box import Box
from pipeline.numerics.gradients import class_gradients
from pipeline.numerics.norms import l2, per_sample, unit

FEWEST = 3  # samples of a segment, however short


class Entered(NamedTuple):
    """Points inside a class.

    Attributes:
        points: (n, c, h, w); the given point where none was found.
        found: (n,) bool.
        forward: (n,) int64, forward passes.
        backward: (n,) int64, backward passes.
    """

    points: Tensor
    found: Tensor
    forward: Tensor
    backward: Tensor


class Paths(NamedTuple):
    """Polylines inside a class, as segments in the order of the pairs and along each path.

    Attributes:
        connected: (p,) bool, whether the pair has a path.
        straight: (p,) bool, whether it is the straight segment.
        depth: (p,) int64, halvings down to the shortest segment of the path; 0 without a path.
        pair: (s,) int64, the pair of each segment; of connected pairs only.
        position: (s,) float64 in [0, 1), the parameter at which it starts: each halving halves the parameter.
        width: (s,) float64, how much of the parameter it takes up.
        start: (s, c, h, w).
        end: (s, c, h, w).
        forward: (p,) int64, forward passes.
        backward: (p,) int64, backward passes.
    """

    connected: Tensor
    straight: Tensor
    depth: Tensor
    pair: Tensor
    position: Tensor
    width: Tensor
    start: Tensor
    end: Tensor
    forward: Tensor
    backward: Tensor

    def lengths(self) -> Tensor:
        """Length of each path in l2, (p,) float64; 0 without a path."""
        own = l2(self.end.double() - self.start.double())
        return own.new_zeros(len(self.connected)).index_add(0, self.pair, own)

    def anchors(self) -> Tensor:
        """Number of points between the ends of each path, (p,) int64; -1 without a path."""
        return self.pair.bincount(minlength=len(self.connected)) - 1


def inside(logits: Tensor, target: Tensor) -> Tensor:
    """Whether the class `target` leads by more than rounding, (n,) bool; never where a logit is NaN.

    The lead asked for is that of `boundary.crossed`, so that a point keeps its verdict in another batch.
    """
    lead, slack = _lead(logits, target)
    return lead > slack


def _lead(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Lead of the class over all others, and the lead below which it may be rounding, (n,) each."""
    own = logits.gather(1, target[:, None]).squeeze(1)
    lead = own - logits.scatter(1, target[:, None], -torch.inf).amax(dim=1)
    return lead, ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(dim=1)


def enter(
    model: nn.Module, points: Tensor, target: Tensor, *, steps: int, overshoot: float, box: Box, batch_size: int
) -> Entered:
    """Push points into a class, by steps of DeepFool towards it, in one batch that is refilled as points arrive.

    Each step goes to the linearised boundary between the class and its strongest rival, the one with the largest
    logit, and beyond it by the overshoot: one backward pass. Entries that the box holds back are left out of a step. A
    point that is in the class stays where it is.

    Args:
        model: images to logits.
        points: (n, c, h, w) in the box.
        target: (n,) int64.
        steps: largest number of steps.
        overshoot: share added to each step. A small one leaves the point on the boundary, where the next segment of a
            path around an obstacle leaves the class again, and steps between several rivals creep: of 200 points on a
            small ResNet for digits, the slowest took 17 steps with 0.9, and some more than 100 with 0. With 1 each
            step mirrors the point at the linearised boundary.
        box: of valid images, not flipped.
        batch_size: points per pass.
    """
    current = points.clone()
    found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    forward, backward = torch.ones_like(target), torch.zeros_like(target)
    queue = torch.arange(len(points), device=points.device)
    if not len(points):  # some models refuse an empty batch
        return Entered(current, found, forward, backward)
    with torch.no_grad():
        for rows in torch.split(queue, batch_size):
            found[rows] = inside(model(points[rows]), target[rows])
    queue = (~found).nonzero().squeeze(1)
    active = queue[:0]
    while len(active) or len(queue):
        room = batch_size - len(active)
        active, queue = torch.cat([active, queue[:room]]), queue[room:]
        step, usable, arrived = _towards(model, current[active], target[active], box)
        forward[active] += 1
        backward[active] += 1
        found[active[arrived]] = True
        going = usable & ~arrived & (backward[active] <= steps)
        active = active[going]
        current[active] = box.clip(current[active] + (1 + overshoot) * step[going])
    return Entered(torch.where(per_sample(found, points), current, points), found, forward, backward)


def _towards(model: nn.Module, points: Tensor, target: Tensor, box: Box) -> tuple[Tensor, Tensor, Tensor]:
    """Steps to the linearised boundary of the class, whether there is one, and whether a point is inside already."""

    def strongest(logits: Tensor) -> Tensor:
        return logits.scatter(1, target[:, None], -torch.inf).argmax(dim=1, keepdim=True)

    logits, gradients = class_gradients(model, points, strongest, target)
    lead, slack = _lead(logits, target)
    gradient = gradients[:, 0]
    blocked = ((points <= box.low) & (gradient > 0)) | ((points >= box.high) & (gradient < 0))
    gradient = gradient.masked_fill(blocked, 0)
    distance = (2 * slack - lead) / l2(gradient)  # beyond the boundary by more than rounding
    usable = distance.isfinite()
    step = unit(gradient) * per_sample(torch.where(usable, -distance, 0), points)
    return step, usable, lead > slack


def all_inside(
    model: nn.Module,
    sample: Callable[[Tensor, Tensor], Tensor],
    counts: Tensor,
    target: Tensor,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Whether every sample of each of m things lies in the thing's class; the middle one is looked at first.

    Args:
        model: images to logits.
        sample: maps things (k,) int64 and places (k,) int64 below their counts to images (k, c, h, w).
        counts: (m,) int64, odd: samples of each thing.
        target: (m,) int64.
        batch_size: samples per pass.

    Returns:
        (m,) bool, and forward passes (m,) int64.
    """
    held = torch.ones_like(target, dtype=torch.bool)

    def look(thing: Tensor, place: Tensor) -> None:
        if not len(thing):  # some models refuse an empty batch
            return
        for rows in torch.split(torch.arange(len(thing), device=thing.device), batch_size):
            with torch.no_grad():
                logits = model(sample(thing[rows], place[rows]))
            held[thing[rows][~inside(logits, target[thing[rows]])]] = False

    middle = counts // 2
    everything = torch.arange(len(counts), device=counts.device)
    look(everything, middle)
    passes = torch.where(held, counts, 1)
    left = held.nonzero().squeeze(1)
    rest = counts[left] - 1
    thing = left.repeat_interleave(rest)
    place = torch.arange(len(thing), device=counts.device) - (rest.cumsum(0) - rest).repeat_interleave(rest)
    look(thing, place + (place >= middle[thing]).long())
    return held, passes


def sample_counts(lengths: Tensor, spacing: Tensor) -> Tensor:
    """Odd numbers of samples that leave gaps of about the spacing, at least three, (m,) int64."""
    wanted = torch.where(spacing > 0, lengths / spacing, 0).round().long().clamp(min=FEWEST)
    return wanted + (wanted + 1) % 2


def segments_inside(
    model: nn.Module, start: Tensor, end: Tensor, target: Tensor, counts: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """`all_inside` for evenly spaced points between the ends (m, c, h, w) of segments."""

    def sample(segment: Tensor, place: Tensor) -> Tensor:
        share = ((place + 1) / (counts[segment] + 1)).to(start)
        return start[segment] + per_sample(share, start) * (end[segment] - start[segment])

    return all_inside(model, sample, counts, target, batch_size)


def find_paths(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    target: Tensor,
    spacing: Tensor,
    *,
    depth: int,
    steps: int,
    overshoot: float,
    box: Box,
    batch_size: int,
) -> Paths:
    """Join pairs of points of one class inside it: the straight segment, or two paths by way of the middle, and so on.

    Fawzi, Moosavi-Dezfooli, Frossard, Soatto, "Empirical study of the topology and geometry of deep networks", CVPR
    2018: where the segment leaves the class, its middle is pushed into the class and both halves are looked at in turn.
    All open segments of all pairs are looked at together, level by level. Departures: a limit to the halvings; a large
    overshoot beyond the boundary (`enter`), without which paths around an obstacle never close. Nothing shortens a path
    afterwards.

    Args:
        model: images to logits.
        start: (p, c, h, w) points of the class, which is not checked.
        end: likewise.
        target: (p,) int64, the class.
        spacing: (p,) distance between samples; a segment has at least three.
        depth: largest number of halvings.
        steps: as in `enter`.
        overshoot: as in `enter`.
        box: of valid images, not flipped.
        batch_size: images per pass.
    """
    pair = torch.arange(len(start), device=start.device)
    position = torch.zeros(len(start), dtype=torch.float64, device=start.device)
    connected = torch.ones_like(pair, dtype=torch.bool)
    straight, reached = torch.zeros_like(connected), torch.zeros_like(pair)
    forward, backward = torch.zeros_like(pair), torch.zeros_like(pair)
    closed = []
    for level in range(depth + 1):
        counts = sample_counts(l2(end.double() - start.double()), spacing[pair])
        held, passes = segments_inside(model, start, end, target[pair], counts, batch_size)
        forward.index_add_(0, pair, passes)
        width = torch.full_like(position, 0.5**level)
        closed.append([values[held] for values in (pair, position, width, start, end)])
        reached[pair] = level
        if level == 0:
            straight = held
        pair, position, start, end = (values[~held] for values in (pair, position, start, end))
        if level == depth:
            connected[pair] = False
        if level == depth or not len(pair):
            break
        middle = enter(
            model,
            start + (end - start) / 2,
            target[pair],
            steps=steps,
            overshoot=overshoot,
            box=box,
            batch_size=batch_size,
        )
        forward.index_add_(0, pair, middle.forward)
        backward.index_add_(0, pair, middle.backward)
        connected[pair[~middle.found]] = False
        going = connected[pair]
        pair, position, start, end = (values[going] for values in (pair, position, start, end))
        between = middle.points[going]
        start, end = torch.cat([start, between]), torch.cat([between, end])
        pair, position = torch.cat([pair, pair]), torch.cat([position, position + 0.5 ** (level + 1)])
    pair, position, width, start, end = (torch.cat(parts) for parts in zip(*closed, strict=True))
    kept = connected[pair].nonzero().squeeze(1)
    kept = kept[(pair[kept] + position[kept]).argsort()]
    return Paths(
        connected=connected,
        straight=straight,
        depth=reached * connected,
        pair=pair[kept],
        position=position[kept],
        width=width[kept],
        start=start[kept],
        end=end[kept],
        forward=forward,
        backward=backward,
    )
