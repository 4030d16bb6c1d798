"""Classifiers that hide their gradients are flagged, sound ones are not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.pgd import pgd
from pipeline.contracts import View
from pipeline.measurements.perturbation import perturbation
from pipeline.numerics.box import UNIT
from pipeline.numerics.reliability import random_forward, softmax_output, zero_gradients
from tests.oracles import Constant, Rescaled, affine, grey_images, network, predictions

SHAPE = (1, 4, 4)
IMAGES = grey_images(20, SHAPE)


class Quantised(nn.Module):
    """Sees grey levels in steps of a quarter."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model((4 * images).round() / 4)


class Noisy(nn.Module):
    """Adds noise of its own at every call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + 0.1 * torch.randn_like(images))


SOUND = network(SHAPE, 4)
MODELS = {
    "sound": SOUND,
    "shifted": Rescaled(SOUND, 2.0, 5.0),
    "constant": Constant([1.0, 0.0, -1.0, -2.0]),
    "quantised": Quantised(SOUND),
    "saturated": Rescaled(SOUND, 1e6, 0.0),
    "softmax": nn.Sequential(SOUND, nn.Softmax(dim=1)),
    "noisy": Noisy(SOUND),
}


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("sound", set()),
        ("shifted", set()),
        ("constant", {"zero"}),
        ("quantised", {"zero"}),
        ("saturated", {"zero"}),
        ("softmax", {"softmax"}),
        ("noisy", {"random"}),
    ],
)
def test_flags(name: str, flags: set[str]) -> None:
    model = MODELS[name]
    labels = predictions(SOUND, IMAGES)
    found = {"zero"} if zero_gradients(model, IMAGES, labels, batch_size=7).float().mean() > 0.5 else set()
    found |= {"random"} if random_forward(model, IMAGES) else set()
    found |= {"softmax"} if softmax_output(model, IMAGES) else set()
    assert found == flags


def test_flags_do_not_depend_on_the_batch_size() -> None:
    labels = predictions(SOUND, IMAGES)
    model = Rescaled(SOUND, 300.0, 0.0)
    assert torch.equal(zero_gradients(model, IMAGES, labels, 1), zero_gradients(model, IMAGES, labels, 20))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_whole_box_as_budget_breaks_what_is_sound_and_not_what_is_masked(norm: str) -> None:
    epsilon = UNIT.diameter(IMAGES[0].shape, norm)
    assert epsilon == {"l2": 4.0, "linf": 1.0}[norm]
    classes = affine(SHAPE, 4)  # each class is predicted somewhere in the box
    success = {}
    for name, model in (("sound", classes), ("masked", Quantised(classes))):
        labels = predictions(model, IMAGES)
        seeds = torch.arange(len(IMAGES))
        given = {"norm": norm, "epsilon": epsilon, "random_start": False}
        found = pgd(model=model, images=IMAGES, labels=labels, seeds=seeds, **given)
        success[name] = float((predictions(model, found) != labels).double().mean())
    assert success == {"sound": 1.0, "masked": 0.0}


def test_rows_carry_the_flags() -> None:
    details = {
        "norm": "l2",
        "epsilon": 0.1,
        "forward_passes": 1.0,
        "backward_passes": 1.0,
        "large_epsilon_success": 0.5,
    }
    table = perturbation(
        model=MODELS["quantised"],
        images=IMAGES,
        labels=predictions(SOUND, IMAGES),
        seeds=torch.arange(20),
        views=[View("a", "attack", None, IMAGES, details)],
        batch_size=8,
    )
    assert table["zero_gradient"] == [True] * 20
    assert table["random_forward"] == table["softmax_output"] == [False] * 20
    assert table["large_epsilon_success"] == [0.5] * 20
    assert not math.isnan(sum(size for size in table["l2"] if size is not None))
