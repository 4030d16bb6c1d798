"""AutoAttack: the standard ensemble of attacks without parameters."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import torch
from pyautoattack import AutoAttack, autopgd_base, fab_base, fab_pt, square  # type: ignore[import-untyped]
from torch import Tensor, nn

from pipeline.attacks._libraries import Draws, UnitModel, borrowed, settled
from pipeline.attacks.ascent import restrict
from pipeline.contracts import Natural, Positive, UserError
from pipeline.numerics.box import UNIT, Box

NAMES = {"l1": "L1", "l2": "L2", "linf": "Linf"}  # in pyautoattack
NEEDED = {"apgd-dlr": 3, "apgd-t": 4}  # classes; the other attacks run with two
SMALLEST = 5  # pixels a side that Square divides by, in l1 and l2


def autoattack(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    epsilon: Positive,
    norm: Literal["l2", "linf", "l1"] = "linf",
    version: Literal["standard", "plus", "rand"] = "standard",
    seed: Natural = 0,
) -> Tensor:
    """AutoAttack (Croce and Hein, ICML 2020; l1: "Mind the box", ICML 2021), by the reference code, pyautoattack.

    `standard` runs APGD on the cross-entropy, targeted APGD on the difference of logits ratio, targeted FAB and Square,
    each on the samples that the ones before it left. `plus` adds untargeted APGD-DLR and FAB and more restarts. `rand`
    is for classifiers that draw at random: two APGDs with gradients averaged over 20 passes.

    The library draws for a whole batch from one generator, so its results change with the batch. Here every sample
    meets the draws that it would meet alone: its result is, to rounding, that of the library run on it alone with
    `seed`, whatever the batch, the order or the shards. The price is that all samples share their noise (random starts,
    and the squares, most of which the library shares within a batch anyway): luck helps all of them at once. The
    samples' own seeds cannot be used, since the library does not tell whose rows it draws for; another `seed` shows how
    much the noise matters.

    Departures: attacks that need more classes than there are are left out, with a line in the log (targeted APGD needs
    4, APGD-DLR 3), and at most all other classes are targets; images are rescaled to [0, 1] first; a result is brought
    back into ball and box, which changes rounding alone. Runs in float32. The library's warnings (a random classifier,
    probabilities instead of logits, zero gradients, Square finding what the gradients did not) go to the log.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: not used.
        box: of valid images, bounded and not flipped.
        epsilon: radius of the ball.
        norm: `linf`, `l2` or `l1`.
        version: of the ensemble.
        seed: of the noise, shared by all samples.

    Returns:
        (n, c, h, w) misclassified images inside ball and box; the clean image where none was found.

    Raises:
        UserError: the box is flipped or unbounded; images with a side below 5 pixels in `l1` or `l2`, unless `rand`.
    """
    unit = UnitModel(model, images, box)
    height, width = images.shape[-2:]
    if norm != "linf" and version != "rand" and min(height, width) < SMALLEST:
        raise UserError(
            f"norm: autoattack in {norm} needs images of at least {SMALLEST} x {SMALLEST} pixels, "
            f"given {height} x {width}; use linf, or apgd"
        )
    if not len(images):
        return images.clone()
    points = unit.points(images).float()
    with torch.no_grad():
        classes = unit(points[:1]).shape[1]
    modules = [autopgd_base, fab_base, fab_pt, square]
    trace = sys.gettrace()  # the library's check for classifiers that optimise takes it away
    try:
        with borrowed(model, modules, Draws()):
            attack = AutoAttack(
                unit,
                norm=NAMES[norm],
                eps=epsilon / unit.width,
                seed=seed,
                version=version,
                device=images.device,
            )
            _fit(attack, classes)
            found, _ = attack.run_standard_evaluation(points, labels, batch_size=len(images))
    finally:
        sys.settrace(trace)

    def bring(points: Tensor) -> Tensor:
        return restrict(images, points, norm=norm, epsilon=epsilon, box=box)

    return settled(model, images, unit.images(found, images), labels, bring)


def _fit(attack: AutoAttack, classes: int) -> None:
    """Take what cannot run with this number of classes out of the ensemble."""
    left_out = [name for name in attack.attacks_to_run if classes < NEEDED.get(name, 2)]
    attack.attacks_to_run = [name for name in attack.attacks_to_run if name not in left_out]
    for part in (attack.apgd_targeted, attack.fab):
        part.n_target_classes = min(part.n_target_classes, classes - 1)
    if left_out:
        logging.getLogger(__name__).warning(
            "autoattack: with %d classes it runs without %s", classes, " and ".join(left_out)
        )
