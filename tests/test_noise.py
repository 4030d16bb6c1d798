from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.noise import noise
from pipeline.contracts import UserError
from pipeline.numerics import norms
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip
from pipeline.numerics.gradients import loss_gradient
from pipeline.numerics.passes import CountedModel
from tests.oracles import Constant, affine, grey_images, margins, network, predictions

SHAPE = (2, 5, 4)
IMAGES = grey_images(12, SHAPE, spread=0.3)
SEEDS = torch.arange(100, 112)
LABELS = torch.zeros(12, dtype=torch.int64)
STILL = Constant([1.0, 0.0])
KINDS = ("gaussian", "uniform", "salt_and_pepper")
ANYWHERE = Box(-torch.inf, torch.inf)
FLIPPED = Box(0, 1, flipped=True)


def draw(model: nn.Module, images: Tensor, labels: Tensor, seeds: Tensor, **options: object) -> Tensor:
    return noise(model=model, images=images, labels=labels, seeds=seeds, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("norm", "epsilon"), [("l2", 0.5), ("l2", 2.5), ("linf", 0.3), ("l1", 1.0), ("l1", 10.0)])
def test_noise_is_as_long_as_it_may_be_although_clipped(norm: str, epsilon: float, kind: str) -> None:
    for images in (IMAGES, IMAGES.float(), (IMAGES > 0.5).double()):
        if kind == "salt_and_pepper" and images.double().frac().count_nonzero() == 0:
            continue  # half of the ends are where the image is, so that there may be too little room
        found = draw(STILL, images, LABELS, SEEDS, norm=norm, epsilon=epsilon, kind=kind)
        assert found.dtype == images.dtype and ((found >= 0) & (found <= 1)).all()
        sizes = norms.length(found.double() - images.double(), norm)
        assert (sizes <= epsilon * (1 + 1e-6) + 2**-24).all()
        assert (sizes >= epsilon * (1 - 1e-5)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["l2", "linf", "l1", "l0"])
def test_a_budget_of_zero_leaves_the_image_and_a_vast_one_fills_the_box(norm: str, kind: str) -> None:
    assert torch.equal(draw(STILL, IMAGES, LABELS, SEEDS, norm=norm, epsilon=0.0, kind=kind), IMAGES)
    found = draw(STILL, IMAGES, LABELS, SEEDS, norm=norm, epsilon=1e4, kind=kind)
    if norm == "l0" and kind != "salt_and_pepper":
        assert (norms.l0_pixels(found - IMAGES) == 20).all() and ((found >= 0) & (found <= 1)).all()
    else:
        assert ((found == 0) | (found == 1)).all()
        assert 0.4 < found.mean() < 0.6


