"""Signs that a classifier hides its gradients, so that attacks on it prove little.

Carlini et al., "On evaluating adversarial robustness" (2019); Pintor et al., "Indicators of attack failure" (NeurIPS
2022); the flags of AutoAttack's reference code. What the probes find does not depend on the user's batch size, as they
take their images in batches of their own.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from pipeline.numerics import boundary, randomness
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip
from pipeline.numerics.gradients import class_gradients, loss_gradient
from pipeline.numerics.norms import linf, per_sample, unit

PROBED = 64  # images of the probes that need no more
CHUNK = 16  # of them at a time where gradients are taken
ROUNDING = 1e-4  # of the largest logit; kernels that are not deterministic differ by less
STEP = 1e-3  # of the box's side: a step along a gradient, a quarter of a grey level
LEAP = 0.03  # of the box's side: a step where there is no gradient, eight grey levels
MISMATCH = 0.5  # relative error of a predicted change from which it is wrong; curvature and kinks make less


def zero_gradients(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Whether the cross-entropy's gradient at each image is zero or not finite in every entry, (n,) bool.

    Args:
        model: images to logits.
        images: (n, c, h, w).
        labels: (n,) int64.
        batch_size: images at a time.
    """
    found = []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        size = linf(loss_gradient(model, images[rows], labels[rows])[2])
        found.append((size == 0) | ~size.isfinite())
    return torch.cat(found)


@torch.no_grad()
def random_forward(model: nn.Module, images: Tensor) -> bool:
    """Whether two forward passes of the same images differ by more than rounding; the first 64 images are used."""
    first, second = (model(images[:PROBED]) for _ in range(2))
    return _differ(first, second)


