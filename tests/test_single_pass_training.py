"""The trainings that do without repeated attacks: single steps under guard, replays, curvature."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.attacks.ascent import move
from pipeline.contracts import UserError
from pipeline.numerics import norms
from pipeline.training.curvature import gradient_change
from tests.trainings import IMAGES, LABELS, affine, call, network


class Valley(nn.Module):
    """Says class 0 where pixels are off 0.5 by more than 0.24 epsilon on average, and by no more than epsilon each.

    Single steps jump over the valley in the middle.
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0, dtype=torch.float64))
        self.epsilon = epsilon

    def forward(self, images: Tensor) -> Tensor:
        off = (images - 0.5).abs().flatten(1) / self.epsilon
        height = off.mean(1) - 0.24 - 100 * (off - 1 - 1e-9).clamp(min=0).sum(1)
        return torch.stack((self.scale * height, torch.zeros_like(height)), 1)


def test_the_guard_turns_on_where_single_steps_fool_themselves_and_off_again() -> None:
    images, labels = torch.full_like(IMAGES, 0.5), torch.zeros(6, dtype=torch.long)
    state: dict[str, Tensor] = {}

    def step(classifier: nn.Module, seed: int) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(seed)
        given = {"images": images, "labels": labels, "generator": generator, "state": state}
        _, metrics = call("fast", classifier.train(), **given, epsilon=0.2, guard_every=2, guard_steps=20)
        return float(metrics["guard"]), float(metrics["robust_accuracy"])

    fooled = Valley(0.2).double()
    _, unguarded = call("fast", fooled, images=images, labels=labels, epsilon=0.2, guard_every=0)
    assert unguarded["robust_accuracy"] == 1
    assert "guard" not in unguarded
    assert step(fooled, 0) == (1, 0), "PGD finds the valley"
    assert state["guard"].item() is True
    robust = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    nn.init.zeros_(robust[1].weight)
    nn.init.constant_(robust[1].bias, 0.0)
    robust[1].bias.data[0] = 1
    state = {name: value.clone() for name, value in state.items()}  # as after a checkpoint
    assert step(robust, 1)[0] == 1, "between two looks it stays as it is"
    assert step(robust, 2)[0] == 0, "the next look turns it off"
    assert state["steps"].item() == 3
    before = {name: value.clone() for name, value in state.items()}
    _, metrics = call(
        "fast", fooled.eval(), images=images, labels=labels, epsilon=0.2, state=state, guard_steps=20, guard_every=1
    )
    assert metrics.keys() == {"robust_accuracy"}
    assert metrics["robust_accuracy"] == 0, "validation takes PGD"
    assert state == before, "and leaves the guard alone"


def test_the_guard_looks_at_steps_inside_the_ball_and_past_chance() -> None:
    given = {"images": torch.full((20, 1, 4, 4), 0.5, dtype=torch.float64), "epsilon": 0.1, "guard_steps": 20}
    labels = torch.zeros(20, dtype=torch.long)
    fooled = Valley(0.1).double().train()
    _, metrics = call("fast", fooled, **given, labels=labels, start="noise")
    assert metrics["robust_accuracy"] == metrics["guard"] - 1 == 0, (
        "the network fails beyond the ball, and is fooled in it"
    )
    labels[1:] = 1  # fooled in one case of twenty: PGD's accuracy is nil, the single step's 1/20
    _, metrics = call("fast", fooled, **given, labels=labels)
    assert metrics["guard"] == 0
    assert float(metrics["robust_accuracy"]) == pytest.approx(1 / 20)
    _, metrics = call("fast", affine().train(), labels=LABELS % 2, epsilon=0.5)
    assert metrics["guard"] == 0, "a network that is not robust at all"


def test_fast_takes_one_long_step_and_with_noise_a_larger_ball() -> None:
    classifier, images = affine().train(), torch.full_like(IMAGES, 0.5)
    uphill = (classifier[1].weight[1] - classifier[1].weight[0]).detach().view(1, 1, 4, 4).sign()
    last: list[Tensor] = []
    classifier.register_forward_pre_hook(lambda module, given: last.append(given[0].detach()))
    given = {"images": images, "labels": torch.zeros(6, dtype=torch.long), "epsilon": 0.1, "guard_every": 0}
    call("fast", classifier, **given)
    shift = (last[-1] - images) * uphill
    assert shift.min() > 0.025
    assert shift.max() <= 0.1 + 1e-12
    assert len(last) == 2, "one pass for the step, one for the loss"
    call("fast", classifier, **given, start="noise")
    shift = (last[-1] - images) * uphill
    assert -0.1 <= shift.min() < -0.05
    assert 0.25 < shift.max() <= 0.3 + 1e-12
    assert shift.mean().item() == pytest.approx(0.1, abs=0.03), "the step behind noise of mean zero"


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_free_replays_are_explicit_ascent_steps(norm: str) -> None:
    classifier, state = network().train(), {}
    points, twin = IMAGES, network().train()
    for _ in range(4):
        loss, _ = call("free", classifier, state=state, norm=norm, epsilon=0.3, step_size=0.1)
        loss.backward()
        leaf = points.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(twin(leaf), LABELS), leaf)
        points = move(IMAGES, points, gradient, norm=norm, epsilon=0.3, step_size=0.1)
        torch.testing.assert_close(state["perturbation"], points - IMAGES)
    assert not state["perturbation"].requires_grad
    assert norms.length(state["perturbation"], norm).max() > 0.15


