"""Boundary attack: small l2 perturbations from the classifier's decisions alone."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from pipeline.attacks import _foolbox
from pipeline.attacks._libraries import UnitModel
from pipeline.contracts import Count, Positive
from pipeline.numerics.boundary import bisect, crossed
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import per_sample
from pipeline.numerics.randomness import uniform

NORM = "l2"
HALVINGS = 10  # of the segment to the start


def boundary_attack(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    queries: Count = 5000,
    starts: Count = 200,
    spherical_step: Positive = 0.01,
    source_step: Positive = 0.01,
) -> Tensor:
    """Boundary attack (Brendel, Rauber, Bethge, ICLR 2018), by foolbox: neither gradients nor logits are used.

    From a misclassified image of uniform noise, blended with the clean image as far as it stays misclassified, a random
    walk follows the boundary towards the clean image: a step on the sphere around it, a step inward, both kept if the
    classifier still errs. The lengths of the steps adapt to how often they succeed.

    Departures: a sample's start is drawn from its own seed, up to `starts` times, and blended by bisection, where
    foolbox searches in 50 equal parts; the walk's directions are drawn once a step for all samples, as foolbox does
    it, always with the same seed, so that no batch, order or shard changes them. Rounding, which differs between
    batches, can still turn a decision on the boundary and with it the rest of a walk. foolbox also has HopSkipJump,
    which divides a sample's direction by the length of the whole batch's.

    Args:
        model: images to logits, of which the largest is looked at.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: (n,) int64.
        box: of valid images, bounded and not flipped.
        queries: forward passes of a walk, eleven for ten steps; the start takes up to `starts` + 10 besides.
        starts: noise images tried.
        spherical_step: first length of a step on the sphere, in units of the distance to the clean image.
        source_step: first length of a step inward, in the same units.

    Returns:
        (n, c, h, w) perturbed images; the clean image where no noise was misclassified.

    Raises:
        UserError: the box is flipped or unbounded.
    """
    UnitModel(model, images, box)  # refuses a box before the search for a start
    results = images.clone()
    found, noise = _noise(model, images, labels, seeds, box, starts)
    clean, source = images[found], labels[found]
    if not len(found):
        return results

    def blended(share: Tensor) -> Tensor:
        return box.clip(clean + per_sample(share, clean) * (noise - clean))

    with torch.no_grad():
        share = bisect(lambda share: crossed(model(blended(share)), source), clean, HALVINGS)
    start = torch.where(per_sample(share < 1, clean), blended(share), noise)
    attack = _foolbox.BoundaryAttack(
        steps=max(1, 10 * queries // 11), spherical_step=spherical_step, source_step=source_step
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it takes means of empty lists, and does not use them
        results[found] = _foolbox.run(attack, model=model, images=clean, labels=source, box=box, start=start)
    return results


@torch.no_grad()
def _noise(
    model: nn.Module, images: Tensor, labels: Tensor, seeds: Tensor, box: Box, tries: int
) -> tuple[Tensor, Tensor]:
    """Rows for which a misclassified noise image was drawn, and these images; try t draws from the seed + t."""
    noise = images.clone()
    active = torch.arange(len(images), device=images.device)
    for attempt in range(tries):
        if not len(active):
            break
        draws = uniform(seeds[active.to(seeds.device)] + attempt, tuple(images.shape[1:]))
        trial = box.clip(box.low + (box.high - box.low) * draws.to(images))
        fooled = crossed(model(trial), labels[active])
        noise[active[fooled]] = trial[fooled]
        active = active[~fooled]
    found = torch.ones(len(images), dtype=torch.bool, device=images.device)
    found[active] = False
    rows = found.nonzero().squeeze(1)
    return rows, noise[rows]
