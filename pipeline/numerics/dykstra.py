"""Nearest common point of two convex sets, from the projections on each."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def nearest_common_point(
    point: Tensor, first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor], rounds: int
) -> Tensor:
    """Dykstra's alternating projection (Boyle and Dykstra, 1986) for two sets.

    Plain alternation ends in some common point; here each projection starts from the point plus what the same set's
    projection took away a round before, so the limit is the common point nearest to the start.

    Args:
        point: where to start, of any shape.
        first: nearest point of the first set.
        second: nearest point of the second set.
        rounds: pairs of projections.

    Returns:
        As `point`: in the second set, and as near to the first as the rounds brought it.
    """
    taken_first = taken_second = 0 * point
    for _ in range(rounds):
        start = point + taken_first
        middle = first(start)
        taken_first = start - middle
        start = middle + taken_second
        point = second(start)
        taken_second = start - point
    return point