def test_entries_are_of_the_kind_asked_for() -> None:
    images = torch.full((1, 1, 100, 100), 0.5, dtype=torch.float64)
    given = {"epsilon": 1.0, "norm": "l2"}
    gaussian, uniform, pepper = (
        (draw(STILL, images, LABELS[:1], SEEDS[:1], **given, kind=kind) - images).flatten() for kind in KINDS
    )
    for shift, kurtosis in ((gaussian, 3.0), (uniform, 1.8)):
        assert shift.mean().abs() < 1e-3
        assert (shift**4).mean() / (shift**2).mean() ** 2 == pytest.approx(kurtosis, rel=0.1)
    # 4 entries of one half spend the budget exactly
    assert sorted(set(pepper.tolist())) in ([-0.5, 0.0, 0.5], [-0.5, 0.0], [0.0, 0.5]) and (pepper != 0).sum() == 4
    many = draw(STILL, images, LABELS[:1], SEEDS[:1], epsilon=22.03, norm="l2", kind="salt_and_pepper") - images
    partial = ~torch.isin(many, torch.tensor([-0.5, 0.0, 0.5]).double())
    assert partial.sum() == 1 and 0.4 < (many[many != 0] > 0).double().mean() < 0.6
    signs = draw(STILL, images, LABELS[:1], SEEDS[:1], epsilon=0.25, norm="linf", kind="salt_and_pepper") - images
    torch.testing.assert_close(signs.abs(), torch.full_like(signs, 0.25), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epsilon", [1, 7.9, 20, 40.0])
def test_l0_changes_that_many_pixels(kind: str, epsilon: float) -> None:
    found = draw(STILL, IMAGES, LABELS, SEEDS, norm="l0", epsilon=epsilon, kind=kind)
    assert (norms.l0_pixels(found - IMAGES) == min(int(epsilon), 20)).all()
    assert ((found >= 0) & (found <= 1)).all()
    if kind == "salt_and_pepper":
        assert torch.isin(found[found != IMAGES], torch.tensor([0.0, 1.0]).double()).all()


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_other_boxes(norm: str, kind: str) -> None:
    free = draw(STILL, IMAGES, LABELS, SEEDS, norm=norm, epsilon=30.0, kind=kind, box=ANYWHERE)
    torch.testing.assert_close(norms.length(free - IMAGES, norm), torch.full((12,), 30.0).double(), rtol=1e-6, atol=0)
    flipped = draw(STILL, flip(IMAGES), LABELS, SEEDS, norm=norm, epsilon=0.4, kind=kind, box=FLIPPED)
    sizes = norms.length(flipped - flip(IMAGES), norm)
    assert (sizes <= 0.4 * (1 + 1e-6)).all() and (sizes > 0.39).all()
    assert (FLIPPED.excess(flipped) < 1e-12).all()
    shifted = draw(STILL, 4 * IMAGES - 1, LABELS, SEEDS, norm=norm, epsilon=4.0, kind=kind, box=Box(-1, 3))
    plain = draw(STILL, IMAGES, LABELS, SEEDS, norm=norm, epsilon=1.0, kind=kind)
    torch.testing.assert_close((shifted + 1) / 4, plain, rtol=0, atol=1e-7)


@pytest.mark.parametrize("box", [FLIPPED, ANYWHERE, Box(0, torch.inf)])
@pytest.mark.parametrize(("norm", "kind"), [("l0", "gaussian"), ("l2", "salt_and_pepper")])
def test_kinds_that_need_pixels_or_ends_are_refused_without(norm: str, kind: str, box: Box) -> None:
    with pytest.raises(UserError, match=f"noise: given norm {norm} and kind {kind} on flipped or unbounded data"):
        draw(STILL, IMAGES, LABELS, SEEDS, norm=norm, kind=kind, epsilon=1.0, box=box)


def test_success_on_an_affine_classifier_is_that_of_the_closed_form() -> None:
    model, images = affine(SHAPE, 2), grey_images(600, SHAPE)
    labels, distance = predictions(model, images), margins(model, images)
    short = draw(model, images, labels, torch.arange(600), epsilon=0.999 * distance.min().item(), draws=20)
    assert torch.equal(predictions(model, short), labels)
    # noise much longer than the margins ends on either side with equal chance
    far = draw(model, images, labels, torch.arange(600), epsilon=1e4, box=ANYWHERE)
    assert (predictions(model, far) != labels).double().mean() == pytest.approx(0.5, abs=0.1)
    twice = draw(model, images, labels, torch.arange(600) * 2, epsilon=1e4, box=ANYWHERE, draws=2)
    assert (predictions(model, twice) != labels).double().mean() == pytest.approx(0.75, abs=0.09)


def test_draws_stop_at_the_first_success_and_keep_the_highest_loss_else() -> None:
    model = network(SHAPE, 5)
    labels = predictions(model, IMAGES)
    singles = [draw(model, IMAGES, labels, SEEDS + number, epsilon=0.5) for number in range(6)]
    counted = CountedModel(model)
    found = draw(counted, IMAGES, labels, SEEDS, epsilon=0.5, draws=6)
    passes = 0
    for row in range(12):
        fooled = [bool(predictions(model, one[row : row + 1]) != labels[row]) for one in singles]
        losses = [loss_gradient(model, one[row : row + 1], labels[row : row + 1])[1].item() for one in singles]
        chosen = fooled.index(True) if any(fooled) else losses.index(max(losses))
        passes += chosen + 1 if any(fooled) else 6
        torch.testing.assert_close(found[row], singles[chosen][row], rtol=0, atol=1e-12)
    assert counted.forward_passes == passes and counted.backward_passes == 0
    assert passes < 72 and (predictions(model, found) == labels).any()


class Script(nn.Module):
    """Puts out the next of given logits at every call."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = iter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([next(self.logits)], dtype=images.dtype).expand(len(images), -1)


def test_success_counts_more_than_a_high_loss() -> None:
    model = Script([[1.0, 0.99, 0.98], [1.0, 1.5, -9.0]])  # the second is fooled at a lower cross-entropy
    found = draw(model, IMAGES, LABELS, SEEDS, epsilon=0.3, draws=2)
    assert torch.equal(found, draw(STILL, IMAGES, LABELS, SEEDS + 1, epsilon=0.3))


@pytest.mark.parametrize(("kind", "norm"), list(itertools.product(KINDS, ["l2", "linf", "l1", "l0"])))
def test_batch_equals_singles_and_any_order(kind: str, norm: str) -> None:
    model = network(SHAPE, 5)
    labels = predictions(model, IMAGES)
    epsilon = {"l2": 1.0, "linf": 0.2, "l1": 3.0, "l0": 3.0}[norm]

    def found(rows: Tensor) -> Tensor:
        given = {"norm": norm, "kind": kind, "epsilon": epsilon, "draws": 4}
        return draw(model, IMAGES[rows], labels[rows], SEEDS[rows], **given)

    everything = found(torch.arange(12))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found(order), everything[order], rtol=0, atol=1e-12)
    alone = torch.cat([found(torch.tensor([row])) for row in range(12)])
    torch.testing.assert_close(alone, everything, rtol=0, atol=1e-12)
    other = draw(model, IMAGES, labels, SEEDS + 1000, norm=norm, kind=kind, epsilon=epsilon)
    assert not (other == everything).flatten(1).all(dim=1).any()
    assert found(torch.arange(0)).shape == (0, *SHAPE)


@pytest.mark.parametrize("logits", [[1.0, 0.0, 0.5], [torch.nan] * 3, [1.0, torch.nan, 0.0]])
def test_broken_models_get_finite_images(logits: list[float]) -> None:
    for kind in KINDS:
        found = draw(Constant(logits), IMAGES, LABELS, SEEDS, epsilon=0.3, kind=kind, draws=3)
        assert found.isfinite().all() and (UNIT.excess(found) == 0).all()
        assert (norms.l2(found - IMAGES) <= 0.3 + 1e-12).all()


def test_parameters_images_and_the_global_generator_stay_as_they_are() -> None:
    model = network(SHAPE, 5).requires_grad_(True)
    labels, before, state = predictions(model, IMAGES), IMAGES.clone(), torch.get_rng_state()
    found = draw(model, IMAGES, labels, SEEDS, epsilon=0.3, draws=3)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not found.requires_grad and torch.equal(IMAGES, before)
    assert torch.equal(torch.get_rng_state(), state)
