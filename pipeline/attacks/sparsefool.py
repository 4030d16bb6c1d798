"""SparseFool: perturbations of few pixels, by crossing DeepFool's linearised boundary entry by entry."""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.contracts import Count, NonNegative, Positive, UserError
from pipeline.numerics.boundary import crossed, gaps, nearest_hyperplane, rivals
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.gradients import class_gradients
from pipeline.numerics.linear_solver import cross_plane, released_solver
from pipeline.numerics.norms import per_sample, unit

NORM = "l0"
CANDIDATES, RELEASED_CANDIDATES = 3, 10
BETA = 0.001  # of the released code: what its solver adds to the gap
LEAST_STEP = 1e-4  # of the released code: the shortest step of its DeepFool


def sparsefool(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    lam: Positive = 3.0,
    steps: Count = 20,
    inner_steps: Count = 50,
    overshoot: NonNegative = 0.02,
    delta: Positive | None = None,
    candidates: Count | None = None,
    group: Literal["entries", "pixels"] = "entries",
    prune: bool = True,
    mode: Literal["default", "official"] = "default",
) -> Tensor:
    """SparseFool (Modas, Moosavi-Dezfooli, Frossard, CVPR 2019, algorithms 1 and 2), batched.

    Each round finds a boundary point by DeepFool from the current image, pushes the boundary's linearisation there
    `lam` times as far away, and moves entries to their bounds, those with the largest normal first, until it is
    crossed. Changes accumulate over the rounds; a sample is done when the image with the overshoot leaves its class.
    Samples that are done leave the batch, in DeepFool too.

    Departures from the paper, all of them off in the mode `official`: the class left is always the label; its rivals
    are chosen anew at each linearisation, at no further pass; the normal is taken where DeepFool ends, with its
    overshoot, in the pass that tests this end; a normal that points away from the way to that end is
    replaced by its direction; an image that leaves its class before the overshoot is taken; the last entry moves just
    onto the pushed plane; the result is pruned (`prune`).

    The mode `official` follows the authors' released code: DeepFool leaves the class predicted at the current image,
    for the others of its `candidates` largest logits there, in steps of at least 1e-4; the solver adds 0.001 to the
    gap, and changes every entry if the plane lies behind the image. Departures from that code: a sample without a
    boundary fails, where the code divides by zero and takes the NaN image for a success; images are in the units of
    the box, not normalised, which the two constants feel; fewer than ten classes are allowed.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: not used, the method is deterministic.
        box: of valid images, bounded unless delta is given.
        lam: how many times as far the linearised boundary is pushed; more changes more pixels in fewer rounds.
        steps: largest number of rounds; the code's default, its demos take 50.
        inner_steps: largest number of linearisations of one DeepFool.
        overshoot: share added to the perturbation, of DeepFool and of the result, to cross the boundary.
        delta: largest change of an entry, for perturbations harder to see; none: the box alone.
        candidates: classes to leave for, those with the largest logits; `official` counts the class left among them.
            None: 3, and the released code's 10 in `official`. On two ResNet-20 (digits; CIFAR-10 as JPEG 75, 60 %
            accurate), one seed and 96 samples each, 3 gave the same median of pixels as 10, with 0.4 of the backward
            passes.
        group: `entries` as in the paper; `pixels` moves the channels of a pixel together (a departure).
        prune: undo the changes of pixels that are not needed: those whose linearised effect is smallest, as many as
            a bisection finds. It takes one backward and about log2(changed pixels) forward passes; on the same samples
            the median fell from 56 to 19 pixels and from 13 to 7.
        mode: `default` or `official`, which ignores group and prune.

    Returns:
        (n, c, h, w) perturbed images; the clean image where none was found.

    Raises:
        UserError: a box without bounds, or one behind the frequency flip, where pixels are not entries.
    """
    if box.flipped:
        raise UserError("sparsefool: given data whose frequencies are flipped, expected pixels; attack data in pixels")
    if delta is None and not math.isfinite(box.high - box.low):
        raise UserError("sparsefool: given a box without bounds, where one entry is enough; expected the option delta")
    official = mode == "official"
    if candidates is None:
        candidates = RELEASED_CANDIDATES if official else CANDIDATES
    reach = math.inf if delta is None else delta
    low, high = (images - reach).clamp(min=box.low), (images + reach).clamp(max=box.high)
    results = images.clone()
    found = torch.zeros_like(labels, dtype=torch.bool)
    active, points = torch.arange(len(labels), device=labels.device), images
    for _ in range(steps):
        if not len(active):
            break
        source, classes = labels[active], None
        if official:
            with torch.no_grad():
                logits = model(points)
            source = logits.argmax(dim=1)
            classes = rivals(logits, source, max(candidates - 1, 1))
        normal, gap, beyond = _plane(model, points, source, classes, candidates, inner_steps, overshoot)
        results[active[beyond]] = points[beyond]
        found[active[beyond]] = True
        going = normal.flatten(1).any(dim=1)
        active, points, normal, gap = active[going], points[going], normal[going], gap[going]
        if not len(active):
            break
        clean, least, most = images[active], low[active], high[active]
        if official:
            points = released_solver(points, normal, lam * gap, least, most, beta=BETA)
        else:
            points = cross_plane(points, normal, lam * gap, least, most, group=group)
        trial = torch.minimum(torch.maximum(clean + (1 + overshoot) * (points - clean), least), most)
        with torch.no_grad():
            done = _left(model(trial), labels[active], official)
        results[active[done]] = trial[done]
        found[active[done]] = True
        active, points = active[~done], points[~done]
    if prune and not official and found.any():
        results[found] = _prune(model, images[found], results[found], labels[found])
    return results


