"""Where a segment crosses the decision boundary, in few passes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.numerics.boundary import ROUNDING, gaps, rivals

TRUNCATION = 0.2  # kappa_1 of the method; kappa_2 is 2 and n_0 is 1, as its authors recommend


def first_beyond(logits_at: Callable[[Tensor, Tensor], Tensor], start: Tensor, source: Tensor, halvings: int) -> Tensor:
    """Scales in (0, 1] just beyond a crossing of the boundary on the segments from 0 to 1.

    As `boundary.bisect`, with the same guarantee, by interpolation of the lead of the best other class: the ITP method
    (Oliveira and Takahashi, "An enhancement of the bisection method average performance preserving minmax optimality",
    ACM TOMS 2021). It takes at most one pass more than bisection, and where the logits are smooth about a third. Where
    a segment crosses several times, the two may find different crossings.

    Args:
        logits_at: maps rows (m,) and their scales (m,) to logits (m, classes).
        start: (n, classes) logits at scale 0; they give the dtype and device of the scales.
        source: (n,) classes there; at scale 1 `crossed` must hold.
        halvings: the scale is within 2**-halvings above a crossing.

    Returns:
        (n,) scales at which `crossed` held.
    """
    count = len(source)
    low, high = start.new_zeros(count), start.new_ones(count)
    rows = torch.arange(count, device=start.device)
    below, above = _lead(start, source), _lead(logits_at(rows, high), source)
    for step in range(halvings + 1):
        rows = (high - low > 2.0**-halvings).nonzero().squeeze(1)
        if not len(rows):
            break
        a, b = low[rows], high[rows]
        scale = _next(a, b, below[rows], above[rows], math.ldexp(1, -step))
        lead = _lead(logits_at(rows, scale), source[rows])
        over = lead > 0
        low[rows], high[rows] = torch.where(over, a, scale), torch.where(over, scale, b)
        below[rows], above[rows] = torch.where(over, below[rows], lead), torch.where(over, lead, above[rows])
    return high


def _lead(logits: Tensor, source: Tensor) -> Tensor:
    """How far the best other class leads beyond the rounding that `boundary.crossed` allows for, (n,)."""
    slack = ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(dim=1)
    return gaps(logits, rivals(logits, source, 1), source).squeeze(1) - slack


def _next(a: Tensor, b: Tensor, below: Tensor, above: Tensor, width: float) -> Tensor:
    """The next scale to look at: interpolated, truncated towards the middle, and projected on the allowed radius.

    Args:
        a: lower ends.
        b: upper ends.
        below: leads at the lower ends.
        above: leads at the upper ends.
        width: largest width that the interval may have after this step; bisection needs half of it.
    """
    middle = (a + b) / 2
    radius = (width - (b - a) / 2).clamp(min=0)
    guess = ((above * a - below * b) / (above - below)).clamp(a, b)  # NaN where a lead is: bisection then
    side = (middle - guess).sign()
    delta = TRUNCATION * (b - a).square()
    moved = torch.where(delta <= (middle - guess).abs(), guess + side * delta, middle)
    return torch.where((moved - middle).abs() <= radius, moved, middle - side * radius)
