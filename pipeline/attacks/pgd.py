"""PGD: projected gradient ascent on the cross-entropy inside an lp ball."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.ascent import move
from pipeline.contracts import Count, NonNegative, Positive, UserError
from pipeline.numerics import randomness
from pipeline.numerics.boundary import crossed
from pipeline.numerics.gradients import loss_gradient
from pipeline.numerics.norms import unit


def pgd(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    epsilon: NonNegative,
    norm: Literal["l2", "linf"] = "linf",
    step_size: Positive | None = None,
    steps: Count = 20,
    restarts: Count = 1,
    random_start: bool = True,
) -> Tensor:
    """Projected gradient descent (Madry et al., ICLR 2018) with random restarts, batched.

    A sample stops at its first misclassified iterate and leaves the batch; restarts go to the samples left.

    Args:
        model: [0, 1] images to logits.
        images: (n, c, h, w) in [0, 1].
        labels: (n,) int64.
        seeds: (n,) int64; restart r of a sample draws its start from the sample's seed + r.
        epsilon: radius of the ball.
        norm: `linf` (steps along the sign) or `l2` (steps along the gradient's direction).
        step_size: length of a step; 2.5 * epsilon / steps if not given.
        steps: steps of each restart.
        restarts: number of starts.
        random_start: start from a uniform draw of the ball, clipped to the box; else from the clean image.

    Returns:
        (n, c, h, w) perturbed images inside ball and box: misclassified, or else the iterate with the highest loss.

    Raises:
        UserError: several restarts without a random start, which would all be the same.
    """
    if restarts > 1 and not random_start:
        raise UserError("restarts: more than one start needs random_start: true")
    length = 2.5 * epsilon / steps if step_size is None else step_size
    results = images.clone()
    highest = images.new_full((len(images),), -torch.inf)
    active = torch.arange(len(images), device=images.device)  # rows without success
    for restart in range(restarts):
        points = images[active]
        if random_start and len(active):
            points = _draw(points, seeds[active.to(seeds.device)] + restart, norm, epsilon)
        for step in range(steps + 1):
            if not len(active):
                return results
            source = labels[active]
            if step < steps:
                logits, losses, gradient = loss_gradient(model, points, source)
            else:  # the last iterate needs a verdict and no gradient
                with torch.no_grad():
                    logits = model(points)
                    losses = functional.cross_entropy(logits, source, reduction="none")
            done = crossed(logits, source)
            better = done | (losses > highest[active])
            results[active[better]] = points[better]
            highest[active[better]] = losses[better]
            active, points = active[~done], points[~done]
            if step < steps:
                points = move(images[active], points, gradient[~done], norm=norm, epsilon=epsilon, step_size=length)
    return results


def _draw(images: Tensor, seeds: Tensor, norm: str, epsilon: float) -> Tensor:
    """Uniform draws from the balls around the images, clipped to the box; the numbers come from the CPU in float32."""
    entries = images[0].numel()
    if norm == "linf":
        shift = 2 * randomness.uniform(seeds, (entries,)) - 1
    else:

        def direction_and_radius(_: int, generator: torch.Generator) -> Tensor:
            normal, radius = torch.randn(entries, generator=generator), torch.rand(1, generator=generator)
            return unit(normal[None])[0] * radius ** (1 / entries)

        shift = randomness.per_sample(direction_and_radius, seeds)
    return (images + epsilon * shift.to(images).view_as(images)).clamp(0, 1)
