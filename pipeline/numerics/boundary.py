"""Steps towards the decision boundary, and the point where a segment crosses it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROUNDING = (
    64  # units of the last place by which a rival must lead; forward passes of unlike batch sizes differ by a few
)


def crossed(logits: Tensor, source: Tensor) -> Tensor:
    """Whether a class other than `source` leads by more than rounding, (n,) bool; never where a logit is NaN.

    The lead asked for, 64 units of the last place of the largest logit, lets a point keep its verdict when it is
    evaluated again in another batch.
    """
    own = logits.gather(1, source[:, None]).squeeze(1)
    lead = logits.scatter(1, source[:, None], -torch.inf).amax(dim=1) - own
    slack: Tensor = ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(dim=1)
    return lead > slack


def rivals(logits: Tensor, source: Tensor, count: int) -> Tensor:
    """The `count` classes with the largest logits besides `source` (all others if there are fewer), (n, k) int64."""
    others = logits.scatter(1, source[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


def gaps(logits: Tensor, classes: Tensor, source: Tensor) -> Tensor:
    """Differences logit[class] - logit[source], (n, k)."""
    return logits.gather(1, classes) - logits.gather(1, source[:, None])


def nearest_hyperplane(gaps: Tensor, gradients: Tensor, floor: float = 0) -> tuple[Tensor, Tensor]:
    """Shortest step onto the nearest of k hyperplanes gap_k + <gradient_k, step> = 0.

    Args:
        gaps: (n, k) values of the k affine functions at the point.
        gradients: (n, k, ...) their gradients.
        floor: smallest length of a step.

    Returns:
        Steps (n, ...) along the gradient, as far as |gap| / |gradient|, and (n,) bool: whether there is a finite one.
        Hyperplanes with a zero or non-finite gradient, or a non-finite gap, are passed over; without any other the
        step is zero.
    """
    lengths = torch.linalg.vector_norm(gradients.flatten(2), dim=2)  # (n, k)
    distances = gaps.abs() / lengths
    usable = lengths.isfinite() & distances.isfinite()  # x / 0 is not finite
    distance, nearest = torch.where(usable, distances, torch.inf).min(dim=1)
    valid = distance.isfinite()
    row = torch.arange(len(gaps), device=gaps.device)
    scale = distance.clamp_min(floor) / lengths[row, nearest]
    shape = (-1, *[1] * (gradients.ndim - 2))
    steps = torch.where(valid.view(shape), gradients[row, nearest] * scale.view(shape), 0)
    return steps, valid


def bisect(beyond: Callable[[Tensor], Tensor], like: Tensor, steps: int) -> Tensor:
    """Scales in (0, 1] just beyond a crossing of the boundary on the segment from 0 to 1.

    Args:
        beyond: maps scales (n,) to bool (n,); must hold at scale 1.
        like: (n, ...) tensor that gives the number of rows, device and dtype.
        steps: halvings; the scale is within 2**-steps above a crossing (the only one if the segment crosses once).

    Returns:
        (n,) scales at which `beyond` held.
    """
    low = like.new_zeros(len(like))
    high = like.new_ones(len(like))
    for _ in range(steps):
        middle = (low + high) / 2
        over = beyond(middle)
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return high
