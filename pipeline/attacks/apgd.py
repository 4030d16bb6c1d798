"""APGD: projected gradient ascent in an lp ball that sets its own step size."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from pyautoattack import autopgd_base  # type: ignore[import-untyped]
from torch import Tensor, nn

from pipeline.attacks._libraries import Draws, UnitModel, borrowed
from pipeline.attacks.ascent import restrict
from pipeline.contracts import Count, Positive, UserError
from pipeline.numerics.boundary import crossed
from pipeline.numerics.box import UNIT, Box

NAMES = {"l1": "L1", "l2": "L2", "linf": "Linf"}  # in pyautoattack
TARGETS = 9
LOG = logging.getLogger("auto-attack")  # where the library says that gradients are zero
NEEDED = {"ce": 2, "dlr": 3, "dlr_targeted": 4}  # classes


def apgd(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    epsilon: Positive,
    norm: Literal["l2", "linf", "l1"] = "linf",
    loss: Literal["ce", "dlr", "dlr_targeted"] = "ce",
    steps: Count = 100,
    restarts: Count = 1,
) -> Tensor:
    """Auto-PGD (Croce and Hein, ICML 2020; for l1 "Mind the box", ICML 2021), by the reference code, pyautoattack.

    Steps with momentum; at checkpoints a sample's step is halved, and its best iterate taken up again, if the loss has
    stalled. In `l1` the first 30 % of the steps go to three times the radius, the next 30 % to twice, as in AutoAttack.

    Departures: the outer loop over restarts and targets is our own, so that a start is drawn from the sample's own seed
    and not for the whole batch; images are rescaled to [0, 1] first; a result is brought back into ball and box, which
    changes rounding alone. As in the reference, a run goes on to its last step for a sample that is fooled before;
    further restarts and targets go to the samples left. Runs in float32.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: (n,) int64; the run r of a sample draws its start from the sample's seed + r.
        box: of valid images, bounded and not flipped.
        epsilon: radius of the ball.
        norm: `linf`, `l2` or `l1`.
        loss: what to raise: `ce`, the cross-entropy; `dlr`, the difference of logits ratio; `dlr_targeted`, the same
            towards each of the 9 classes (or all) with the largest other logits of the clean image, one after another.
        steps: steps of each run.
        restarts: runs, of `dlr_targeted` for each target.

    Returns:
        (n, c, h, w) perturbed images inside ball and box: misclassified, or else the iterate with the highest loss.

    Raises:
        UserError: the box is flipped or unbounded; fewer than 3 classes for `dlr`, than 4 for `dlr_targeted`.
    """
    unit = UnitModel(model, images, box)
    results = images.clone()
    if not len(images):
        return results
    points = unit.points(images).float()
    with torch.no_grad():
        order = unit(points).scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True)
    classes = order.shape[1]
    if classes < NEEDED[loss]:
        raise UserError(f"loss: {loss} needs at least {NEEDED[loss]} classes, the classifier has {classes}; choose ce")
    targets = min(TARGETS, classes - 1) if loss == "dlr_targeted" else 1
    highest = points.new_full((len(images),), -torch.inf)
    active = torch.arange(len(images), device=images.device)  # rows without success
    for run in range(targets * restarts):
        if not len(active):
            break
        draws = Draws(seeds[active.to(seeds.device)] + run)
        with torch.no_grad(), borrowed(model, [autopgd_base], draws):
            best, accurate, losses, fooling = _run(
                unit,
                points[active],
                labels[active],
                order[active, run // restarts],
                epsilon / unit.width,
                norm,
                loss,
                steps,
            )
            accurate = accurate.bool() | ~crossed(unit(fooling), labels[active])  # a lead in rounding is none
        better = ~accurate | (losses > highest[active])
        chosen = torch.where(accurate[:, None, None, None], best, fooling)[better]
        results[active[better]] = unit.images(chosen, images[active[better]])
        highest[active[better]] = losses[better]
        active = active[accurate]
    results = torch.where(results.isfinite(), results, images)
    return restrict(images, results, norm=norm, epsilon=epsilon, box=box)


def _run(
    unit: UnitModel, points: Tensor, labels: Tensor, target: Tensor, epsilon: float, norm: str, loss: str, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One run of the library: best iterates, whether the label was kept, best losses, and misclassified iterates."""
    given = {"norm": NAMES[norm], "n_iter": steps, "eps": epsilon, "device": points.device, "logger": LOG}
    if loss == "dlr_targeted":
        attack = autopgd_base.APGDAttack_targeted(unit, **given)
        attack.y_target = target
    else:
        attack = autopgd_base.APGDAttack(unit, **given, loss=loss)
    attack.init_hyperparam(points)
    if norm != "l1":
        return attack.attack_single_run(points, labels)  # type: ignore[no-any-return]
    early = int(0.3 * steps)
    parts = [(3 * epsilon, early), (2 * epsilon, early), (epsilon, steps - 2 * early)]
    radii, lengths = zip(*[part for part in parts if part[1]], strict=True)
    return attack.decr_eps_pgd(points, labels, radii, lengths)  # type: ignore[no-any-return]
