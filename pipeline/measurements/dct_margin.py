"""Margins along frequency subspaces: the distance to the decision boundary inside diagonal blocks of the DCT."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, NonNegative, UserError, View
from pipeline.measurements.inference import correct, logits_of, nullable
from pipeline.numerics.boundary import ROUNDING, bisect, crossed, gaps, nearest_hyperplane, rivals
from pipeline.numerics.gradients import class_gradients
from pipeline.numerics.norms import l2, per_sample
from pipeline.numerics.subspaces import DiagonalBlocks, diagonal_frequencies

ACCEPTS: tuple[str, ...] = ("clean",)
COLUMNS: Mapping[str, Column] = {
    "block": Column("int16", "index of the block, from low to high frequency"),
    "frequency": Column("int16", "first row and column of the block in the coefficient plane"),
    "label": Column("int32", "true class"),
    "prediction": Column("int32", "class of the clean image, from which the distance is measured"),
    "correct": Column("bool", "prediction is the label"),
    "converged": Column("bool", "a point of another class was found inside the subspace"),
    "margin": Column(
        "float64", "l2 distance to the boundary inside the subspace, in units of the data; null if none was found"
    ),
    "iterations": Column("int16", "linearisations"),
}
BISECTIONS = 20  # the margin is within 1e-6 of its length above a crossing
FLOOR = 1e-4  # the released code's shortest step


def dct_margin(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    size: Count = 8,
    step: Count = 8,
    steps: Count = 100,
    overshoot: NonNegative = 0.02,
    candidates: Count = 10,
    mode: Literal["bisected", "official"] = "bisected",
) -> dict[str, Sequence[Any]]:
    """Subspace DeepFool of "Hold me tight!" (Ortiz-Jimenez, Modas, Moosavi-Dezfooli, Frossard, NeurIPS 2020).

    For each sample and each block S of diagonal frequencies: r walks, inside S, to the nearest linearised boundary
    |f| / |S^T w| until x + (1 + overshoot) r leaves the class of the clean image; no box, so a margin can exceed what
    a valid image allows. `bisected` then halves the segment from x to that point back to the boundary; `official`
    keeps the overshoot and steps by at least 1e-4, as the released code does, which overstates curved margins.

    Departures from the released code in both modes: a walk that finds no other class has no margin instead of the
    last iterate's length, and so has one whose gradients vanish in S (to rounding) or are not finite. All pairs of
    sample and block share one batch that is refilled as pairs finish; the blocks of a sample share their first
    gradients, those at the clean image.

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: (n,) int64.
        seeds: not used, the method is deterministic.
        views: not used.
        batch_size: pairs per pass.
        size: rows and columns of a block, K in the paper (8 for MNIST and CIFAR-10, 16 for ImageNet).
        step: frequencies from one block to the next (1 for MNIST, 2 for CIFAR-10, 16 for ImageNet).
        steps: largest number of linearisations.
        overshoot: share by which a step is lengthened to cross the boundary.
        candidates: rivals, those with the largest logits on the clean image; all other classes if there are fewer.
        mode: `bisected` or `official`.

    Returns:
        Columns as in `COLUMNS`, and `row`.

    Raises:
        UserError: no block of this size fits the images.
    """
    height, width = images.shape[-2:]
    frequencies = diagonal_frequencies(height, width, size, step)
    if not frequencies:
        raise UserError(
            f"size: a block of {size} x {size} frequencies does not fit images of {height} x {width} pixels"
        )
    walks = _Walks(
        model, images, DiagonalBlocks(images, size, frequencies), overshoot, FLOOR if mode == "official" else 0
    )
    logits, valid = walks.start(batch_size, candidates)
    converged, iterations = walks.go(valid, batch_size, steps)
    if mode == "bisected":
        walks.return_to_boundary(converged, batch_size)
    count, repeats = len(images), len(frequencies)
    return {
        "row": [row for row in range(count) for _ in range(repeats)],
        "block": list(range(repeats)) * count,
        "frequency": list(frequencies) * count,
        "label": labels.repeat_interleave(repeats).tolist(),
        "prediction": logits.argmax(dim=1).repeat_interleave(repeats).tolist(),
        "correct": correct(logits, labels).repeat_interleave(repeats).tolist(),
        "converged": converged.tolist(),
        "margin": nullable((1 + overshoot) * l2(walks.shifts.double()), converged),
        "iterations": iterations.tolist(),
    }


class _Walks:
    """One walk per pair of sample and block; pair = sample * number of blocks + block.

    Attributes:
        shifts: (pairs, c, size, size), r of each walk as coefficients in its block.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, blocks: DiagonalBlocks, overshoot: float, floor: float
    ) -> None:
        self.model, self.images, self.blocks = model, images, blocks
        self.stretch, self.floor = 1 + overshoot, floor

    def start(self, batch_size: int, candidates: int) -> tuple[Tensor, Tensor]:
        """Take every walk's first step, from gradients that the blocks of a sample share.

        Returns:
            Clean logits (n, classes), and (pairs,) bool: whether there was a step to take.
        """
        logits = logits_of(self.model, self.images, batch_size)
        self.source = logits.argmax(dim=1)
        self.classes = rivals(logits, self.source, candidates)
        pairs = (len(self.images), len(self.blocks))
        shape = self.blocks.analyse(self.images[:1], self.source.new_zeros(1)).shape[1:]
        shifts = self.images.new_zeros(*pairs, *shape)
        valid = torch.zeros(pairs, dtype=torch.bool, device=self.images.device)
        for rows in torch.split(torch.arange(len(self.images), device=self.images.device), batch_size):
            values, gradients = self._linearise(self.images[rows], rows)
            for block in range(len(self.blocks)):
                projected = self._project(gradients, torch.full_like(rows, block))
                shifts[rows, block], valid[rows, block] = nearest_hyperplane(values, projected, self.floor)
        self.shifts = shifts.flatten(0, 1)
        return logits, valid.flatten()

    def go(self, valid: Tensor, batch_size: int, steps: int) -> tuple[Tensor, Tensor]:
        """Walk all valid pairs to the other side, in one batch that is refilled as pairs finish.

        Returns:
            Whether each pair arrived, (pairs,) bool, and its number of linearisations, (pairs,) int64.
        """
        converged = torch.zeros_like(valid)
        iterations = torch.ones_like(valid, dtype=torch.int64)
        queue = valid.nonzero().squeeze(1)
        active = queue[:0]
        while len(active) or len(queue):
            room = batch_size - len(active)
            active, queue = torch.cat([active, queue[:room]]), queue[room:]
            arrived = self._beyond(active, self.shifts.new_ones(len(active)))
            converged[active[arrived]] = True
            active = active[~arrived & (iterations[active] < steps)]
            if not len(active):
                continue
            sample, block = active // len(self.blocks), active % len(self.blocks)
            points = self.images[sample] + self.blocks.synthesise(self.shifts[active], block)
            values, gradients = self._linearise(points, sample)
            step, usable = nearest_hyperplane(values, self._project(gradients, block), self.floor)
            iterations[active] += 1
            self.shifts[active] += step
            active = active[usable]
        return converged, iterations

    def return_to_boundary(self, converged: Tensor, batch_size: int) -> None:
        """Shorten the shifts of the pairs that arrived until their points lie just beyond the boundary."""
        for pairs in torch.split(converged.nonzero().squeeze(1), batch_size):
            shifts = self.shifts[pairs]
            scale = bisect(functools.partial(self._beyond, pairs), shifts, BISECTIONS)
            self.shifts[pairs] = per_sample(scale, shifts) * shifts

    def _linearise(self, points: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Logit differences (m, k) to the rivals of the samples, and their gradients (m, k, c, h, w)."""
        source, classes = self.source[sample], self.classes[sample]
        logits, gradients = class_gradients(self.model, points, classes, source)
        return gaps(logits, classes, source), gradients

    def _project(self, gradients: Tensor, block: Tensor) -> Tensor:
        """Coefficients S^T w of gradients (m, k, c, h, w); zero where only rounding of w is left in S."""
        projected = self.blocks.analyse(gradients, block)
        noise = ROUNDING * torch.finfo(gradients.dtype).eps * torch.linalg.vector_norm(gradients.flatten(2), dim=2)
        blind = torch.linalg.vector_norm(projected.flatten(2), dim=2) <= noise
        return projected.masked_fill(blind[..., None, None, None], 0)

    @torch.no_grad()
    def _beyond(self, pairs: Tensor, scale: Tensor) -> Tensor:
        """Whether x + scale * (1 + overshoot) * r has left the class of x, (m,) bool."""
        sample, block = pairs // len(self.blocks), pairs % len(self.blocks)
        shifts = self.shifts[pairs]
        shifts = per_sample(self.stretch * scale, shifts) * shifts
        return crossed(self.model(self.images[sample] + self.blocks.synthesise(shifts, block)), self.source[sample])
