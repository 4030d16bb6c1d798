"""sigma-zero: few changed entries or pixels, by descent on a smooth count of them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts import Count, NonNegative, Positive, Share, UserError
from pipeline.numerics.boundary import crossed, gaps, rivals
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import l0_entries, l0_pixels, linf, per_sample

NORM = "l0"
FIRST, SECOND, FLOOR = 0.9, 0.999, 1e-8  # Adam's decay rates, and what it adds to the root of the second moment


def sigma_zero(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    steps: Count = 100,
    learning_rate: Positive = 1.0,
    sigma: Positive = 1e-3,
    threshold: Share = 0.3,
    threshold_rate: NonNegative = 0.01,
    count: Literal["entries", "pixels"] = "entries",
) -> Tensor:
    """sigma-zero (Cina et al., ICLR 2025): minimal l0 perturbations by gradients, batched.

    The loss is the margin max(0, logit[label] - largest other logit) plus the mean of shift^2 / (shift^2 + sigma), a
    smooth share of changed entries. Its gradient, divided by its own largest entry, goes to Adam, the rate of which
    falls along a cosine to a tenth. After each step changes smaller than the sample's threshold are undone; the
    threshold rises by `threshold_rate` times the learning rate while the sample is misclassified and falls by it
    else. Of all iterates that are misclassified the one with the fewest changes is kept.

    Departures from the authors' code: the last iterate is looked at too, at one more forward pass; a sample with a
    single change leaves the batch, as nothing is below it; misclassified means by more than rounding; the iterate is
    kept as an image, so that what is returned is what was classified; a gradient that is not finite counts as zero;
    in a box other than [0, 1] shifts are measured in units of its side.

    The paper counts entries, every channel of a pixel on its own, and so does the default, while the tables count
    pixels as well. `pixels` is the variant that a footnote of Zhong et al., "Towards efficient training and evaluation
    of robust models against l0 bounded adversarial perturbations" (ICML 2024) mentions: squares are summed over the
    channels inside the ratio, whose mean is over the pixels. As in l0, a pixel there is kept or undone whole, by its
    largest entry; that rule is ours.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: not used, the method is deterministic.
        box: of valid images, a finite interval.
        steps: gradient steps.
        learning_rate: Adam's first, in units of the box's side.
        sigma: how smooth the count is, in squares of that unit; small is exact and hard to descend.
        threshold: first threshold, in that unit.
        threshold_rate: change of the threshold per step, as a share of the learning rate.
        count: what is to be few.

    Returns:
        (n, c, h, w) perturbed images; the clean image where none was found.

    Raises:
        UserError: flipped or unbounded data, where neither pixels nor the threshold have a meaning.
    """
    side = box.high - box.low
    if box.flipped or not math.isfinite(side):
        raise UserError("sigma_zero: given flipped or unbounded data, expected values in an interval; use deepfool")
    results = images.clone()
    active = torch.arange(len(images), device=images.device)  # rows with more than a single change
    fewest = torch.full_like(labels, images[0].numel() + 1) if len(images) else labels
    first, second = torch.zeros_like(images), torch.zeros_like(images)
    thresholds = images.new_full((len(images),), threshold)
    points = images
    for step in range(steps + 1):
        if not len(active):
            break
        clean, source = images[active], labels[active]
        if step < steps:
            logits, gradient = _descent(model, points, clean, source, side, sigma, count)
        else:  # the last iterate needs a verdict and no gradient
            with torch.no_grad():
                logits = model(points)
        fooled = crossed(logits, source)
        changes = (l0_pixels if count == "pixels" else l0_entries)(points - clean)
        better = fooled & (changes < fewest[active])
        results[active[better]] = points[better]
        fewest[active[better]] = changes[better]
        if step == steps:
            break
        first = FIRST * first + (1 - FIRST) * gradient
        second = SECOND * second + (1 - SECOND) * gradient**2
        slope = first / (1 - FIRST ** (step + 1)) / ((second / (1 - SECOND ** (step + 1))).sqrt() + FLOOR)
        points = box.clip(points - side * _rate(learning_rate, step, steps) * slope)
        change = threshold_rate * _rate(learning_rate, step + 1, steps)
        thresholds = (thresholds + torch.where(fooled, change, -change)).clamp(0, 1)
        sizes = (points - clean).abs() / side
        if count == "pixels":
            sizes = sizes.amax(dim=1, keepdim=True)
        points = torch.where(sizes < per_sample(thresholds, points), clean, points)
        going = fewest[active] > 1
        if not going.all():
            active, points, first, second, thresholds = (
                state[going] for state in (active, points, first, second, thresholds)
            )
    return results


def _rate(learning_rate: float, step: int, steps: int) -> float:
    """The learning rate of a step, falling along a half cosine to a tenth of the first one."""
    return learning_rate * (0.1 + 0.9 * (1 + math.cos(math.pi * step / steps)) / 2)


def _descent(
    model: nn.Module, points: Tensor, clean: Tensor, source: Tensor, side: float, sigma: float, count: str
) -> tuple[Tensor, Tensor]:
    """Logits, and the loss's gradient with a largest entry of one, zero where it is zero or not finite."""
    with torch.enable_grad():
        moved = points.detach().requires_grad_(True)
        logits = model(moved)
        margin = -gaps(logits, rivals(logits, source, 1), source).squeeze(1)
        squares = ((moved - clean) / side) ** 2
        if count == "pixels":
            squares = squares.sum(dim=1, keepdim=True)
        smooth = (squares / (squares + sigma)).flatten(1).mean(dim=1)
        (gradient,) = torch.autograd.grad((margin.clamp(min=0) + smooth).sum(), moved)
    peak = linf(gradient)
    usable = per_sample(peak.isfinite() & (peak > 0), gradient)
    return logits.detach(), torch.where(usable, gradient / per_sample(peak, gradient), 0)
