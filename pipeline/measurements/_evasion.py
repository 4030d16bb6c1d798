"""An attacker who knows that curvature is looked at, and makes it look natural."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.numerics import randomness
from pipeline.numerics.boundary import crossed, rivals
from pipeline.numerics.box import Box
from pipeline.numerics.gradients import class_gradients
from pipeline.numerics.norms import l2, per_sample, unit

PROBES = 4  # directions of the attacker, drawn anew in every step


def evade(
    model: nn.Module,
    clean: Tensor,
    start: Tensor,
    source: Tensor,
    seeds: Tensor,
    box: Box,
    radius: float,
    top_k: int | None,
    steps: int,
    step: float,
) -> Tensor:
    """Perturbed images that keep a wrong class while their mean curvature comes near that of the clean image.

    Selective gradient descent of Bryniarski, Hingun, Pachuca, Wang, Carlini, "Evading adversarial example detection
    defenses with orthogonal projected gradient descent" (ICLR 2022): an image that is classified as `source` takes a
    step towards its rival, any other one a step against the detector, both of one length, so that no weight has to be
    tuned between the two. Here the detector's loss is (rho(x) - rho(clean))^2: what matches the very image it hides is
    natural under either orientation and any threshold. The attacker knows the detector but not its draws: rho is
    estimated along `PROBES` fresh random directions in every step, the same for both images. The best iterate of
    another class, the start included, is kept.

    Departures: of rho's parts, the directions are not projected off the normals, and the lengths of the gradients are
    held fixed within a step. Second differences of logits make one backward pass enough, for rectifiers as well.

    Args:
        model: images to logits.
        clean: (n, c, h, w) natural images.
        start: (n, c, h, w), of another class than `source`; no iterate is farther from the clean image in l2.
        source: (n,) int64, classes of the clean images.
        seeds: (n,) int64.
        box: of valid images.
        radius: of the differences.
        top_k: classes that the detector looks at; None: all.
        steps: number of steps.
        step: length of a step, as a share of the distance of the start.

    Returns:
        (n, c, h, w).
    """
    budget = l2(start - clean)
    weights, _ = _weights(model, clean, top_k)
    point, best = start.clone(), start.clone()
    least = torch.full_like(budget, torch.inf)
    for number in range(steps + 1):
        normal = randomness.normal(seeds + 1 + number, (PROBES, *clean.shape[1:])).to(clean)
        probes = unit(normal.flatten(0, 1)).view_as(normal)
        with torch.no_grad():
            natural = _bend(model, clean, weights, probes, radius)
        mixed, logits = _weights(model, point, top_k)
        with torch.enable_grad():
            inputs = point.detach().requires_grad_(True)
            loss = (_bend(model, inputs, mixed, probes, radius) - natural).square()
            (away,) = torch.autograd.grad(loss.sum(), inputs)
        over = crossed(logits, source)
        better = over & (loss.detach() < least)
        least = torch.where(better, loss.detach(), least)
        best = torch.where(per_sample(better, best), point, best)
        if number == steps:
            break
        rival = rivals(logits, source, 1)
        ahead = class_gradients(model, point, rival, source)[1][:, 0]
        move = torch.where(per_sample(over, point), -unit(away), unit(ahead))
        shift = point + per_sample(step * budget, move) * move - clean
        inside = per_sample(budget / l2(shift).clamp(min=torch.finfo(shift.dtype).tiny), shift).clamp(max=1)
        point = box.clip(clean + inside * shift)
    return best


def _weights(model: nn.Module, points: Tensor, top_k: int | None) -> tuple[Tensor, Tensor]:
    """Coefficients (n, classes) of the logits in mean_i F_i / |grad F_i|, and the logits."""
    with torch.no_grad():
        logits = model(points)
    predicted = logits.argmax(dim=1)
    others = rivals(logits, predicted, top_k or logits.shape[1])
    _, gradients = class_gradients(model, points, others, predicted)
    slopes = torch.linalg.vector_norm(gradients.flatten(2), dim=2)
    shares = torch.where(slopes > 0, 1 / slopes, 0) / others.shape[1]
    weights = torch.zeros_like(logits).scatter(1, others, shares)
    return weights.scatter(1, predicted[:, None], -shares.sum(dim=1, keepdim=True)), logits


def _bend(model: nn.Module, points: Tensor, weights: Tensor, probes: Tensor, radius: float) -> Tensor:
    """Mean second difference of a weighted sum of the logits along the probes, (n,)."""
    count, repeats = probes.shape[:2]
    steps = radius * probes.flatten(0, 1)
    centres = points.repeat_interleave(repeats, dim=0)
    sums = (model(centres + steps) + model(centres - steps)).view(count, repeats, -1)
    bends: Tensor = weights * (sums.mean(dim=1) - 2 * model(points))
    return bends.sum(dim=1) / radius**2
