"""The training loop and the adversarial training; PRIME's loss has its own file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import store
from pipeline.attacks.pgd import pgd
from pipeline.contracts import UserError
from pipeline.specs import complete
from pipeline.stages.prepare import prepare
from pipeline.stages.train import train
from pipeline.training.adversarial import adversarial
from pipeline.training.loop import Split, augment, fit, make_optimizer
from pipeline.training.standard import standard


def separable(n: int = 64) -> Split:
    """Two classes that differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    images = torch.randint(0, 90, (n, 1, 4, 4), generator=generator) + 150 * labels.view(-1, 1, 1, 1)
    return Split(images.to(torch.uint8), labels)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def run(net: nn.Module, **options: object) -> list[dict[str, float]]:
    generator = torch.Generator().manual_seed(1)

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return standard(classifier=net, images=images, labels=labels, generator=generator)

    data = separable()
    settings = {"epochs": 5, "batch_size": 16, "learning_rate": 0.1, **options}
    return fit(classifier=net, step=step, train=data, validation=data, generator=generator, **settings)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb", "lion"])
def test_learns_what_can_be_learnt(optimizer: str) -> None:
    rate = 0.1 if optimizer == "sgd" else 0.01
    history = run(small_net(), optimizer=optimizer, learning_rate=rate, epochs=12, gradient_clip=1.0)
    assert history[-1]["validation_accuracy"] == 1.0
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert [row["epoch"] for row in history] == list(range(1, 13))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "nadamw", "lamb", "lion", "rmsprop"])
def test_momentum_reaches_every_optimizer(name: str) -> None:
    for group in make_optimizer(small_net(), name, 0.1, 0.77, 0.01).param_groups:
        assert (group["betas"][0] if "betas" in group else group["momentum"]) == 0.77
        assert group["lr"] == 0.1


def test_schedule_rises_over_the_warm_up_and_falls_to_zero() -> None:
    rates = [row["learning_rate"] for row in run(small_net(), epochs=10, warmup_epochs=3)]
    assert rates[:3] == sorted(rates[:3])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.005
    linear = [row["learning_rate"] for row in run(small_net(), epochs=4, batch_size=64, scheduler="poly")]
    assert linear == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert {row["learning_rate"] for row in run(small_net(), epochs=2, scheduler="none")} == {0.1}


def test_loss_that_is_not_finite_stops_with_advice() -> None:
    net = small_net()
    nn.init.constant_(net[1].weight, torch.nan)
    with pytest.raises(UserError, match="the loss is nan in epoch 1, batch 1: lower learning_rate"):
        run(net)


def test_a_last_batch_of_one_image_is_left_out() -> None:
    net, data = small_net(), separable(17)
    generator = torch.Generator().manual_seed(1)
    sizes: list[int] = []

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        sizes.append(len(images))
        return standard(classifier=net, images=images, labels=labels, generator=generator)

    fit(classifier=net, step=step, train=data, validation=separable(16), generator=generator, epochs=1, batch_size=8)
    assert sizes == [8, 8, 8, 8], "two of training, two of validation"


def test_augmentation_shifts_and_flips_each_image_on_its_own() -> None:
    images = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4).expand(200, 1, 4, 4)
    same = augment(images, torch.Generator().manual_seed(0), 0, False)
    assert torch.equal(same, images)
    flipped = augment(images, torch.Generator().manual_seed(0), 0, True)
    is_flipped = (flipped == images.flip(3)).flatten(1).all(1)
    assert torch.equal(is_flipped, ~(flipped == images).flatten(1).all(1))
    assert 60 < int(is_flipped.sum()) < 140
    cropped = augment(images, torch.Generator().manual_seed(0), 1, False)
    padded = nn.functional.pad(images[0, 0], [1] * 4)
    windows = {tuple(padded[r : r + 4, c : c + 4].flatten().tolist()) for r in range(3) for c in range(3)}
    assert {tuple(crop.flatten().tolist()) for crop in cropped} == windows


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("random_start", [True, False])
def test_adversarial_loss_is_cross_entropy_inside_the_ball(norm: str, random_start: bool) -> None:
    data = separable()
    net, images = small_net(), data.images.float() / 255
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()) if module.training else None)
    generator = torch.Generator().manual_seed(0)
    buffers = {name: value.clone() for name, value in net.named_buffers()}
    loss, metrics = adversarial(
        classifier=net.train(), images=images, labels=data.labels, generator=generator, norm=norm, epsilon=0.3,
        random_start=random_start,
    )  # fmt: skip
    assert len(seen) == 1, "BatchNorm sees the final perturbation and nothing else"
    assert net.training
    shift = (seen[0] - images).flatten(1)
    size = shift.norm(dim=1) if norm == "l2" else shift.abs().amax(1)
    assert 0.29 < float(size.max()) < 0.3001
    assert float(seen[0].min()) >= 0
    assert float(seen[0].max()) <= 1
    assert all(parameter.grad is None for parameter in net.parameters())
    for name, value in net.named_buffers():
        value.copy_(buffers[name])
    assert loss.item() == pytest.approx(nn.functional.cross_entropy(net(seen[0]), data.labels).item(), rel=1e-5)
    assert float(metrics["robust_accuracy"]) <= 1


def test_zero_radius_is_standard_training() -> None:
    data = separable()
    net, images = small_net().eval(), data.images.float() / 255
    arguments = {"classifier": net, "images": images, "labels": data.labels, "generator": torch.Generator()}
    assert torch.allclose(adversarial(**arguments, epsilon=0.0)[0], standard(**arguments)[0])


def robust_accuracy(method: str) -> float:
    """Share of brightness classes that survive PGD after a training by that method."""
    data, generator = separable(), torch.Generator().manual_seed(0)
    images = data.images.float() / 255
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():  # starts from full accuracy and a needlessly small margin: one bright pixel decides
        net[1].weight.zero_()[:, 0] = torch.tensor([-9.0, 9.0])
        net[1].bias.copy_(torch.tensor([4.5, -4.5]))

    def step(x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        given = {"classifier": net, "images": x, "labels": y, "generator": generator}
        return standard(**given) if method == "standard" else adversarial(**given, epsilon=0.3, norm="l2")

    fit(classifier=net, step=step, train=data, validation=data, generator=generator, epochs=20, batch_size=16)
    net.requires_grad_(False)
    seeds = torch.arange(len(images))
    found = pgd(model=net, images=images, labels=data.labels, seeds=seeds, epsilon=0.3, norm="l2")
    return float((net(found).argmax(1) == data.labels).float().mean())


def test_adversarial_training_makes_more_robust() -> None:
    assert robust_accuracy("adversarial") > robust_accuracy("standard")


def test_training_that_fails_writes_nothing(tmp_path: Path) -> None:
    data, out = tmp_path / "train.safetensors", tmp_path / "model.safetensors"
    prepare(spec=complete("prepare", {"source": "digits", "split": "train", "train_size": 40}), code="", out=data)
    spec = {"model": "resnet18", "model_options": {"channels": [8, 8, 8, 8]}, "stem": "small", "method": "standard"}
    options = {"epochs": 3, "optimizer": "sgd", "learning_rate": 1e30, "batch_size": 20}
    with pytest.raises(UserError, match="the loss is"):
        train(spec=complete("train", {**spec, "options": options}), code="", data=data, out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["train.safetensors"]
    assert store.read_metadata(data)["stage"] == "prepare"
