"""Cross a hyperplane inside a box by changing as few entries, or pixels, as possible: SparseFool's linear solver."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_plane(
    points: Tensor, normal: Tensor, gap: Tensor, low: Tensor, high: Tensor, *, group: str = "entries", beta: float = 0
) -> Tensor:
    """Move entries to their bounds, one after the other, until <normal, z - point> reaches `gap`.

    Algorithm 2 of SparseFool (Modas, Moosavi-Dezfooli, Frossard, CVPR 2019) without its loop: what the entries gain
    together is a cumulative sum in their order, and the first one with which it reaches the gap moves only as far as
    is needed. Sums are taken in float64, row by row.

    Args:
        points: (n, c, h, w) in their bounds.
        normal: (n, c, h, w), finite; entries of zero stay.
        gap: (n,) what is to be gained; rows with none stay.
        low: (n, c, h, w) finite lower bounds.
        high: (n, c, h, w) finite upper bounds.
        group: `entries` go one by one, the largest |normal| first. `pixels` move all their channels together, those
            first that gain most within their bounds, which is the least number of pixels for that plane.
        beta: what the last entry gains beyond the gap, as far as its bounds let it.

    Returns:
        (n, c, h, w) in the bounds. Where these hold no point that reaches the plane, all entries are on their bounds.
    """
    members = points.shape[1] if group == "pixels" else 1
    slopes = _grouped(normal.double(), members)  # (n, groups, members)
    room = _grouped(torch.where(normal > 0, high - points, points - low).double(), members).clamp(min=0)
    gains = (slopes.abs() * room).sum(dim=2)  # (n, groups)
    key = gains if group == "pixels" else slopes.abs().squeeze(2)
    order = key.argsort(dim=1, descending=True, stable=True)
    ordered = gains.gather(1, order)
    needed = gap.double()[:, None] - (ordered.cumsum(dim=1) - ordered)  # before each group's turn
    # An idle group gains 0: what it divides is not finite, and is either clamped to a share of no room or passed over.
    shares = torch.where(needed > 0, ((needed + beta) / ordered).clamp(max=1), 0)
    shares = torch.zeros_like(shares).scatter(1, order, shares)
    moved = points.double() + _ungrouped(shares[:, :, None] * room * slopes.sign(), points)
    return torch.minimum(torch.maximum(moved.to(points), low), high)


def leave_plane(points: Tensor, normal: Tensor, gap: Tensor, low: Tensor, high: Tensor, *, beta: float) -> Tensor:
    """What the released code of SparseFool makes of a point that lies beyond the plane already.

    Its loop stops when the sign of <normal, z - plane> changes, but always steps along the normal; beyond the plane it
    therefore changes every entry, each by (that value + beta) / |normal| as far as the bounds let it. A step that they
    do not cut doubles the value, so that there are few, and the runs between them are cumulative sums.

    Args:
        points: (n, c, h, w) in their bounds.
        normal: (n, c, h, w) of unit length.
        gap: (n,) below zero, minus the value at the points.
        low: (n, c, h, w) finite lower bounds.
        high: (n, c, h, w) finite upper bounds.
        beta: as above.

    Returns:
        (n, c, h, w) in the bounds.
    """
    slopes = normal.double().flatten(1)
    room = torch.where(normal > 0, high - points, points - low).double().flatten(1).clamp(min=0)
    order = slopes.abs().argsort(dim=1, descending=True, stable=True)
    size = slopes.abs().gather(1, order)
    room = room.gather(1, order)
    gains = size * room
    before = gains.cumsum(dim=1) - gains
    value = -gap.double()[:, None]  # the value before entry k is value + before_k, until an entry is not cut
    place = torch.arange(gains.shape[1], device=gains.device)[None]
    at = place.new_full((len(points), 1), -1)
    steps = room.clone()
    while True:
        free = (gains > value + before + beta) & (place > at)
        going = free.any(dim=1, keepdim=True)
        if not going.any():
            break
        at = torch.where(going, free.int().argmax(dim=1, keepdim=True), gains.shape[1])
        here = at.clamp(max=gains.shape[1] - 1)
        now = value + before.gather(1, here)
        step = (now + beta) / size.gather(1, here)
        steps = torch.where(going & (place == here), step, steps)
        value = torch.where(going, value + now + beta - gains.gather(1, here), value)
    steps = torch.zeros_like(steps).scatter(1, order, steps) * slopes.sign()
    moved = (points.double() + steps.view_as(points)).to(points)
    return torch.minimum(torch.maximum(moved, low), high)


def released_solver(points: Tensor, normal: Tensor, gap: Tensor, low: Tensor, high: Tensor, *, beta: float) -> Tensor:
    """The loop of SparseFool's released code, without the loop: `cross_plane`, or `leave_plane` for a gap below zero.

    Its least step, 1e-4, never takes effect: with a normal of unit length every step that it makes is at least beta.
    """
    moved = cross_plane(points, normal, gap, low, high, beta=beta)
    behind = gap < 0
    if behind.any():
        moved[behind] = leave_plane(points[behind], normal[behind], gap[behind], low[behind], high[behind], beta=beta)
    return moved


def _grouped(values: Tensor, members: int) -> Tensor:
    """(n, c, h, w) to (n, groups, members), with members 1 or c."""
    return values.flatten(2).mT if members > 1 else values.flatten(1)[:, :, None]


def _ungrouped(values: Tensor, like: Tensor) -> Tensor:
    """The reverse of `_grouped`."""
    return values.mT.reshape(like.shape) if values.shape[2] > 1 else values.view_as(like)
