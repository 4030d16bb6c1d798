"""Minimal-norm attacks of foolbox (Rauber et al., Journal of Open Source Software, 2020)."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.attacks._libraries import Draws, UnitModel, borrowed, settled
from pipeline.numerics.box import Box

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # its model zoo asks for git on import, its attacks do not

import eagerpy.tensor.pytorch
from foolbox.attacks.base import MinimizationAttack
from foolbox.attacks.boundary_attack import BoundaryAttack as BoundaryAttack
from foolbox.attacks.ddn import DDNAttack as DDNAttack
from foolbox.attacks.fast_minimum_norm import FMNAttackLp as FMNAttackLp
from foolbox.attacks.fast_minimum_norm import L0FMNAttack as L0FMNAttack
from foolbox.attacks.fast_minimum_norm import L1FMNAttack as L1FMNAttack
from foolbox.attacks.fast_minimum_norm import L2FMNAttack as L2FMNAttack
from foolbox.attacks.fast_minimum_norm import LInfFMNAttack as LInfFMNAttack
from foolbox.models.pytorch import PyTorchModel


def run(
    attack: MinimizationAttack,
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    box: Box,
    start: Tensor | None = None,
) -> Tensor:
    """Run an attack without a budget.

    Draws of the library are shared between the samples, see `Draws`.

    Args:
        attack: of foolbox.
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        box: of valid images.
        start: (n, c, h, w), misclassified images, for an attack that starts from them.

    Returns:
        (n, c, h, w) perturbed images; the clean image where the attack left none that fools the classifier. One whose
        lead is lost in rounding is moved on by up to a thousandth, see `settled`.

    Raises:
        UserError: the box is flipped or unbounded.
    """
    unit = UnitModel(model, images, box)
    if not len(images):
        return images.clone()
    target = PyTorchModel(unit, bounds=(0, 1), device=images.device)
    given: dict[str, Any] = {} if start is None else {"starting_points": unit.points(start)}
    with torch.enable_grad(), borrowed(model, [eagerpy.tensor.pytorch], Draws()):
        points = attack.run(target, unit.points(images), labels, **given)
    return settled(model, images, unit.images(points.detach(), images), labels, box.clip)
