"""Differential tests against foolbox (extra `bench`): same classifier, same images."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pipeline.attacks.deepfool import deepfool
from pipeline.attacks.pgd import pgd
from pipeline.attacks.superdeepfool import superdeepfool
from pipeline.models.classifier import build
from pipeline.training.loop import Split, fit
from pipeline.training.standard import standard
from pipeline.training.step import Method, Step

pytestmark = pytest.mark.slow
RECIPE = {"model": "resnet18", "model_options": {"channels": [16, 16, 32, 32]}, "stem": "small", "classes": 10}


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A small ResNet on digits, and 100 images that it classifies correctly."""
    torch.manual_seed(0)
    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images * 15.9).to(torch.uint8)[:, None]
    data = Split(pixels[:1200], torch.from_numpy(bunch.target[:1200]))
    net = build({**RECIPE, "channels": 1, "mean": [0.3], "std": [0.38]})
    step = Step(net, Method(standard, False, False, 1, {}))
    validation = Split(pixels[1200:], torch.from_numpy(bunch.target[1200:]))
    fit(step=step, train=data, validation=validation, seed=0, epochs=4, batch_size=64)
    net.eval().requires_grad_(False)
    images, labels = validation.images.float() / 255, validation.labels
    kept = (net(images).argmax(1) == labels).nonzero()[:100, 0]
    return net, images[kept], labels[kept]


def test_deepfool_is_no_longer_than_foolbox_and_finds_all(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox", reason="needs the extra `bench`: make slow")
    net, images, labels = trained
    ours = deepfool(model=net, images=images, labels=labels, seeds=torch.arange(100))
    peer = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02, loss="logits")
    _, (theirs,), _ = peer(foolbox.PyTorchModel(net, bounds=(0, 1)), images, labels, epsilons=[None])
    norms = [(found - images).flatten(1).norm(dim=1) for found in (ours, theirs)]
    success = [net(found).argmax(1) != labels for found in (ours, theirs)]
    assert success[0].all()
    assert float(success[0].float().mean()) >= float(success[1].float().mean())
    both = success[0] & success[1]
    assert float(norms[0][both].median()) <= 1.005 * float(norms[1][both].median())


def test_deepfool_in_linf_is_no_longer_than_foolbox(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox", reason="needs the extra `bench`: make slow")
    net, images, labels = trained
    ours = deepfool(model=net, images=images, labels=labels, seeds=torch.arange(100), norm="linf")
    peer = foolbox.attacks.LinfDeepFoolAttack(steps=50, candidates=10, overshoot=0.02, loss="logits")
    _, (theirs,), _ = peer(foolbox.PyTorchModel(net, bounds=(0, 1)), images, labels, epsilons=[None])
    assert (net(ours).argmax(1) != labels).all()
    norms = [(found - images).flatten(1).abs().amax(dim=1) for found in (ours, theirs)]
    assert float(norms[0].median()) <= 1.005 * float(norms[1].median())


def test_deepfool_and_superdeepfool_are_no_longer_than_torchattacks(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    torchattacks = pytest.importorskip("torchattacks", reason="needs the extra `bench`: make slow")
    net, images, labels = trained
    given = {"model": net, "images": images, "labels": labels, "seeds": torch.arange(100)}
    theirs = torchattacks.DeepFool(net, steps=50, overshoot=0.02)(images, labels)
    found = [theirs, deepfool(**given), superdeepfool(**given)]
    lengths = [float((image - images).flatten(1).norm(dim=1).median()) for image in found]
    assert all((net(image).argmax(1) != labels).all() for image in found[1:])
    assert lengths[1] <= 1.005 * lengths[0] and lengths[2] < lengths[1]


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("l2", 0.3)])
def test_pgd_succeeds_as_often_as_foolbox(trained: tuple[nn.Module, Tensor, Tensor], norm: str, epsilon: float) -> None:
    foolbox = pytest.importorskip("foolbox", reason="needs the extra `bench`: make slow")
    net, images, labels = trained
    steps, size = 40, 2.5 * epsilon / 40
    ours = pgd(
        model=net, images=images, labels=labels, seeds=torch.arange(100), norm=norm, epsilon=epsilon, steps=steps
    )
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    peer = kind(steps=steps, abs_stepsize=size, random_start=True)
    torch.manual_seed(0)
    _, _, (success,) = peer(foolbox.PyTorchModel(net, bounds=(0, 1)), images, labels, epsilons=[epsilon])
    found = (net(ours).argmax(1) != labels).float().mean()
    assert float(found) == pytest.approx(float(success.float().mean()), abs=0.03)
