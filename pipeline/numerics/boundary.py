"""Steps towards the decision boundary, and the point where a segment crosses it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.numerics.norms import per_sample, unit

ROUNDING = (
    64  # units of the last place by which a rival must lead; forward passes of unlike batch sizes differ by a few
)
ROUNDS = 30  # of Newton's method in `foot`; an image seldom needs more than ten


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


def steepness(gradients: Tensor, norm: str) -> Tensor:
    """How much each of k affine functions changes along a step of length 1 at most, (n, k) for (n, k, ...).

    The dual norm of the gradient: l2 for `l2`, l1 for `linf`.
    """
    slopes: Tensor = torch.linalg.vector_norm(gradients.flatten(2), ord={"l2": 2, "linf": 1}[norm], dim=2)
    return slopes


def distances(gaps: Tensor, slopes: Tensor) -> Tensor:
    """Distances |gap| / slope to k hyperplanes, (n, k); inf where the slope is zero or something is not finite."""
    found = gaps.abs() / slopes
    return torch.where(slopes.isfinite() & found.isfinite(), found, torch.inf)  # x / 0 is not finite


def nearest_hyperplane(gaps: Tensor, gradients: Tensor, floor: float = 0) -> tuple[Tensor, Tensor]:
    """Shortest step in l2 onto the nearest of k hyperplanes gap_k + <gradient_k, step> = 0.

    Args:
        gaps: (n, k) values of the k affine functions at the point.
        gradients: (n, k, ...) their gradients.
        floor: smallest length of a step.

    Returns:
        Steps (n, ...) along the gradient, as far as |gap| / |gradient|, and (n,) bool: whether there is a finite one.
        Hyperplanes with a zero or non-finite gradient, or a non-finite gap, are passed over; without any other the
        step is zero.
    """
    slopes = steepness(gradients, "l2")
    distance, nearest = distances(gaps, slopes).min(dim=1)
    valid = distance.isfinite()
    row = torch.arange(len(gaps), device=gaps.device)
    chosen = gradients[row, nearest]
    scale = distance.clamp_min(floor) / slopes[row, nearest]
    return torch.where(per_sample(valid, chosen), chosen * per_sample(scale, chosen), 0), valid


def foot(clean: Tensor, normal: Tensor, through: Tensor, low: float, high: float) -> Tensor:
    """Point of the hyperplane through `through` that is nearest in l2 to `clean`, among those in [low, high].

    Without bounds it is the foot of the perpendicular. With them it is clip(clean + t normal), with the t at which
    that curve meets the plane: its height over the plane is concave and piecewise linear in t, so that Newton's method
    from t = 0 climbs to the root without overshooting it and meets it exactly.

    Args:
        clean: (n, ...) within the bounds.
        normal: (n, ...) of any length; where it is zero or not finite the result is `clean`.
        through: (n, ...) within the bounds, so that the plane meets the box.
        low: smallest value, may be -inf.
        high: largest value, may be inf.
    """
    towards = unit(normal)
    height = (towards * (through - clean)).flatten(1).sum(dim=1)
    towards, height = towards * per_sample(height.sign(), towards), height.abs()
    along = torch.zeros_like(height)
    point = clean
    for _ in range(ROUNDS):
        left = height - (towards * (point - clean)).flatten(1).sum(dim=1)
        unmet = left > torch.finfo(left.dtype).eps * height
        if not unmet.any():
            break
        free = ((towards < 0) & (point > low)) | ((towards > 0) & (point < high))
        slope = (towards.square() * free).flatten(1).sum(dim=1)
        along = torch.where(unmet & (slope > 0), along + left / slope, along)
        point = (clean + per_sample(along, clean) * towards).clamp(low, high)
    return point


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
