"""The nearest linearised boundary inside a subspace, for pairs of sample and subspace."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.numerics.boundary import ROUNDING, crossed, distances, gaps, rivals, steepness
from pipeline.numerics.box import Box
from pipeline.numerics.gradients import class_gradients
from pipeline.numerics.norms import unit
from pipeline.numerics.subspaces import Subspaces

GROWTH = 8.0  # by which a rival's gradient may outgrow the longest seen on the way before it is looked at again


class Planes:
    """Hyperplanes around points of x + S, and what a pair's way has taught about them; pair = sample * spaces + space.

    A rival's distance in S is |gap| / |S^T gradient|. Gaps cost nothing, a gradient costs a backward pass. So after the
    first step the rival that is nearest by the longest gradient seen on the pair's way is looked at first, then those
    whose distance could be smaller if their gradient had grown by the factor `GROWTH`. That is a measured rule, no
    bound; inside subspaces gradients grow more than in the whole space, where `attacks.descent` allows for less.

    Attributes:
        source: (n,) int64, the classes of the clean images.
        logits: (n, classes) of the clean images.
        classes: (n, k) int64, the rivals.
        slopes: (pairs, k) length of the longest gradient of each rival so far; inf where there is none to go by.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, spaces: Subspaces, logits: Tensor, candidates: int, box: Box | None
    ) -> None:
        """Choose the rivals.

        Args:
            model: images to logits.
            images: (n, c, h, w) clean images.
            spaces: the subspaces.
            logits: (n, classes) of the clean images.
            candidates: rivals, those with the largest logits; all other classes if there are fewer.
            box: of valid images, or None.
        """
        self.model, self.images, self.spaces, self.box = model, images, spaces, box
        self.logits, self.source = logits, logits.argmax(dim=1)
        self.classes = rivals(logits, self.source, candidates)
        shape = (len(images) * len(spaces), self.classes.shape[1])
        self.slopes = torch.full(shape, torch.inf, dtype=images.dtype, device=images.device)

    def sample(self, pairs: Tensor) -> Tensor:
        """The samples of some pairs, (m,)."""
        return pairs // len(self.spaces)

    def space(self, pairs: Tensor) -> Tensor:
        """The subspaces of some pairs, (m,)."""
        return pairs % len(self.spaces)

    def points(self, pairs: Tensor, shifts: Tensor) -> Tensor:
        """Images (m, c, h, w) at some coefficients (m, ...); with a box the nearest valid ones."""
        points = self.images[self.sample(pairs)] + self.spaces.synthesise(shifts, self.space(pairs))
        return points if self.box is None else self.box.clip(points)

    @torch.no_grad()
    def logits_at(self, pairs: Tensor, shifts: Tensor) -> Tensor:
        """Logits (m, classes) at some coefficients."""
        logits: Tensor = self.model(self.points(pairs, shifts))
        return logits

    def over(self, pairs: Tensor, shifts: Tensor) -> Tensor:
        """Whether the images at some coefficients have left the class of the clean image, (m,) bool."""
        return crossed(self.logits_at(pairs, shifts), self.source[self.sample(pairs)])

    def first(self, rows: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """The pairs of some samples (m,), a subspace at a time, each with the `nearest` planes at the clean images.

        One gradient of each rival at the clean image serves all subspaces.
        """
        classes, source = self.classes[rows], self.source[rows]
        logits, gradients = class_gradients(self.model, self.images[rows], classes, source)
        every = torch.arange(classes.shape[1], device=rows.device).expand_as(classes)
        gap, found = gaps(logits, classes, source), []
        for space in range(len(self.spaces)):
            pairs = rows * len(self.spaces) + space
            found.append((pairs, *self._best(pairs, every, gap, gradients)))
        return found

    def nearest(self, pairs: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest plane around some points of the subspaces.

        Args:
            pairs: (m,).
            shifts: (m, ...) coefficients of the points.

        Returns:
            Distance (m,), inf if there is no plane; coefficients of its gradient (m, ...); their length (m,).
        """
        sample, points, known = self.sample(pairs), self.points(pairs, shifts), self.slopes[pairs]
        classes, source = self.classes[sample], self.source[sample]

        def first(logits: Tensor) -> Tensor:
            return (gaps(logits, classes, source).abs() / known).argmin(dim=1, keepdim=True)

        logits, gradients = class_gradients(self.model, points, lambda logits: classes.gather(1, first(logits)), source)
        gap, tried = gaps(logits, classes, source), first(logits)
        best = self._best(pairs, tried, gap, gradients)
        wanted = known.isinf() | (distances(gap, GROWTH * known) < best[0][:, None])
        wanted = wanted.scatter(1, tried, False)
        again = wanted.any(dim=1).nonzero().squeeze(1)
        if not len(again):
            return best
        asked, tried = wanted[again].sort(dim=1, descending=True, stable=True)
        most = int(asked.sum(dim=1).max())
        asked, tried = asked[:, :most], tried[:, :most]
        _, gradients = class_gradients(self.model, points[again], classes[again].gather(1, tried), source[again])
        # what a pair did not ask for and others in the batch did must not count, or the batch would matter
        gradients = gradients.masked_fill(~asked.view(*asked.shape, *[1] * (points.ndim - 1)), 0)
        other = self._best(pairs[again], tried, gap[again], gradients)
        nearer = other[0] < best[0][again]
        for mine, theirs in zip(best, other, strict=True):
            mine[again[nearer]] = theirs[nearer]
        return best

    def normal(self, pairs: Tensor, shifts: Tensor) -> Tensor:
        """Unit normal (m, ...), in the subspaces, of the level set of the leading rival at some points, or zero."""
        source = self.source[self.sample(pairs)]
        points = self.points(pairs, shifts)
        _, gradients = class_gradients(self.model, points, lambda logits: rivals(logits, source, 1), source)
        return unit(self._inside(pairs, gradients)[:, 0])

    def _best(self, pairs: Tensor, tried: Tensor, gap: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `nearest`, of the rivals tried (m, j), given their gradients (m, j, c, h, w) and all gaps (m, k)."""
        projected = self._inside(pairs, gradients)
        slopes, known = steepness(projected, "l2"), self.slopes[pairs]
        usable, before = slopes.isfinite() & (slopes > 0), known.gather(1, tried)
        longest = torch.where(before.isinf() | (slopes > before), slopes, before)
        self.slopes[pairs] = known.scatter(1, tried, torch.where(usable, longest, before))
        distance, nearest = distances(gap.gather(1, tried), slopes).min(dim=1)
        row = torch.arange(len(pairs), device=pairs.device)
        return distance, projected[row, nearest], slopes[row, nearest]

    def _inside(self, pairs: Tensor, gradients: Tensor) -> Tensor:
        """Coefficients S^T w of gradients (m, j, c, h, w); zero where only rounding of w is left in S."""
        projected = self.spaces.analyse(gradients, self.space(pairs))
        noise = ROUNDING * torch.finfo(gradients.dtype).eps * torch.linalg.vector_norm(gradients.flatten(2), dim=2)
        blind = torch.linalg.vector_norm(projected.flatten(2), dim=2) <= noise
        return projected.masked_fill(blind.view(*blind.shape, *[1] * (projected.ndim - 2)), 0)