def test_free_keeps_the_perturbation_of_a_full_batch_through_a_smaller_one() -> None:
    classifier, state = network().train(), {}
    for size in (6, 2, 6):
        before = state.get("perturbation", torch.zeros_like(IMAGES)).clone()
        loss, _ = call("free", classifier, state=state, images=IMAGES[:size], labels=LABELS[:size])
        assert torch.equal(state.get("perturbation", before), before), "only the backward pass moves it"
        loss.backward()
        assert state["perturbation"].shape == IMAGES.shape
        assert torch.equal(state["perturbation"][size:], before[size:])
        assert not torch.equal(state["perturbation"][:size], before[:size])
    before = state["perturbation"].clone()
    loss, metrics = call("free", classifier.eval(), state=state)
    torch.testing.assert_close(loss, F.cross_entropy(classifier(IMAGES), LABELS))
    assert metrics == {}
    assert torch.equal(state["perturbation"], before)


class Bowl(nn.Module):
    """Two logits 0 and q(x) = a + b.x + x.A.x / 2: for a large q and label 0 the loss is q, its Hessian A."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        half = torch.randn(16, 16, generator=generator, dtype=torch.float64)
        self.hessian = nn.Parameter(half + half.T)
        self.slope = nn.Parameter(torch.randn(16, generator=generator, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        q = 60 + x @ self.slope + ((x @ self.hessian) * x).sum(1) / 2
        return torch.stack((torch.zeros_like(q), q), 1)


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_curvature_of_a_quadratic_loss_is_its_hessian_along_the_signs(mode: str) -> None:
    classifier, labels = Bowl().train(), torch.zeros(6, dtype=torch.long)
    hessian = (classifier.hessian + classifier.hessian.T) / 2
    gradient = classifier.slope + IMAGES.flatten(1) @ hessian
    signs = gradient.detach().sign() / 4  # of 16 entries, so of unit length
    size = (0.5 * signs @ hessian).norm(dim=1)
    expected = (size**2).mean() if mode == "paper" else size.mean() / 6
    loss, metrics = call("curvature", classifier, labels=labels, h=1.0, ramp=0.5, progress=0.25, weight=3.0, mode=mode)
    assert float(metrics["curvature"]) == pytest.approx(expected.item(), rel=1e-9)
    clean = F.cross_entropy(classifier(IMAGES), labels)
    torch.testing.assert_close(loss, clean + 3 * expected)
    default, _ = call("curvature", classifier, labels=labels, h=1.0, ramp=0.5, progress=0.25, mode=mode)
    torch.testing.assert_close(default, clean + (0.16 if mode == "paper" else 0.8) * expected)
    mine = torch.autograd.grad(loss - clean, classifier.hessian)[0]
    theirs = torch.autograd.grad(3 * expected, classifier.hessian)[0]
    torch.testing.assert_close(mine, theirs, msg="the penalty reaches the weights, z held fixed")


def test_curvature_ramps_up_and_needs_no_second_derivative_of_relu() -> None:
    classifier = network().train()
    classifier[2] = nn.ReLU()
    loss, start = call("curvature", classifier, progress=0.0)
    assert start["curvature"] == 0
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in classifier.parameters()), "no change, no norm's slope"
    classifier.eval()  # BatchNorm's statistics stay as they are from one call to the next
    sizes = [float(call("curvature", classifier, progress=p, ramp=0.5)[1]["curvature"]) for p in (0.1, 0.3, 0.5, 1.0)]
    assert 0 < sizes[0] < sizes[1] < sizes[2] == sizes[3]
    assert float(call("curvature", classifier, progress=0.0, ramp=0.0)[1]["curvature"]) == sizes[3]
    change = gradient_change(classifier, IMAGES, LABELS, 0.5)
    assert not change.requires_grad, "validation builds no graph"


def test_curvature_is_computed_without_autocast() -> None:
    classifier = network().float().eval()
    exact = call("curvature", classifier, images=IMAGES.float())[1]["curvature"]
    with torch.autocast("cpu", torch.bfloat16):
        _, metrics = call("curvature", classifier, images=IMAGES.float())
    torch.testing.assert_close(metrics["curvature"], exact, rtol=1e-5, atol=0)


def test_curvature_differentiates_attention_twice_and_refuses_compiled_networks() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            x = images[:, 0] * self.head.weight.norm()
            return self.head(F.scaled_dot_product_attention(x, x, x).mean(1))

    classifier = Attention().double().train()
    loss, _ = call("curvature", classifier)
    loss.backward()
    assert classifier.head.weight.grad.isfinite().all()
    with pytest.raises(UserError, match="^compile: given true, expected false"):
        call("curvature", torch.compile(classifier, backend="eager"))