def _left(logits: Tensor, source: Tensor, official: bool) -> Tensor:
    """Whether images have left their class: by more than rounding, or by `argmax` as in the released code."""
    return (logits.argmax(dim=1) != source) & logits.isfinite().all(dim=1) if official else crossed(logits, source)


def _plane(
    model: nn.Module,
    points: Tensor,
    source: Tensor,
    fixed: Tensor | None,
    candidates: int,
    steps: int,
    overshoot: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """DeepFool without a box, and the boundary's linearisation at its end.

    Args:
        model: images to logits.
        points: (n, c, h, w).
        source: (n,) classes to leave.
        fixed: (n, k) classes to leave for, in the official mode; none: `candidates` chosen at each linearisation.
        candidates: as above.
        steps: largest number of linearisations.
        overshoot: share added to a step's end for the test of its class.

    Returns:
        Unit normals (n, c, h, w), zero where no boundary was found; how far it is along them (n,); and whether a point
        has left its class already (n,), for which no boundary is looked for (never in the official mode).
    """
    official = fixed is not None
    shift, normal = torch.zeros_like(points), torch.zeros_like(points)
    beyond = torch.zeros_like(source, dtype=torch.bool)
    active = torch.arange(len(points), device=points.device)
    for step in range(steps):
        own = source[active]
        choose = functools.partial(rivals, source=own, count=candidates)
        chosen = choose if fixed is None else fixed[active]
        logits, gradients = class_gradients(model, points[active] + shift[active], chosen, own)
        others = choose(logits) if fixed is None else fixed[active]
        way, going = nearest_hyperplane(gaps(logits, others, own), gradients, LEAST_STEP if official else 0)
        if step == 0 and not official:
            beyond = crossed(logits, own)
            going &= ~beyond
        active, own = active[going], own[going]
        if not len(active):
            break
        shift[active] += way[going]
        done, slopes = _across(model, points[active], shift[active], own, overshoot, official)
        normal[active[done]] = unit(slopes)
        active = active[~done]
        if not len(active):
            break
    gap = (normal.double() * shift).flatten(1).sum(dim=1)
    if not official:
        back = normal.flatten(1).any(dim=1) & (gap <= 0)
        normal = torch.where(per_sample(back, normal), unit(shift), normal)
        gap = torch.where(back, (normal.double() * shift).flatten(1).sum(dim=1), gap)
    return normal, gap, beyond


def _across(
    model: nn.Module, points: Tensor, shift: Tensor, source: Tensor, overshoot: float, official: bool
) -> tuple[Tensor, Tensor]:
    """Whether the shift with the overshoot leaves the class, (n,), and for those that do the normal of the boundary."""
    trial, leader = points + (1 + overshoot) * shift, functools.partial(rivals, source=source, count=1)
    if not official:
        logits, slopes = class_gradients(model, trial, leader, source)
        done = crossed(logits, source)
        return done, slopes[done].squeeze(1)
    with torch.no_grad():
        logits = model(trial)
    done = _left(logits, source, official)
    if not done.any():
        return done, points[done]
    return done, class_gradients(model, (points + shift)[done], leader(logits)[done], source[done])[1].squeeze(1)


def _prune(model: nn.Module, clean: Tensor, perturbed: Tensor, labels: Tensor) -> Tensor:
    """Undo the pixels with the smallest linearised effect on the lead, as many as a bisection finds."""
    shift = perturbed - clean
    changed = (shift != 0).any(dim=1).flatten(1)  # (n, pixels)
    _, slopes = class_gradients(model, perturbed, functools.partial(rivals, source=labels, count=1), labels)
    effect = (slopes.squeeze(1) * shift).sum(dim=1).flatten(1)
    order = torch.where(changed, effect, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).view(len(clean), 1, *clean.shape[2:])

    def keeping(counts: Tensor, rows: Tensor) -> Tensor:
        return torch.where(rank[rows] < per_sample(counts, clean), perturbed[rows], clean[rows])

    few, enough = torch.zeros_like(labels), changed.sum(dim=1)
    while len(rows := (enough - few > 1).nonzero().squeeze(1)):
        middle = (few[rows] + enough[rows]) // 2
        with torch.no_grad():
            fooled = crossed(model(keeping(middle, rows)), labels[rows])
        few[rows], enough[rows] = torch.where(fooled, few[rows], middle), torch.where(fooled, middle, enough[rows])
    return keeping(enough, torch.arange(len(clean), device=clean.device))
