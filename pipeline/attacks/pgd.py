"""PGD: projected gradient ascent on the cross-entropy, or another loss, inside an lp ball."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.attacks._losses import LOSSES, loss_gradient
from pipeline.attacks.ascent import move, restrict
from pipeline.contracts import Count, NonNegative, Positive, UserError
from pipeline.numerics import randomness
from pipeline.numerics.boundary import crossed
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import uniform_in_ball


def pgd(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    epsilon: NonNegative,
    norm: Literal["l2", "linf", "l1"] = "linf",
    step_size: Positive | None = None,
    steps: Count = 20,
    restarts: Count = 1,
    random_start: bool = True,
    loss: Literal["ce", "dlr", "margin"] = "ce",
) -> Tensor:
    """Projected gradient descent (Madry et al., ICLR 2018) with random restarts, batched.

    A sample stops at its first misclassified iterate and leaves the batch; restarts go to the samples left.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: (n,) int64; restart r of a sample draws its start from the sample's seed + r.
        box: of valid images.
        epsilon: radius of the ball.
        norm: `linf` (steps along the sign), `l2` (along the gradient's direction) or `l1` (along the signs of its
            largest entries); `ascent.restrict` says how ball and box are met together.
        step_size: length of a step; 2.5 * epsilon / steps if not given.
        steps: steps of each restart.
        restarts: number of starts.
        random_start: start from a uniform draw of the ball, brought into the box; else from the clean image.
        loss: what to raise: `ce`, the cross-entropy; `dlr`, the difference of logits ratio (Croce and Hein, ICML 2020);
            `margin`, the largest other logit less the label's (Carlini and Wagner, S&P 2017).

    Returns:
        (n, c, h, w) perturbed images inside ball and box: misclassified, or else the iterate with the highest loss.

    Raises:
        UserError: several restarts without a random start, which would all be the same; `dlr` with two classes.
    """
    if restarts > 1 and not random_start:
        raise UserError("restarts: more than one start needs random_start: true")
    objective = LOSSES[loss]
    length = 2.5 * epsilon / steps if step_size is None else step_size
    results = images.clone()
    highest = images.new_full((len(images),), -torch.inf)
    active = torch.arange(len(images), device=images.device)  # rows without success
    for restart in range(restarts):
        points = images[active]
        if random_start and len(active):
            draws = randomness.per_sample(
                lambda _, generator: uniform_in_ball(images[:1].shape, norm, generator)[0],
                seeds[active.to(seeds.device)] + restart,
            )
            far = points + epsilon * draws.to(points)
            points = restrict(points, far, norm=norm, epsilon=epsilon, box=box)
        for step in range(steps + 1):
            if not len(active):
                return results
            source = labels[active]
            if step < steps:
                logits, losses, gradient = loss_gradient(model, points, source, objective)
            else:  # the last iterate needs a verdict and no gradient
                with torch.no_grad():
                    logits = model(points)
                    losses = objective(logits, source)
            done = crossed(logits, source)
            better = done | (losses > highest[active])
            results[active[better]] = points[better]
            highest[active[better]] = losses[better]
            active, points = active[~done], points[~done]
            if step < steps:
                points = move(
                    images[active], points, gradient[~done], norm=norm, epsilon=epsilon, step_size=length, box=box
                )
    return results
