"""DeepFool's steps, shared by the attacks that are made of them; walks on pixels behind the flip; the way back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.numerics.boundary import distances, expected_crossing, gaps, lead, locate, rivals, steepness
from pipeline.numerics.box import Box
from pipeline.numerics.frequency import flip
from pipeline.numerics.gradients import class_gradients
from pipeline.numerics.norms import l2, per_sample

WIDTH = 64  # images a pass on a CPU, whose caches larger batches outgrow: by 5 % and more for a ResNet-20 at 32 pixels
CLIPPED = 0.5  # a step is stuck if the box leaves less than this share of it
GROWTH = 2.0  # by which a rival's gradient may outgrow the longest seen on the way before it is looked at again
SPREAD = 1.5  # by which a rival's first gradient may be longer than the longest of the other rivals'
MOST = 2  # rivals that a step looks at besides the first


def along(gradient: Tensor, slope: Tensor, distance: Tensor, norm: str) -> Tensor:
    """Steps (m, c, h, w) of those lengths (m,) that gain the most along gradients of those dual norms (m,)."""
    if norm == "linf":
        return gradient.sign() * per_sample(distance, gradient)
    return gradient * per_sample(distance / slope, gradient)


def in_parts(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """What a function gives for the rows of some tensors, on a CPU for at most `WIDTH` of them at a time."""
    parts = -(-len(tensors[0]) // WIDTH) if tensors[0].device.type == "cpu" else 1
    if parts <= 1:
        return function(*tensors)
    results = [function(*part) for part in zip(*(tensor.tensor_split(parts) for tensor in tensors), strict=True)]
    return tuple(torch.cat(column) for column in zip(*results, strict=True))


class Walk(NamedTuple):
    """Where walks have led.

    Attributes:
        found: (m,) bool, whether each sample has left its class.
        ends: (m, c, h, w), where; the start where it has not.
        leads: (m,) by how much another class leads there; NaN where the sample has not left its class.
        guesses: (m,) at which share of the way from start to end the boundary is expected, in (0, 1), or NaN.
    """

    found: Tensor
    ends: Tensor
    leads: Tensor
    guesses: Tensor


class Descent:
    """Steps of DeepFool for a batch of samples, with what they teach about each sample's rivals.

    A rival's distance is |gap| / |gradient|. Gaps cost nothing, a gradient costs a backward pass. The rival that is
    nearest by the longest gradient seen on the sample's way is looked at first, then those whose distance could be
    smaller if their gradient had grown by the factor `GROWTH`, the nearest `MOST` of them (all of them where the first
    has no usable gradient). A rival that was never looked at is taken to have a gradient as long as the longest of the
    others, and `SPREAD` in place of `GROWTH`. That is a measured rule, no bound.

    Attributes:
        active: (m,) int64, the samples that are in their class.
        leads: (n,) by how much another class leads on the clean images.
        classes: (n, k) int64, the rivals.
        slopes: (n, k) dual norm of the longest gradient of each rival so far; inf where there is none to go by.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, labels: Tensor, candidates: int, box: Box, norm: str = "l2"
    ) -> None:
        """Choose the rivals and linearise the nearest, for the first step: one forward and one backward pass.

        The backward passes for the next rivals join in where most images would come back for them.

        Args:
            model: images to logits.
            images: (n, c, h, w) clean images.
            labels: (n,) int64 source classes.
            candidates: rivals, those with the largest logits; all other classes if there are fewer.
            box: of valid images; a flipped one is kept by its nearest point alone.
            norm: `l2` or `linf`.
        """
        self.model, self.labels, self.box, self.norm = model, labels, box, norm
        shared: int | None = None

        def opening(images: Tensor, source: Tensor) -> tuple[Tensor, ...]:
            def nearest(logits: Tensor) -> Tensor:
                nonlocal shared
                if shared is None:  # the first part decides for all
                    shared = _shared(logits, source, candidates)
                return rivals(logits, source, 1 + shared)

            return class_gradients(model, images, nearest, source)

        logits, gradients = in_parts(opening, images, labels)
        self.leads = lead(logits, labels)
        self.active = (~(self.leads > 0)).nonzero().squeeze(1)
        self.classes = rivals(logits, labels, candidates)
        self._opening: tuple[Tensor, Tensor] | None = (logits, gradients)
        self.slopes = torch.full(self.classes.shape, torch.inf, dtype=images.dtype, device=images.device)

    def walk(self, rows: Tensor, start: Tensor, steps: int, overshoot: float) -> Walk:
        """Walk from where some samples stand until they leave their class.

        Args:
            rows: (m,) int64, which samples.
            start: (m, c, h, w) in the box; the clean images in the first walk.
            steps: largest number of linearisations.
            overshoot: share added to the way gone.
        """
        found, ends = torch.zeros_like(rows, dtype=torch.bool), start.clone()
        leads, guesses = start.new_full((2, len(rows)), torch.nan)
        active = torch.arange(len(rows), device=rows.device)
        points = start
        stuck = torch.zeros_like(found)
        for _ in range(steps):
            if not len(active):
                break
            source = self.labels[rows[active]]
            distance, gradient, slope = self._nearest(rows[active], points, stuck)
            valid = distance.isfinite()
            step = torch.where(per_sample(valid, points), along(gradient, slope, distance, self.norm), 0)
            previous, points = points, self.box.clip(points + step)
            stuck |= self._stuck(points - previous, step, gradient)
            origin = start[active]
            trial = self.box.clip(origin + (1 + overshoot) * (points - origin))
            with torch.no_grad():
                (reached,) = in_parts(lambda images, source: (lead(self.model(images), source),), trial, source)
            done = (reached > 0) & valid
            arrived, way = active[done], (trial - origin)[done]
            found[arrived], ends[arrived], leads[arrived] = True, trial[done], reached[done]
            last, climb = l2(step[done]) / l2(way), (gradient[done] * way).flatten(1).sum(dim=1)
            guesses[arrived] = expected_crossing(last, climb, reached[done], overshoot)
            going = valid & ~done
            active, points, stuck = active[going], points[going], stuck[going]
        return Walk(found, ends, leads, guesses)

    def _nearest(self, rows: Tensor, points: Tensor, stuck: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distance (m,) to the nearest hyperplane, inf if there is none, its gradient (m, c, h, w) and slope (m,)."""
        classes, source = self.classes[rows], self.labels[rows]

        def linearised(points: Tensor, classes: Tensor, source: Tensor, usual: Tensor) -> tuple[Tensor, ...]:
            def first(logits: Tensor) -> Tensor:
                return (gaps(logits, classes, source).abs() / usual).argmin(dim=1, keepdim=True)

            logits, gradients = class_gradients(
                self.model, points, lambda logits: classes.gather(1, first(logits)), source
            )
            return logits, gradients, first(logits)

        if self._opening is None:
            logits, gradients, tried = in_parts(linearised, points, classes, source, self._slopes(rows, 1, 1))
            opening = gradients[:, :0]
        else:
            (logits, opening), self._opening = self._opening, None
            logits, gradients, tried = logits[rows], opening[rows, :1], torch.zeros_like(classes[:, :1])
        gap = gaps(logits, classes, source)
        best = self._best(rows, tried, gap, gradients, points, stuck)
        presumed = distances(gap, self._slopes(rows, GROWTH, SPREAD)).scatter(1, tried, torch.inf)
        presumed, others = presumed.sort(dim=1, stable=True)
        wanted = presumed < best[0][:, None]  # in the order of presumed distances: the first ones
        wanted[:, MOST:] &= best[0].isinf()[:, None]  # the first one leads nowhere
        counts = wanted.sum(dim=1)
        for count in sorted(set(counts.tolist()) - {0}):  # samples that ask for as many rivals share a batch
            again = (counts == count).nonzero().squeeze(1)
            tried = others[again, :count]
            if int(tried.max()) < opening.shape[1]:
                gradients = opening[rows[again, None], tried]
            else:
                asked = points[again], classes[again].gather(1, tried), source[again]
                _, gradients = in_parts(partial(class_gradients, self.model), *asked)
            other = self._best(rows[again], tried, gap[again], gradients, points[again], stuck[again])
            nearer = other[0] < best[0][again]
            for mine, theirs in zip(best, other, strict=True):
                mine[again[nearer]] = theirs[nearer]
        return best

    def _slopes(self, rows: Tensor, growth: float, spread: float) -> Tensor:
        """Slopes (m, k) to reckon with: `growth` times the known ones, `spread` times the longest known for others."""
        known = self.slopes[rows]
        seen = known.isfinite()
        longest = known.masked_fill(~seen, 0).amax(dim=1, keepdim=True)
        return torch.where(seen, growth * known, spread * torch.where(longest > 0, longest, 1))

    def _best(
        self, rows: Tensor, tried: Tensor, gap: Tensor, gradients: Tensor, points: Tensor, stuck: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `_nearest`, of the rivals tried (m, j), given their gradients (m, j, c, h, w) and all gaps (m, k)."""
        slopes, known = steepness(gradients, self.norm), self.slopes[rows]
        usable, before = slopes.isfinite() & (slopes > 0), known.gather(1, tried)
        longest = torch.where(before.isinf() | (slopes > before), slopes, before)
        self.slopes[rows] = known.scatter(1, tried, torch.where(usable, longest, before))
        if stuck.any() and not self.box.flipped:
            low, high = ((points <= self.box.low)[:, None], (points >= self.box.high)[:, None])
            blocked = (low & (gradients < 0)) | (high & (gradients > 0))
            gradients = gradients.masked_fill(blocked & per_sample(stuck, gradients), 0)
            slopes = steepness(gradients, self.norm)
        distance, nearest = distances(gap.gather(1, tried), slopes).min(dim=1)
        if tried.shape[1] == 1:  # nothing to choose, nothing to copy
            return distance, gradients[:, 0], slopes[:, 0]
        row = torch.arange(len(rows), device=rows.device)
        return distance, gradients[row, nearest], slopes[row, nearest]

    def _stuck(self, moved: Tensor, step: Tensor, gradient: Tensor) -> Tensor:
        """Whether the box left less than half of each step: of its length in l2, of its gain in linf, (m,) bool."""
        if self.norm == "l2":
            return l2(moved) < CLIPPED * l2(step)
        return ((moved - CLIPPED * step) * gradient).flatten(1).sum(dim=1) < 0


def _shared(logits: Tensor, source: Tensor, candidates: int) -> int:
    """For how many rivals besides the nearest to linearise all clean images: as many as can be asked for, or none.

    Before the first step no slope is known, so gaps alone tell who will ask for more rivals. Who does takes a forward
    pass and backward passes for these; the same backward passes for all images of the batch need no other forward pass.
    """
    gap = gaps(logits, rivals(logits, source, min(candidates, 1 + MOST)), source).abs()
    count = (gap[:, 1:] < SPREAD * gap[:, :1]).sum(dim=1)
    most = gap.shape[1] - 1
    return most if int((count + (count > 0)).sum()) > most * len(gap) else 0


def on_pixels(attack: Callable[[nn.Module, Tensor, Box], Tensor], model: nn.Module, images: Tensor, box: Box) -> Tensor:
    """Run an attack on flipped data behind the flip, where the bounds hold entry by entry; l2 lengths are the same.

    Args:
        attack: maps a model of pixels, pixels (n, c, h, w) and their box to perturbed pixels.
        model: flipped images to logits.
        images: (n, c, h, w) flipped images in the box.
        box: flipped.

    Returns:
        (n, c, h, w) perturbed flipped images; the very image where the attack changes nothing.
    """
    pixels = flip(images)
    moved = attack(_BehindTheFlip(model), pixels, Box(box.low, box.high))
    left = (moved == pixels).flatten(1).all(dim=1)  # flipping it back would round it
    return torch.where(per_sample(left, images), images, flip(moved))


class _BehindTheFlip(nn.Module):
    """A classifier of flipped images as one of pixels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(flip(pixels))
        return logits


@torch.no_grad()
def to_boundary(
    model: nn.Module,
    clean: Tensor,
    beyond: Tensor,
    labels: Tensor,
    box: Box,
    bisections: int,
    *,
    start: Tensor,
    end: Tensor,
    guess: Tensor,
) -> Tensor:
    """Shorten perturbations along the segment from the clean image, (n, c, h, w), all of another class than the label.

    Args:
        model: images to logits.
        clean: (n, c, h, w) in the box.
        beyond: (n, c, h, w) in the box, of another class than the label.
        labels: (n,) int64.
        box: of valid images.
        bisections: halvings whose accuracy is wanted, see `locate`; 0 changes nothing.
        start: (n,) by how much another class leads on the clean images.
        end: (n,) by how much it leads beyond.
        guess: (n,) share of the segment at which the boundary is expected, NaN where nothing is known.
    """
    if not bisections or not len(clean):
        return beyond

    def between(rows: Tensor, scale: Tensor) -> Tensor:
        near = clean[rows]
        return box.clip(near + per_sample(scale.to(near.dtype), near) * (beyond[rows] - near))

    def ahead(rows: Tensor, scale: Tensor) -> Tensor:
        (leads,) = in_parts(lambda rows, scale: (lead(model(between(rows, scale)), labels[rows]),), rows, scale)
        return leads

    scale = locate(ahead, start, end, guess, bisections)
    rows = torch.arange(len(clean), device=clean.device)
    return torch.where(per_sample(scale < 1, clean), between(rows, scale), beyond)
