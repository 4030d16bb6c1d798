"""The adversarial trainings: what they share, the losses of `adversarial`, `trades` and `mart`, weight perturbation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.attacks.pgd import pgd
from pipeline.numerics import norms
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip
from pipeline.training.perturbation import in_eval_mode, perturb
from pipeline.training.standard import standard
from pipeline.training.weight_perturbation import at_worst_weights
from tests.trainings import BALL, IMAGES, LABELS, TRAININGS, affine, call, network, seen_in_train_mode

NORMS = ("l1", "l2", "linf")
FLIPPED = Box(0.0, 1.0, True)


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("training", [True, False])
def test_passes_outside_the_loss_leave_no_trace(name: str, training: bool) -> None:
    classifier = network().train(training)
    classifier[1].eval()  # frozen on its own: each module's mode is restored
    generator_state = torch.get_rng_state()
    loss, metrics = call(name, classifier)
    assert torch.equal(torch.get_rng_state(), generator_state), "draws come from the generator handed in"
    assert [module.training for module in classifier] == [training, False, training, training, training]
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert loss.isfinite()
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())
    if training:
        loss.backward()
        assert all(parameter.grad is not None for parameter in classifier.parameters())


@pytest.mark.parametrize(
    ("name", "passes"),
    [("adversarial", 1), ("trades", 2), ("mart", 2), ("fast", 1), ("free", 1), ("curvature", 1)],
)
def test_batch_norm_learns_from_the_passes_of_the_loss_alone(name: str, passes: int) -> None:
    classifier, alone = network().train(), network().train()
    seen = seen_in_train_mode(classifier)
    call(name, classifier)
    assert len(seen) == passes
    for images in seen:
        alone(images)
    for mine, expected in zip(classifier.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize(("name", "passes"), [("adversarial", 1), ("trades", 2), ("mart", 2)])
def test_batch_norm_learns_nothing_from_the_search_for_the_worst_weights(name: str, passes: int) -> None:
    classifier, layer = network().train(), nn.BatchNorm2d(4).double().train()
    seen: list[Tensor] = []
    hook = classifier[1].register_forward_pre_hook(
        lambda module, given: seen.append(given[0].detach()) if module.training else None
    )
    call(name, classifier, weight_perturbation=0.05)
    hook.remove()
    assert len(seen) == 2 * passes
    assert not torch.allclose(seen[0], seen[passes]), "before and behind the moved weights"
    for features in seen[passes:]:
        layer(features)
    for mine, expected in zip(classifier[1].buffers(), layer.buffers(), strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("box", [UNIT, FLIPPED])
@pytest.mark.parametrize("name", BALL)
def test_perturbations_stay_in_ball_and_box(name: str, box: Box, norm: str) -> None:
    classifier, state = network().train(), {}
    images = flip(IMAGES) if box.flipped else IMAGES
    seen = seen_in_train_mode(classifier)
    options = {"norm": norm, "box": box, "images": images, "epsilon": 0.2}
    for _ in range(2):  # the second step of `free` is perturbed
        loss, _ = call(name, classifier, **options, **({"state": state} if name in ("fast", "free") else {}))
        loss.backward()
    shift = seen[-1] - images
    assert (norms.length(shift, norm) <= 0.2 + 1e-6).all()
    assert (norms.length(shift, norm) > 0.1).all()
    assert (box.excess(seen[-1]) < 1e-6).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", TRAININGS)
def test_without_strength_each_is_its_clean_counterpart(name: str, training: bool) -> None:
    classifier = network().train(training)
    expected, _ = standard(
        classifier=network().train(training), images=IMAGES, labels=LABELS, generator=torch.Generator()
    )
    options = {"weight": 0.0} if name == "curvature" else {"epsilon": 0.0}
    loss, metrics = call(name, classifier, **options)
    if name == "mart":  # boosted cross-entropy, and no divergence
        clean = network().train(training)(IMAGES)
        rest = 1 - clean.softmax(1)
        others = clean.softmax(1).scatter(1, LABELS[:, None], 0).argmax(1, keepdim=True)
        expected = expected - rest.gather(1, others).log().mean()
    torch.testing.assert_close(loss, expected)
    if "robust_accuracy" in metrics and "accuracy" in metrics:
        assert metrics["robust_accuracy"] == metrics["accuracy"]


@pytest.mark.parametrize("name", ["adversarial", "trades", "fast", "free", "curvature"])
def test_label_smoothing_reaches_the_cross_entropy(name: str) -> None:
    options = {"weight": 0.0} if name == "curvature" else {"epsilon": 0.0}
    loss, _ = call(name, network().train(), label_smoothing=0.3, **options)
    torch.testing.assert_close(loss, F.cross_entropy(network().train()(IMAGES), LABELS, label_smoothing=0.3))


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_adversarial_loss_of_an_affine_classifier_is_the_closed_form(norm: str, random_start: bool) -> None:
    """The worst case in the ball lowers the gap of two logits by epsilon times the dual norm of its weights."""
    classifier, labels = affine(), LABELS % 2
    images = torch.full_like(IMAGES, 0.5) + 0.01 * IMAGES
    loss, _ = call(
        "adversarial", classifier, images=images, labels=labels, norm=norm, epsilon=0.2, steps=60, step_size=0.02,
        random_start=random_start,
    )  # fmt: skip
    with torch.no_grad():
        gap = classifier(images) @ torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        gap = gap.squeeze(1) * torch.where(labels == 0, 1, -1)  # of the other class above the label
        weights = (classifier[1].weight[1] - classifier[1].weight[0])[None]
        dual = {"l1": norms.linf, "l2": norms.l2, "linf": norms.l1}[norm](weights)
    torch.testing.assert_close(loss.detach(), F.softplus(gap + 0.2 * dual).mean(), rtol=1e-4, atol=0)


def losses_in_numpy(clean: np.ndarray, robust: np.ndarray, labels: np.ndarray, beta: float) -> tuple[float, float]:
    """TRADES and MART, from the papers' formulas."""
    n = np.arange(len(labels))
    log_p, log_q = log_softmax(clean, axis=1), log_softmax(robust, axis=1)
    p, q = np.exp(log_p), np.exp(log_q)
    kl = (p * (log_p - log_q)).sum(1)
    rival = np.where(np.eye(q.shape[1])[labels] > 0, -1, q).max(1)
    boosted = -log_q[n, labels] - np.log(1 - rival)
    return (-log_p[n, labels] + beta * kl).mean(), (boosted + beta * (1 - p[n, labels]) * kl).mean()


