"""Projected gradient ascent in an lp ball and the box of valid images: shared by PGD and the adversarial trainings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.dykstra import nearest_common_point
from pipeline.numerics.norms import length, per_sample, project, shrink, steepest

# Rounds of Dykstra's projection. On flipped images of 8 and 32 pixels the point was then off the nearest one by at most
# 4 % (l2) of the way that it was moved; 40 rounds halve that.
ROUNDS = 20

# Logits and what they are compared with (labels, other logits) to losses (n,).
Objective = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The usual objective: (n, classes) and (n,) int64 to (n,)."""
    return functional.cross_entropy(logits, labels, reduction="none")


def restrict(clean: Tensor, points: Tensor, *, norm: str, epsilon: float, box: Box = UNIT) -> Tensor:
    """Bring points into both the ball around `clean`, which lies in the box, and the box.

    - In pixels, `linf`: projected on the ball, then clipped, which is the nearest point of both.
    - In pixels, `l1`: the nearest point of both. Clipping behind a projection would leave the ball partly unused, since
      its point is sparse and its large entries are cut (Croce and Hein, "Mind the box", ICML 2021).
    - `l2`: projected, then clipped. Both keep the point in the ball: clipping, in pixels or behind the flip, which is
      an isometry, never takes a point farther from one that lies in the box.
    - Flipped, `linf` and `l1`: clipping can leave these balls, so Dykstra's projection goes for the nearest point of
      both. It ends in the box; drawing it towards `clean` until the ball holds it stays in the box, which is convex.

    Args:
        clean: (n, c, h, w), centres of the balls.
        points: (n, c, h, w).
        norm: `l1`, `l2` or `linf`.
        epsilon: radius.
        box: of valid images.

    Returns:
        (n, c, h, w) in both, to rounding.
    """
    shift = points - clean
    if norm == "l1" and not box.flipped:
        room = torch.where(shift > 0, box.high - clean, clean - box.low).clamp(min=0)
        return box.clip(clean + shrink(shift, epsilon, room))  # the clip takes away rounding
    if norm == "l2" or not box.flipped:
        return box.clip(clean + project(shift, norm, epsilon))
    shift = nearest_common_point(
        shift, lambda d: project(d, norm, epsilon), lambda d: box.clip(clean + d) - clean, ROUNDS
    )
    share = epsilon / length(shift, norm).clamp(min=epsilon) if epsilon else shift.new_zeros(len(shift))
    return clean + per_sample(share, shift) * shift


def move(
    clean: Tensor,
    points: Tensor,
    gradient: Tensor,
    *,
    norm: str,
    epsilon: float,
    step_size: float,
    box: Box = UNIT,
) -> Tensor:
    """One step of steepest ascent, back into the ball around `clean` and the box, as `restrict` does it.

    For `l1` in pixels, entries on a bound that the step would push out of the box are left out of the step: its few
    entries would else stay the same ones, saturated, for ever.
    """
    if norm == "l1" and not box.flipped:
        blocked = ((points <= box.low) & (gradient < 0)) | ((points >= box.high) & (gradient > 0))
        gradient = gradient.masked_fill(blocked, 0)
    stepped = points + step_size * steepest(gradient, norm)
    return restrict(clean, stepped, norm=norm, epsilon=epsilon, box=box)


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
    box: Box = UNIT,
    objective: Objective = cross_entropy,
) -> Tensor:
    """Last iterate of projected gradient ascent (Madry et al., ICLR 2018) without early stopping.

    Args:
        model: images to logits, in any mode; its parameters may ask for gradients, they get none.
        images: (n, c, h, w) in the box, centres of the balls.
        labels: (n,) int64, or whatever the objective compares the logits with.
        start: (n, c, h, w), first points.
        norm: `l1`, `l2` or `linf`.
        epsilon: radius.
        step_size: length of a step in that norm.
        steps: number of steps.
        box: of valid images.
        objective: what to raise.

    Returns:
        (n, c, h, w) detached, inside ball and box.
    """
    points = restrict(images, start, norm=norm, epsilon=epsilon, box=box)
    for _ in range(steps):
        with torch.enable_grad():
            points = points.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(objective(model(points), labels).sum(), points)
        points = move(images, points.detach(), gradient, norm=norm, epsilon=epsilon, step_size=step_size, box=box)
    return points.detach()