@torch.no_grad()
def batch_dependent(model: nn.Module, images: Tensor) -> bool:
    """Whether an image's logits depend on the other images of its batch, as with batch statistics in eval mode.

    The first 32 images are seen twice in batches of the same size: beside themselves, and beside themselves at half
    the contrast. Of use only where `random_forward` finds nothing.
    """
    first = images[: PROBED // 2]
    one, other = (model(torch.cat((first, company)))[: len(first)] for company in (first, first / 2))
    return _differ(one, other)


@torch.no_grad()
def softmax_output(model: nn.Module, images: Tensor) -> bool:
    """Whether the outputs are probabilities, not logits: none negative, each row sums to one."""
    outputs = model(images[:PROBED])
    return bool((outputs >= 0).all() and ((outputs.sum(dim=1) - 1).abs() < ROUNDING).all())


def precision_cosines(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Cosine between the cross-entropy's gradient as the model computes it and in float64, (n,) float64.

    Where logits are far apart, float32 loses the label's part of the gradient (17 nats) and then all of it (104), and
    float64 later (37 and 745). Zero where one gradient is zero or not finite and the other is not; NaN where both are,
    and throughout for a model that cannot be run in float64.

    Args:
        model: images to logits; a copy of it is made.
        images: (n, c, h, w).
        labels: (n,) int64.
    """
    exact = _in_double(model, images)
    if exact is None:
        return images.new_full((len(images),), math.nan, dtype=torch.float64)
    cosines = []
    for some, theirs in zip(torch.split(images, CHUNK), torch.split(labels, CHUNK), strict=True):
        one = unit(loss_gradient(model, some, theirs)[2].double())
        other = unit(loss_gradient(exact, some.double(), theirs)[2])
        known = (linf(one) > 0) | (linf(other) > 0)
        cosines.append((one * other).flatten(1).sum(dim=1).clamp(-1, 1).masked_fill(~known, math.nan))
    return torch.cat(cosines)


def gradient_mismatches(model: nn.Module, images: Tensor, labels: Tensor, seeds: Tensor, box: Box = UNIT) -> Tensor:
    """Whether the gradient fails to say how the logits change, (n,) bool.

    The lead of the runner-up over the label is taken at both ends of a short step along its own gradient, a thousandth
    of the box's side in linf to each side of the image. It fails where the change is off the predicted one by half of
    the larger of the two. Where the gradient is zero, or too small for the change to be told from rounding, the step is
    longer and has random signs: it fails where the logits change and the gradient had not said so. That catches layers
    without a gradient or with one of their own making, and quantised inputs. The change is taken in float64 where the
    model can be run in it, since a GPU may round float32 images inside a convolution by more than the short step.

    Args:
        model: images to logits, deterministic.
        images: (n, c, h, w) in the box; near its faces they are moved inwards by the length of the step.
        labels: (n,) int64.
        seeds: (n,) int64, of the random signs.
        box: of valid images; without bounds the range of the images takes the place of its side.
    """
    side = box.high - box.low
    side = side if math.isfinite(side) else float(images.amax() - images.amin())
    exact = _in_double(model, images)
    parts = [slice(start, start + CHUNK) for start in range(0, len(images), CHUNK)]
    return torch.cat([_mismatches(model, exact, images[rows], labels[rows], seeds[rows], box, side) for rows in parts])


def _mismatches(
    model: nn.Module, exact: nn.Module | None, images: Tensor, labels: Tensor, seeds: Tensor, box: Box, side: float
) -> Tensor:
    with torch.no_grad():
        rival = boundary.rivals(model(images), labels, 1)
    signs = (randomness.uniform(seeds, tuple(images.shape[1:])) - 0.5).sign().to(images)
    wrong, sure = torch.zeros_like(labels, dtype=torch.bool), torch.zeros_like(labels, dtype=torch.bool)
    for reach in (STEP * side, LEAP * side):
        rows = (~sure).nonzero().flatten()
        if len(rows):
            points = box._replace(low=box.low + reach, high=box.high - reach).clip(images[rows])
            gradients = class_gradients(model, points, rival[rows], labels[rows])[1][:, 0]
            if exact is not None:
                points, gradients = points.double(), gradients.double()
            gradients = torch.where(per_sample(linf(gradients).isfinite(), gradients), gradients, 0)
            steps = _longest(gradients if reach == STEP * side else signs[rows].to(points), reach, box)
            predicted = 2 * (gradients * steps).flatten(1).sum(dim=1)
            found, rounding = _change(model if exact is None else exact, points, steps, rival[rows], labels[rows])
            wrong[rows] = (found - predicted).abs() > torch.maximum(
                MISMATCH * torch.maximum(found.abs(), predicted.abs()), rounding
            )
            sure[rows] = predicted.abs() > 2 * rounding
    return wrong


def _in_double(model: nn.Module, images: Tensor) -> nn.Module | None:
    """A copy of the model in float64; None if its forward pass insists on float32."""
    exact = copy.deepcopy(model).double()
    try:
        with torch.no_grad():
            exact(images[:CHUNK].double())
    except RuntimeError:
        return None
    return exact


def _longest(direction: Tensor, reach: float, box: Box) -> Tensor:
    """The direction at a length of `reach`, in linf of the pixels; zero where it is zero."""
    direction = unit(direction)
    size = linf(flip(direction) if box.flipped else direction)
    return direction * per_sample(reach / torch.where(size > 0, size, 1), direction)


@torch.no_grad()
def _change(model: nn.Module, points: Tensor, steps: Tensor, rival: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Change of the rival's lead from points - steps to points + steps, and what may be rounding in it, (n,) each."""
    after, before = model(points + steps), model(points - steps)
    found = (boundary.gaps(after, rival, labels) - boundary.gaps(before, rival, labels)).squeeze(1)
    largest = torch.maximum(after.abs().amax(dim=1), before.abs().amax(dim=1))
    return found, boundary.ROUNDING * torch.finfo(after.dtype).eps * largest


def _differ(first: Tensor, second: Tensor) -> bool:
    return bool(((first - second).abs() > ROUNDING * first.abs().amax()).any())