@pytest.mark.parametrize("name", ["trades", "mart"])
@pytest.mark.parametrize("random_start", ["gaussian", "uniform"])
def test_trades_and_mart_are_the_papers_formulas(name: str, random_start: str) -> None:
    classifier = network().eval()
    seen: list[Tensor] = []
    classifier.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    loss, metrics = call(name, classifier, beta=2.5, random_start=random_start)
    perturbed = seen[-1]
    assert 0.099 < (perturbed - IMAGES).abs().max() <= 0.1 + 1e-12
    clean, robust = classifier(IMAGES).detach().numpy(), classifier(perturbed).detach().numpy()
    expected = dict(zip(("trades", "mart"), losses_in_numpy(clean, robust, LABELS.numpy(), 2.5), strict=True))[name]
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    assert float(metrics["accuracy"]) == pytest.approx((clean.argmax(1) == LABELS.numpy()).mean())
    assert float(metrics["robust_accuracy"]) == pytest.approx((robust.argmax(1) == LABELS.numpy()).mean())


def test_sure_predictions_give_finite_losses() -> None:
    classifier = affine()
    classifier[1].weight.data *= 1e4
    for name in ("trades", "mart"):
        loss, _ = call(name, classifier, labels=LABELS % 2)
        loss.backward()
        assert loss.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in classifier.parameters())


def test_trades_perturbs_against_the_clean_predictions_and_mart_against_the_labels() -> None:
    """On an affine classifier of two classes the one moves the gap either way, the other always favours the rival."""
    classifier, images = affine(), torch.full_like(IMAGES, 0.5)
    uphill = (classifier[1].weight[1] - classifier[1].weight[0]).detach().view(1, 1, 4, 4).sign()
    for labels in (torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long)):
        last: list[Tensor] = []
        hook = classifier.register_forward_pre_hook(lambda _, given, last=last: last.append(given[0].detach()))
        call("mart", classifier, images=images, labels=labels, epsilon=0.1)
        torch.testing.assert_close(last[-1] - images, 0.1 * uphill.expand_as(images) * (1 - 2 * labels[0]))
        call("trades", classifier, images=images, labels=labels, epsilon=0.1)
        hook.remove()
        shift = (last[-1] - images) * uphill
        assert (shift.abs() > 0.0999).all(), "at a corner of the ball"
        assert (shift.flatten(1).amin(1) * shift.flatten(1).amax(1) > 0).all(), "of one of two"


