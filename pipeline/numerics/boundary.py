"""Steps towards the decision boundary, and the point where a segment crosses it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.numerics.norms import per_sample, unit

ROUNDING = (
    64  # units of the last place by which a rival must lead; forward passes of unlike batch sizes differ by a few
)
SPARE = 4  # rounds by which `locate` may take longer than halvings would
NUDGE = 0.5  # of the tolerance, by which `locate` aims beyond the crossing
ROUNDS = 30  # of Newton's method in `foot`; an image seldom needs more than ten


def crossed(logits: Tensor, source: Tensor) -> Tensor:
    """Whether a class other than `source` leads by more than rounding, (n,) bool; never where a logit is NaN.

    The lead asked for, 64 units of the last place of the largest logit, lets a point keep its verdict when it is
    evaluated again in another batch.
    """
    return lead(logits, source) > 0


def lead(logits: Tensor, source: Tensor) -> Tensor:
    """By how much the largest other logit leads that of `source`, less the rounding that `crossed` allows for, (n,)."""
    own = logits.gather(1, source[:, None]).squeeze(1)
    slack = ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(dim=1)
    ahead: Tensor = logits.scatter(1, source[:, None], -torch.inf).amax(dim=1) - own
    return ahead - slack


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


def locate(
    ahead: Callable[[Tensor, Tensor], Tensor], start: Tensor, end: Tensor, guess: Tensor, bisections: int
) -> Tensor:
    """Scales in (0, 1] just beyond a crossing: as exact as `bisect`, in fewer passes, given values instead of verdicts.

    A parabola through the last three scales, or a line, tells where the crossing should be. The next scale lies half
    the tolerance beyond it, or before it where the high end of the bracket is that near already. A row leaves once its
    high end is known to be near enough: the bracket is no longer than the tolerance, or the value there is no larger
    than the tolerance times the slope. That slope is the smaller one of the chords from the new scale to both ends of
    the bracket: where the values bend one way only, the curve climbs from the crossing to the new scale at least as
    steeply. So a good prediction takes one round. Where the values bend both ways inside the bracket, the scale may lie
    farther beyond the crossing than asked for; it lies beyond one in any case. Where the prediction falls outside the
    bracket, or the bracket closes too slowly, the bracket is halved, so that there are at most `SPARE` rounds more than
    halvings (the idea of the ITP method, Oliveira and Takahashi, ACM TOMS 2020, whose interpolation is another one).

    Args:
        ahead: maps rows (m,) int64 and scales (m,) float64 to values (m,), positive beyond the boundary; NaN counts as
            not beyond.
        start: (n,) the values at scale 0, not positive.
        end: (n,) the values at scale 1, positive.
        guess: (n,) where a crossing is expected; NaN or outside of (0, 1) where nothing is known.
        bisections: the scale is within 2**-bisections above a crossing, see above.

    Returns:
        (n,) float64 scales at which `ahead` was positive.
    """
    tolerance = 2.0**-bisections
    rows = torch.arange(len(start), device=start.device)
    scales = torch.tensor([0.0, 1.0, torch.nan], dtype=torch.float64, device=start.device).repeat(len(start), 1)
    values = torch.stack((start, end, torch.full_like(end, torch.nan)), dim=1).double()
    results = scales[:, 1].clone()
    for step in range(bisections + SPARE if bisections else 0):
        if not len(rows):
            break
        low, high = scales[:, 0], scales[:, 1]
        aim = _root(scales, values)
        if step == 0:
            aim = torch.where((guess > 0) & (guess < 1), guess.double(), aim)
        aim = aim + torch.where(high - aim < tolerance, -NUDGE, NUDGE) * tolerance
        slow = high - low > 2.0 ** (SPARE - 1 - step)
        aim = torch.where((aim > low) & (aim < high) & ~slow, aim, (low + high) / 2)
        least = torch.minimum(high - low, torch.full_like(low, tolerance)) / 4  # every round moves an end by that much
        aim = torch.minimum(torch.maximum(aim, low + least), high - least)
        value = ahead(rows, aim).double()
        over = value > 0
        rise = torch.minimum((value - values[:, 0]) / (aim - low), (values[:, 1] - value) / (high - aim))
        scales, values = _narrowed(scales, aim, over), _narrowed(values, value, over)
        results[rows] = scales[:, 1]
        near = over & (value <= tolerance * rise)
        going = (scales[:, 1] - scales[:, 0] > tolerance) & ~near
        rows, scales, values = rows[going], scales[going], values[going]
    return results


def _narrowed(bracket: Tensor, new: Tensor, over: Tensor) -> Tensor:
    """Low end, high end and the end replaced last, (n, 3), once `new` has taken the place of an end."""
    low, high, _ = bracket.unbind(dim=1)
    ends = torch.where(over, low, new), torch.where(over, new, high), torch.where(over, high, low)
    return torch.stack(ends, dim=1)


def _root(scales: Tensor, values: Tensor) -> Tensor:
    """Where the parabola through three points is zero, or the line through the first two if it is nowhere, (n,)."""
    (low, high, old), (below, above, before) = scales.unbind(dim=1), values.unbind(dim=1)
    line = (above - below) / (high - low)
    bend = ((before - above) / (old - high) - line) / (old - low)
    slope = line - bend * (high - low)  # of the parabola, at the low end
    root = low + parabola_root(below, slope, bend)
    return torch.where((root > low) & (root < high), root, low - below / line)


def parabola_root(value: Tensor, slope: Tensor, bend: Tensor) -> Tensor:
    """Root t of value + slope t + bend t^2 that the line without the bend leads to, (n,); NaN where there is none."""
    return -2 * value / (slope + torch.copysign((slope.square() - 4 * bend * value).sqrt(), slope))


def expected_crossing(last: Tensor, climb: Tensor, end: Tensor, overshoot: float) -> Tensor:
    """Share of the way from start to trial at which a walk is expected to have met the boundary, (m,) or NaN.

    The point of the last linearisation is taken to lie on that way, so that a parabola is known: its slope there, its
    root 1 / (1 + overshoot) without a bend, and its value at the end.

    Args:
        last: (m,) length of the last step as a share of the way.
        climb: (m,) by how much the linearised gap grows along the whole way.
        end: (m,) by how much another class leads at the end.
        overshoot: share added to the way gone.
    """
    reach = last + overshoot / (1 + overshoot)  # from the last linearisation to the end
    bend = (end - climb * (reach - last)) / reach.square()
    return 1 - reach + parabola_root(-climb * last, climb, bend)
