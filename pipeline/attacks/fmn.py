"""FMN: minimal perturbations in l0, l1, l2 or linf by a ball whose radius adapts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from eagerpy.astensor import astensor
from eagerpy.tensor.tensor import Tensor as EagerTensor
from torch import Tensor, nn

from pipeline.attacks import _foolbox
from pipeline.contracts import Count, Positive, Share
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import l2, per_sample

OVERSHOOT = 1e-4  # of the radius


class _L1(_foolbox.L1FMNAttack):
    def project(self, x: EagerTensor, x0: EagerTensor, epsilon: EagerTensor) -> EagerTensor:
        """Nearest point of the ball around `x0`, with the overshoot."""
        point: EagerTensor = super().project(x, x0, epsilon * (1 + OVERSHOOT))
        return point


class _LInf(_foolbox.LInfFMNAttack):
    def project(self, x: EagerTensor, x0: EagerTensor, epsilon: EagerTensor) -> EagerTensor:
        """Nearest point of the ball around `x0`, with the overshoot."""
        point: EagerTensor = super().project(x, x0, epsilon * (1 + OVERSHOOT))
        return point


class _L2(_foolbox.L2FMNAttack):
    """The library divides the norm by itself where it wants the radius, and so never projects."""

    def project(self, x: EagerTensor, x0: EagerTensor, epsilon: EagerTensor) -> EagerTensor:
        """Nearest point of the ball around `x0`, with the overshoot."""
        shift: Tensor = (x - x0).raw
        share = ((1 + OVERSHOOT) * epsilon.raw / l2(shift).clamp(min=torch.finfo(shift.dtype).tiny)).clamp(max=1)
        return x0 + astensor(shift * per_sample(share, shift))


class _L0(_foolbox.L0FMNAttack):
    """The library keeps one entry too many, and all of equal size, and fails if the radius is the number of entries."""

    def project(self, x: EagerTensor, x0: EagerTensor, epsilon: EagerTensor) -> EagerTensor:
        """The `epsilon` largest entries of the perturbation."""
        shift: Tensor = (x - x0).raw
        flat = shift.flatten(1)
        rank = flat.abs().argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        kept = torch.where(rank < epsilon.raw.long()[:, None], flat, 0)
        return x0 + astensor(kept.view_as(shift))


ATTACKS: Mapping[str, type[_foolbox.FMNAttackLp]] = {
    "l0": _L0,
    "l1": _L1,
    "l2": _L2,
    "linf": _LInf,
}


def fmn(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    norm: Literal["l0", "l1", "l2", "linf"] = "l2",
    steps: Count = 100,
    step_size: Positive = 1.0,
    gamma: Share = 0.05,
) -> Tensor:
    """Fast minimum-norm attack (Pintor et al., NeurIPS 2021), by foolbox.

    Each step goes along the gradient of the difference of logits, divided by its l2 length; the perturbation is then
    projected on a ball whose radius shrinks where the image is misclassified and grows where it is not. The smallest
    misclassified iterate is kept. In `l0` entries are counted, every channel of a pixel on its own.

    Departures: in `l2` and `l0` the projection is our own, since that of foolbox 3.3.4 does not project in `l2` (its
    perturbations were 2.6 times as long on a small network), and in `l0` keeps one entry more than the radius. In the
    other norms the ball is larger than its radius by 1e-4: where the classifier is affine, as networks of rectifiers
    are in pieces, the first radius is the very distance to the boundary, and rounding could hold the attack on the
    wrong side for good. Images are rescaled to [0, 1] first, so lengths are in units of the box's width, and what does
    not fool the classifier is left as it was.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: not used, the method is deterministic.
        box: of valid images, bounded and not flipped.
        norm: to minimise.
        steps: gradient steps; in `l0` the radius starts at 1 and grows by little more than 1 a step, so that 100 steps
            reach about 100 entries.
        step_size: length of the first step, in l2, in units of the box's width; falls along a cosine to a hundredth.
        gamma: share by which the radius changes in the first step; falls along a cosine to 0.001.

    Returns:
        (n, c, h, w) perturbed images; the clean image where none was found.

    Raises:
        UserError: the box is flipped or unbounded.
    """
    attack = ATTACKS[norm](steps=steps, max_stepsize=step_size, gamma=gamma)
    return _foolbox.run(attack, model=model, images=images, labels=labels, box=box)
