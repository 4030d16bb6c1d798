"""DeepFool: minimal l2 perturbations by repeated linearisation of the classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.contracts import Count, Natural, NonNegative
from pipeline.numerics.boundary import bisect, crossed, gaps, nearest_hyperplane, rivals
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
    steps: Count = 50,
    overshoot: NonNegative = 0.02,
    candidates: Count = 10,
    bisections: Natural = 10,
) -> Tensor:
    """DeepFool in l2 (Moosavi-Dezfooli, Fawzi, Frossard, CVPR 2016, algorithm 2), batched.

    Each step goes to the nearest of the hyperplanes that the linearised classifier puts between the label and its
    rivals; a sample is done when its image with the overshoot leaves its class. Samples that are done leave the
    batch before gradients are computed.

    Departures from the paper and its code: iterates stay in [0, 1]; once clipping has taken more than half of a
    sample's step, entries that a step would push out of the box are left out of it, without which images of black and
    white pixels creep or fail; the source class is the label; the step is |f| / |w| as in the paper, without the
    code's 1e-4; the result is bisected back to the boundary along the segment from the clean image.

    Args:
        model: [0, 1] images to logits.
        images: (n, c, h, w) in [0, 1].
        labels: (n,) int64.
        seeds: not used, the method is deterministic.
        steps: largest number of linearisations.
        overshoot: share added to the perturbation to cross the boundary.
        candidates: rivals, those with the largest logits on the clean image; all other classes if there are fewer.
        bisections: halvings of the segment; 0 returns the image with the overshoot.

    Returns:
        (n, c, h, w) perturbed images; the clean image where none was found.
    """
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
        blocked = ((points <= 0)[:, None] & (gradients < 0)) | ((points >= 1)[:, None] & (gradients > 0))
        gradients = gradients.masked_fill(blocked & per_sample(stuck, gradients), 0)
        step, valid = nearest_hyperplane(gaps(logits, others, source), gradients)
        previous, points = points, (points + step).clamp(0, 1)
        stuck |= l2(points - previous) < CLIPPED * l2(step)
        trial = (clean + (1 + overshoot) * (points - clean)).clamp(0, 1)
        with torch.no_grad():
            done = crossed(model(trial), source) & valid
        results[active[done]] = trial[done]
        found[active[done]] = True
        going = valid & ~done
        active, points, stuck = active[going], points[going], stuck[going]
    if bisections and found.any():
        results[found] = _to_boundary(model, images[found], results[found], labels[found], bisections)
    return results


@torch.no_grad()
def _to_boundary(model: nn.Module, clean: Tensor, beyond: Tensor, labels: Tensor, bisections: int) -> Tensor:
    def between(scale: Tensor) -> Tensor:
        return (clean + per_sample(scale, clean) * (beyond - clean)).clamp(0, 1)

    scale = bisect(lambda scale: crossed(model(between(scale)), labels), clean, bisections)
    return torch.where(per_sample(scale < 1, clean), between(scale), beyond)
