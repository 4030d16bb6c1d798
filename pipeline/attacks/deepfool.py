"""DeepFool: minimal l2 perturbations by repeated linearisation of the classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.contracts import Count, Natural, NonNegative
from pipeline.numerics.boundary import bisect, crossed, gaps, nearest_hyperplane, rivals
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip
from pipeline.numerics.gradients import class_gradients
from pipeline.numerics.norms import l2, per_sample

NORM = "l2"
CLIPPED = 0.5  # a step is stuck if the box leaves less than this share of its length


def deepfool(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    steps: Count = 50,
    overshoot: NonNegative = 0.02,
    candidates: Count = 10,
    bisections: Natural = 10,
) -> Tensor:
    """DeepFool in l2 (Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016, algorithm 2), batched.

    Each step goes to the nearest of the hyperplanes that the linearised classifier puts between the label and its
    rivals; a sample is done when its image with the overshoot leaves its class. Samples that are done leave the
    batch before gradients are computed.

    Departures from the paper and its code: iterates stay in the box; once clipping has taken more than half of a
    sample's step, entries that a step would push out of the box are left out of it, without which images of black and
    white pixels creep or fail; the source class is the label; the step is |f| / |w| as in the paper, without the
    code's 1e-4; the result is bisected back to the boundary along the segment from the clean image. Where the box lies
    behind the frequency flip, the method runs there, on the pixels: the flip keeps l2 lengths, so steps and result are
    the same but for the bounds, which are met entry by entry.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: not used, the method is deterministic.
        box: of valid images.
        steps: largest number of linearisations.
        overshoot: share added to the perturbation to cross the boundary.
        candidates: rivals, those with the largest logits on the clean image; all other classes if there are fewer.
        bisections: halvings of the segment; 0 returns the image with the overshoot.

    Returns:
        (n, c, h, w) perturbed images; the clean image where none was found.
    """
    if box.flipped:
        pixels = flip(images)
        moved = deepfool(
            model=_BehindTheFlip(model),
            images=pixels,
            labels=labels,
            seeds=seeds,
            box=Box(box.low, box.high),
            steps=steps,
            overshoot=overshoot,
            candidates=candidates,
            bisections=bisections,
        )
        left = (moved == pixels).flatten(1).all(dim=1)  # flipping it back would round it
        return torch.where(per_sample(left, images), images, flip(moved))
    results = images.clone()
    found = torch.zeros_like(labels, dtype=torch.bool)
    with torch.no_grad():
        logits = model(images)
    active = (~crossed(logits, labels)).nonzero().squeeze(1)
    classes = rivals(logits, labels, candidates)
    points = images[active]
    stuck = torch.zeros_like(active, dtype=torch.bool)
    for _ in range(steps):
        if not len(active):
            break
        clean, source, others = images[active], labels[active], classes[active]
        logits, gradients = class_gradients(model, points, others, source)
        blocked = ((points <= box.low)[:, None] & (gradients < 0)) | ((points >= box.high)[:, None] & (gradients > 0))
        gradients = gradients.masked_fill(blocked & per_sample(stuck, gradients), 0)
        step, valid = nearest_hyperplane(gaps(logits, others, source), gradients)
        previous, points = points, box.clip(points + step)
        stuck |= l2(points - previous) < CLIPPED * l2(step)
        trial = box.clip(clean + (1 + overshoot) * (points - clean))
        with torch.no_grad():
            done = crossed(model(trial), source) & valid
        results[active[done]] = trial[done]
        found[active[done]] = True
        going = valid & ~done
        active, points, stuck = active[going], points[going], stuck[going]
    if bisections and found.any():
        results[found] = _to_boundary(model, images[found], results[found], labels[found], box, bisections)
    return results


class _BehindTheFlip(nn.Module):
    """A classifier of flipped images as one of pixels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(flip(pixels))
        return logits


@torch.no_grad()
def _to_boundary(model: nn.Module, clean: Tensor, beyond: Tensor, labels: Tensor, box: Box, bisections: int) -> Tensor:
    def between(scale: Tensor) -> Tensor:
        return box.clip(clean + per_sample(scale, clean) * (beyond - clean))

    scale = bisect(lambda scale: crossed(model(between(scale)), labels), clean, bisections)
    return torch.where(per_sample(scale < 1, clean), between(scale), beyond)
