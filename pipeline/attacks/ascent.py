"""Projected gradient ascent on the cross-entropy: shared by PGD and by adversarial training."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.numerics.gradients import loss_gradient
from pipeline.numerics.norms import project, steepest


def move(clean: Tensor, points: Tensor, gradient: Tensor, *, norm: str, epsilon: float, step_size: float) -> Tensor:
    """One step of steepest ascent, back into the ball around `clean`, then into the box [0, 1].

    Clipping to a box that holds the centre never leaves an l2 or linf ball, so both constraints are met.
    """
    shift = points + step_size * steepest(gradient, norm) - clean
    return (clean + project(shift, norm, epsilon)).clamp(0, 1)


def projected_ascent(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    start: Tensor,
    norm: str,
    epsilon: float,
    step_size: float,
    steps: int,
) -> Tensor:
    """Last iterate of projected gradient ascent (Madry et al., ICLR 2018) without early stopping.

    Args:
        model: [0, 1] images to logits, in any mode; its parameters may ask for gradients, they get none.
        images: (n, c, h, w), centres of the balls.
        labels: (n,) int64.
        start: (n, c, h, w), first points.
        norm: `l2` or `linf`.
        epsilon: radius.
        step_size: length of a step in that norm.
        steps: number of steps.

    Returns:
        (n, c, h, w) detached, inside ball and box.
    """
    points = (images + project(start - images, norm, epsilon)).clamp(0, 1)
    for _ in range(steps):
        _, _, gradient = loss_gradient(model, points, labels)
        points = move(images, points, gradient, norm=norm, epsilon=epsilon, step_size=step_size)
    return points.detach()
