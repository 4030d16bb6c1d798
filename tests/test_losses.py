"""The losses that PGD may raise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor, nn

from pipeline.attacks._losses import dlr, loss_gradient, margin
from pipeline.attacks.pgd import pgd
from pipeline.contracts import UserError
from pipeline.numerics import gradients, norms
from pipeline.numerics.box import UNIT
from tests.oracles import affine, grey_images, network, predictions

SHAPE = (2, 6, 5)
IMAGES = grey_images(10, SHAPE).float()
SEEDS = torch.arange(100, 110)


def attack(model: nn.Module, **options: Any) -> Tensor:
    return pgd(model=model, images=IMAGES, labels=predictions(model, IMAGES), seeds=SEEDS, **options)


def numpy_losses(logits: np.ndarray, label: int) -> tuple[float, float]:
    ranked = np.sort(logits)[::-1]
    gap = float(np.delete(logits, label).max() - logits[label])
    return gap, gap / float(ranked[0] - ranked[2])


def test_dlr_and_margin_are_their_formulas() -> None:
    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(40) % 6
    expected = [numpy_losses(row, label) for row, label in zip(logits.numpy(), labels.tolist(), strict=True)]
    torch.testing.assert_close(margin(logits, labels), torch.tensor([gap for gap, _ in expected], dtype=torch.float64))
    torch.testing.assert_close(dlr(logits, labels), torch.tensor([ratio for _, ratio in expected], dtype=torch.float64))
    torch.testing.assert_close(dlr(3 + 50 * logits, labels), dlr(logits, labels))
    wrong = logits.argmax(dim=1) != labels
    assert ((margin(logits, labels) > 0) == wrong).all() and ((dlr(logits, labels) > 0) == wrong).all()


def test_the_reference_has_the_same_dlr() -> None:
    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 6
    torch.testing.assert_close(dlr(logits, labels), APGDAttack(None, eps=0.1).dlr_loss(logits, labels))


def test_gradients_of_the_losses() -> None:
    model = affine(SHAPE, 4)
    images = IMAGES.double()
    labels = predictions(model, images)
    for found, expected in zip(
        loss_gradient(model, images, labels, nn.CrossEntropyLoss(reduction="none")),
        gradients.loss_gradient(model, images, labels),
        strict=True,
    ):
        assert torch.equal(found, expected)
    rival = model(images).scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
    _, losses, gradient = loss_gradient(model, images, labels, margin)
    torch.testing.assert_close(gradient.flatten(1), model.weight[rival] - model.weight[labels])
    torch.testing.assert_close(losses, margin(model(images), labels))


@pytest.mark.parametrize("loss", ["dlr", "margin"])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_pgd_with_other_losses_fools_where_the_cross_entropy_vanishes(norm: str, loss: str) -> None:
    sharp = affine(SHAPE, 4).float()
    sharp.weight *= 1e4  # the softmax is one-hot, the cross-entropy and its gradient are zero
    sharp.bias *= 1e4
    labels = predictions(sharp, IMAGES)
    epsilon = {"l1": 20.0, "l2": 2.0, "linf": 0.3}[norm]
    given = {"norm": norm, "epsilon": epsilon, "steps": 20, "random_start": False}
    blind, seeing = (attack(sharp, loss=name, **given) for name in ("ce", loss))
    assert (predictions(sharp, seeing) != labels).all() and (predictions(sharp, blind) == labels).any()
    assert (norms.length(seeing.double() - IMAGES.double(), norm) <= epsilon * (1 + 1e-6) + 2**-24).all() and (
        UNIT.excess(seeing) == 0
    ).all()


def test_pgd_with_dlr_needs_three_classes() -> None:
    with pytest.raises(UserError, match="at least 3 classes, the classifier has 2"):
        attack(network(SHAPE, 2).float(), epsilon=0.1, loss="dlr")
    for classes, loss in ((2, "margin"), (3, "dlr"), (10, "dlr")):
        assert attack(network(SHAPE, classes).float(), epsilon=0.1, loss=loss).isfinite().all()
