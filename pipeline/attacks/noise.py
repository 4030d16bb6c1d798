"""Random noise of a given size: what a classifier stands without an adversary."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.contracts import Count, NonNegative, UserError
from pipeline.numerics import randomness
from pipeline.numerics.boundary import crossed
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import length, per_sample

HALVINGS = 30  # of the search for the noise's scale: off by less than 1e-6 unless most of it is clipped


def noise(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    epsilon: NonNegative,
    norm: Literal["l2", "linf", "l1", "l0"] = "l2",
    kind: Literal["gaussian", "uniform", "salt_and_pepper"] = "gaussian",
    draws: Count = 1,
) -> Tensor:
    """Random noise with a budget: a baseline for attacks of the same norm and epsilon.

    Clipping shortens noise, and by unlike parts for unlike images. So each draw is scaled until what is left of it in
    the box is as long as epsilon allows (all of the box if that is shorter), never longer.

    - `gaussian`, `uniform`: independent entries, normal or from [-1, 1], scaled. In `l0`, `epsilon` random pixels get
      them in units of the box's side, then are clipped.
    - `salt_and_pepper`: entries in random order go to a random end of the box until epsilon is used up, the last of
      them as far as it goes. In `l0`, `epsilon` random pixels do so with all channels; in `linf`, where no entry may go
      farther than another, all entries move by epsilon, up or down.

    A sample stops at its first misclassified draw and leaves the batch.

    Args:
        model: images to logits; asked without gradients.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: (n,) int64; draw r of a sample comes from the sample's seed + r.
        box: of valid images.
        epsilon: radius of the ball; in `l0`, pixels that may change, rounded down.
        norm: `l2`, `linf`, `l1`, or `l0` (pixels).
        kind: of noise.
        draws: draws tried for a sample, at a forward pass each.

    Returns:
        (n, c, h, w) noisy images inside ball and box: misclassified, or else the draw with the highest cross-entropy.

    Raises:
        UserError: flipped or unbounded data with `l0` or `salt_and_pepper`, which need pixels and ends of the box.
    """
    if (norm == "l0" or kind == "salt_and_pepper") and (box.flipped or not math.isfinite(box.high - box.low)):
        raise UserError(
            f"noise: given norm {norm} and kind {kind} on flipped or unbounded data, expected values in an interval; "
            "use gaussian or uniform noise in l2, linf or l1"
        )
    results = images.clone()
    highest = images.new_full((len(images),), -torch.inf)
    active = torch.arange(len(images), device=images.device)  # rows without success
    for draw in range(draws):
        if not len(active):
            break
        clean, source = images[active], labels[active]
        points = _noisy(clean, seeds[active.to(seeds.device)] + draw, norm, kind, epsilon, box)
        with torch.no_grad():
            logits = model(points)
        losses = functional.cross_entropy(logits, source, reduction="none")
        done = crossed(logits, source)
        better = done | (losses > highest[active])
        results[active[better]] = points[better]
        highest[active[better]] = losses[better]
        active = active[~done]
    return results


def _noisy(clean: Tensor, seeds: Tensor, norm: str, kind: str, epsilon: float, box: Box) -> Tensor:
    """One draw of noise on each image, inside ball and box."""
    entries: Callable[[torch.Generator], Tensor] = {
        "gaussian": lambda generator: torch.randn(clean.shape[1:], generator=generator),
        "uniform": lambda generator: 2 * torch.rand(clean.shape[1:], generator=generator) - 1,
        "salt_and_pepper": lambda generator: 2 * (torch.rand(clean.shape[1:], generator=generator) < 0.5).float() - 1,
    }[kind]
    drawn = randomness.per_sample(
        lambda _, generator: torch.stack((entries(generator), torch.rand(clean.shape[1:], generator=generator))), seeds
    ).to(clean)
    values, keys = drawn.unbind(dim=1)
    if norm == "l0":
        pixels = keys[:, 0].flatten(1)
        few = pixels.topk(min(int(epsilon), pixels.shape[1]), dim=1).indices
        chosen = torch.zeros_like(pixels).scatter(1, few, 1).view_as(keys[:, :1])
        return box.clip(clean + (box.high - box.low) * chosen * values)
    if kind == "salt_and_pepper" and norm != "linf":
        return _peppered(clean, values, keys, epsilon, 1 if norm == "l1" else 2, box)
    return _scaled(clean, values, norm, epsilon, box)


def _peppered(clean: Tensor, signs: Tensor, keys: Tensor, epsilon: float, power: int, box: Box) -> Tensor:
    """Entries, by their keys, moved to the upper or lower end, while the sum of their powers stays in the budget."""
    ends = torch.where(signs > 0, box.high, box.low)
    turn = keys.flatten(1).argsort(dim=1)
    room = (ends.double() - clean.double()).flatten(1).gather(1, turn)
    cost = room.abs() ** power
    left = (epsilon**power - (cost.cumsum(dim=1) - cost)).clamp(min=0)
    moves = room.sign() * torch.minimum(room.abs(), left ** (1 / power))
    shift = torch.zeros_like(moves).scatter(1, turn, moves).view_as(clean)
    return box.clip((clean + shift).to(clean.dtype))


def _scaled(clean: Tensor, values: Tensor, norm: str, epsilon: float, box: Box) -> Tensor:
    """The noise scaled so that behind the clipping it is as long as it may be, by bisection.

    The scale is share / (1 - share), with the share in [0, 1). In pixels, and in l2 also behind the flip, the length
    grows with the scale; elsewhere what is found is within epsilon, but may not be the longest.
    """
    values = values * per_sample(epsilon / length(values, norm), values)
    low = torch.zeros(len(clean), dtype=torch.float64, device=clean.device)
    high = torch.ones_like(low)

    def at(share: Tensor) -> Tensor:
        return box.clip(clean + per_sample((share / (1 - share)).to(clean), clean) * values)

    for _ in range(HALVINGS):
        middle = (low + high) / 2
        within = length(at(middle).double() - clean.double(), norm) <= epsilon
        low, high = torch.where(within, middle, low), torch.where(within, high, middle)
    return at(low)