def test_the_mode_is_restored_when_the_classifier_fails() -> None:
    class Broken(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("broken")

    classifier = Broken(2, 2).train()
    with pytest.raises(RuntimeError, match="broken"):
        perturb(
            classifier=classifier, images=IMAGES, target=LABELS, start=IMAGES, norm="l2", epsilon=1.0, steps=1,
            step_size=None, box=UNIT,
        )  # fmt: skip
    assert classifier.training
    with in_eval_mode(classifier):
        assert not classifier.training


def test_weight_perturbation_gives_the_gradient_at_explicitly_moved_weights() -> None:
    classifier, gamma = network().train(), 0.05

    def measure(forward: Callable[[Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return F.cross_entropy(forward(IMAGES), LABELS), {}

    loss, _ = at_worst_weights(classifier, measure, gamma)
    loss.backward()
    moved = network().train()
    measure(moved)[0].backward()
    with torch.no_grad():
        for layer in (moved[0], moved[4]):  # convolution and linear map, without their biases and BatchNorm
            layer.weight += gamma * layer.weight.norm() * layer.weight.grad / layer.weight.grad.norm()
    moved.zero_grad()
    expected = measure(moved)[0]
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert loss > measure(network().train())[0] + 0.01, "uphill"
    for mine, theirs in zip(classifier.parameters(), moved.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for mine, untouched in zip(classifier.parameters(), network().parameters(), strict=True):
        assert torch.equal(mine, untouched), "the weights themselves stay where they are"
    alone = at_worst_weights(network().eval(), measure, gamma)[0]
    torch.testing.assert_close(alone, measure(network().eval())[0], msg="validation is of the weights kept")


@pytest.mark.parametrize("name", ["adversarial", "trades", "mart"])
def test_weight_perturbation_raises_each_loss(name: str) -> None:
    plain, worst = call(name, network().train())[0], call(name, network().train(), weight_perturbation=0.05)[0]
    assert worst > plain + 0.01


@pytest.mark.parametrize("name", TRAININGS)
def test_every_parameter_learns_under_autocast(name: str) -> None:
    """Autocast reuses the weights that an earlier pass has cast; one without gradients would cut them off."""
    classifier = network().float().train()
    options = {"weight_perturbation": 0.01} if name in ("adversarial", "trades", "mart") else {}
    options |= {"guard_every": 1} if name == "fast" else {}
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = call(name, classifier, images=IMAGES.float(), **options)
    loss.backward()
    assert loss.dtype == torch.float32
    for parameter in classifier.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert classifier[4].weight.grad.abs().sum() > 0


def robust_accuracy(name: str) -> float:
    """Share of two classes of brightness that survive PGD after a training by that method."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    images = (torch.rand(64, 1, 4, 4, generator=generator) * 0.35 + 0.6 * labels.view(-1, 1, 1, 1)).double()
    classifier = affine()
    with torch.no_grad():  # starts from full accuracy and a needlessly small margin: one bright pixel decides
        classifier[1].weight.zero_()[:, 0] = torch.tensor([-9.0, 9.0])
        classifier[1].bias.copy_(torch.tensor([4.5, -4.5]))
    solver = torch.optim.SGD(classifier.parameters(), 0.05, momentum=0.9)
    state: dict[str, Tensor] = {}
    for _ in range(60):
        options = {"images": images, "labels": labels, "generator": generator}
        if name == "standard":
            loss, _ = standard(classifier=classifier, **options)
        else:
            options |= {"state": state} if name in ("fast", "free") else {}
            options |= {"epsilon": 0.5, "norm": "l2"} if name in BALL else {}
            loss, _ = call(name, classifier, **options)
        solver.zero_grad()
        loss.backward()
        solver.step()
    seeds = torch.arange(64)
    found = pgd(model=classifier, images=images, labels=labels, seeds=seeds, epsilon=0.5, norm="l2")
    return float((classifier(found).argmax(1) == labels).double().mean())


def test_each_training_makes_more_robust() -> None:
    plain = robust_accuracy("standard")
    for name in BALL:
        assert robust_accuracy(name) > plain + 0.1, name
