from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.ascent import projected_ascent
from pipeline.attacks.deepfool import deepfool
from pipeline.attacks.pgd import pgd
from pipeline.contracts import UserError
from pipeline.numerics import boundary, norms
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip
from pipeline.numerics.gradients import class_gradients, loss_gradient
from pipeline.numerics.passes import CountedModel
from tests.oracles import Affine, Constant, NanBeyond, Rescaled, affine, grey_images, margins, network, predictions

SHAPE = (2, 5, 4)
IMAGES = grey_images(12, SHAPE)
SEEDS = torch.arange(100, 112)
CLOSE = {"rtol": 0, "atol": 1e-12}
FLIPPED = Box(0, 1, flipped=True)
ANYWHERE = Box(-torch.inf, torch.inf)


class OnFlipped(nn.Module):
    """Says of flipped images what another model says of the images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(flip(images))
        return logits


def attack_pgd(model: nn.Module, images: Tensor, labels: Tensor, seeds: Tensor, **options: object) -> Tensor:
    return pgd(model=model, images=images, labels=labels, seeds=seeds, **options)  # type: ignore[arg-type]


def test_deepfool_overshoots_the_closed_form_of_an_affine_classifier() -> None:
    model = affine(SHAPE, 4)
    labels = predictions(model, IMAGES)
    found = deepfool(model=model, images=IMAGES, labels=labels, seeds=SEEDS, bisections=0, overshoot=0.05)
    torch.testing.assert_close(norms.l2(found - IMAGES), 1.05 * margins(model, IMAGES), rtol=1e-9, atol=0)


def test_deepfool_bisects_to_the_boundary() -> None:
    model = affine(SHAPE, 4)
    labels = predictions(model, IMAGES)
    found = deepfool(model=model, images=IMAGES, labels=labels, seeds=SEEDS, bisections=10)
    torch.testing.assert_close(norms.l2(found - IMAGES), margins(model, IMAGES), rtol=1e-3, atol=0)
    assert (predictions(model, found) != labels).all()


def test_deepfool_crosses_curved_boundaries_and_bisection_shortens() -> None:
    model = network(SHAPE, 5)
    labels = predictions(model, IMAGES)
    coarse = deepfool(model=model, images=IMAGES, labels=labels, seeds=SEEDS, bisections=0)
    fine = deepfool(model=model, images=IMAGES, labels=labels, seeds=SEEDS, bisections=30)
    assert (predictions(model, coarse) != labels).all() and (predictions(model, fine) != labels).all()
    assert (norms.l2(fine - IMAGES) <= norms.l2(coarse - IMAGES)).all()
    top = model(fine).topk(2).values
    torch.testing.assert_close(top[:, 0], top[:, 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(1e3, 0.0), (1e-3, 0.0), (1.0, 7.0), (20.0, -3.0)])
def test_deepfool_ignores_scale_and_shift_of_the_logits(scale: float, shift: float) -> None:
    model = network(SHAPE, 5)
    labels = predictions(model, IMAGES)
    plain = deepfool(model=model, images=IMAGES, labels=labels, seeds=SEEDS)
    other = deepfool(model=Rescaled(model, scale, shift), images=IMAGES, labels=labels, seeds=SEEDS)
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("box", [UNIT, FLIPPED])
@pytest.mark.parametrize("name", ["deepfool", "l2", "linf", "l1"])
def test_batch_equals_singles_and_any_order(name: str, box: Box) -> None:
    model = OnFlipped(network(SHAPE, 5)) if box.flipped else network(SHAPE, 5)
    images = flip(IMAGES) if box.flipped else IMAGES
    labels = predictions(model, images)

    def attack(rows: Tensor) -> Tensor:
        context = {"model": model, "images": images[rows], "labels": labels[rows], "seeds": SEEDS[rows], "box": box}
        if name == "deepfool":
            return deepfool(**context)  # type: ignore[arg-type]
        epsilon = {"l1": 0.5, "l2": 0.15, "linf": 0.03}[name]
        return pgd(**context, norm=name, epsilon=epsilon, steps=7, restarts=2)  # type: ignore[arg-type]

    everything = attack(torch.arange(12))
    fooled = predictions(model, everything) != labels
    if name != "deepfool":  # restarts go to a part of the batch
        assert fooled.any() and not fooled.all()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(attack(order), everything[order], **CLOSE)
    torch.testing.assert_close(torch.cat([attack(torch.tensor([row])) for row in range(12)]), everything, **CLOSE)


def test_deepfool_stays_in_the_box_and_finds_the_constrained_minimum() -> None:
    weight = torch.tensor([[0.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
    model = Affine(weight, torch.tensor([0.0, -2.2], dtype=torch.float64))
    images = torch.tensor([[0.9, 0.0], [1.0, 0.1]], dtype=torch.float64).view(2, 1, 1, 2)
    found = deepfool(model=model, images=images, labels=torch.tensor([0, 0]), seeds=SEEDS[:2], bisections=30)
    assert ((found >= 0) & (found <= 1)).all()
    # 2 x + y = 2.2 at the face x = 1 is met at y = 0.2
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([[1.0, 0.2]] * 2, dtype=torch.float64), rtol=0, atol=0.01)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (0.25, 0.75), (0.75, 0.25)])
def test_deepfool_gets_along_a_face_of_the_box(start: float, end: float) -> None:
    # nearly all of every step would leave the box: clipping alone gains a hundredth of the way a step
    weight = torch.tensor([[0.0, 0.0], [10.0, 1.0]]).double() / (end - start)
    model = Affine(weight, torch.tensor([0.0, -10.5]).double() - start * weight.sum(dim=1))
    image = torch.tensor([[[[end, start]]]]).double()
    context = {"model": model, "images": image, "labels": torch.tensor([0]), "seeds": SEEDS[:1]}
    found = deepfool(**context, box=Box(min(start, end), max(start, end)), steps=5, bisections=20)  # type: ignore
    expected = torch.tensor([[[[end, (start + end) / 2]]]]).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_deepfool_respects_the_box_at_black_and_white_images() -> None:
    model = network(SHAPE, 5)
    images = (grey_images(40, SHAPE) > 0.5).double()
    labels = predictions(model, images)
    found = deepfool(model=model, images=images, labels=labels, seeds=torch.arange(40))
    assert ((found >= 0) & (found <= 1)).all()
    assert (predictions(model, found) != labels).all()


def test_deepfool_on_flipped_data_is_deepfool_on_the_pixels() -> None:
    model = affine(SHAPE, 4)
    images = (grey_images(40, SHAPE) > 0.5).double()  # every pixel on a bound
    labels, seeds = predictions(model, images), torch.arange(40)
    plain = deepfool(model=model, images=images, labels=labels, seeds=seeds)
    flipped = deepfool(model=OnFlipped(model), images=flip(images), labels=labels, seeds=seeds, box=FLIPPED)
    torch.testing.assert_close(flip(flipped), plain, rtol=0, atol=1e-9)
    assert (FLIPPED.excess(flipped) < 1e-12).all() and ((flipped < -0.1) | (flipped > 1.1)).any()
    assert (predictions(OnFlipped(model), flipped) != labels).all()
    loose = deepfool(model=OnFlipped(model), images=flip(images), labels=labels, seeds=seeds, box=ANYWHERE)
    assert (norms.l2(loose - flip(images)) <= norms.l2(plain - images) * 1.001).all()


def test_deepfool_without_bounds_meets_the_closed_form_from_anywhere() -> None:
    model = affine(SHAPE, 4)
    images = grey_images(12, SHAPE, spread=8)
    labels = predictions(model, images)
    found = deepfool(model=model, images=images, labels=labels, seeds=SEEDS, box=ANYWHERE, bisections=20)
    torch.testing.assert_close(norms.l2(found - images), margins(model, images), rtol=2e-6, atol=0)


def test_deepfool_hands_back_the_very_image_where_it_finds_nothing() -> None:
    images = flip(IMAGES.float())
    found = deepfool(model=Constant([1.0, 0.0]), images=images, labels=torch.zeros(12).long(), seeds=SEEDS, box=FLIPPED)
    assert torch.equal(found, images)


@pytest.mark.parametrize("name", ["deepfool", "pgd"])
@pytest.mark.parametrize("logits", [[1.0, 0.0, 0.5], [1.0, 1.0, 1.0], [torch.nan] * 3, [1.0, torch.nan, 0.0]])
def test_models_without_gradients_or_with_nan_never_count_as_fooled(name: str, logits: list[float]) -> None:
    model, labels = Constant(logits), torch.zeros(12, dtype=torch.int64)
    if name == "deepfool":
        found = deepfool(model=model, images=IMAGES, labels=labels, seeds=SEEDS)
        assert torch.equal(found, IMAGES)
    else:
        found = attack_pgd(model, IMAGES, labels, SEEDS, epsilon=0.1, steps=3)
        assert (norms.linf(found - IMAGES) <= 0.1 + 1e-12).all()
    assert found.isfinite().all()
    assert not boundary.crossed(model(found), labels).any()


def test_points_with_nan_logits_are_no_success() -> None:
    model = affine(SHAPE, 3)
    image = IMAGES[predictions(model, IMAGES) != 0][:1]  # argmax of NaN logits is 0, another class
    labels, margin = predictions(model, image), margins(model, image)
    broken = NanBeyond(model, image[0], 0.5 * margin.item())
    assert torch.equal(deepfool(model=broken, images=image, labels=labels, seeds=SEEDS[:1]), image)
    found = attack_pgd(broken, image, labels, SEEDS[:1], norm="l2", epsilon=2 * margin.item())
    assert not boundary.crossed(broken(found), labels).any()


@pytest.mark.parametrize(("norm", "order"), [("l2", 2), ("linf", torch.inf)])
@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_beats_an_affine_classifier_exactly_beyond_its_margin(norm: str, order: float, random_start: bool) -> None:
    model = affine(SHAPE, 2)
    labels, margin = predictions(model, IMAGES), margins(model, IMAGES, order)
    for image, label, seed, distance in zip(IMAGES, labels, SEEDS, margin.tolist(), strict=True):
        for epsilon, fooled in ((0.999 * distance, False), (1.001 * distance, True)):
            found = attack_pgd(
                model,
                image[None],
                label[None],
                seed[None],
                norm=norm,
                epsilon=epsilon,
                step_size=epsilon / 10,
                steps=100,
                random_start=random_start,
            )
            assert bool(predictions(model, found) != label) == fooled


@pytest.mark.parametrize("random_start", [True, False])
def test_pgd_in_l1_beats_an_affine_classifier_exactly_beyond_its_margin(random_start: bool) -> None:
    model = affine(SHAPE, 2)
    labels = predictions(model, IMAGES)
    normal = (model.weight[1] - model.weight[0]).abs().amax()  # one entry alone changes
    logits = model(IMAGES)
    distances = (logits[:, 1] - logits[:, 0]).abs() / normal
    for image, label, seed, distance in zip(IMAGES, labels, SEEDS, distances, strict=True):
        for factor, fooled in ((0.999, False), (1.001, True)):
            given = {"norm": "l1", "epsilon": factor * distance.item(), "steps": 100, "random_start": random_start}
            found = attack_pgd(model, image[None], label[None], seed[None], box=ANYWHERE, **given)
            assert bool(predictions(model, found) != label) == fooled


def test_pgd_in_l2_on_flipped_data_is_pgd_on_the_pixels() -> None:
    model = affine(SHAPE, 4)
    images = (grey_images(40, SHAPE) > 0.5).double()
    labels, seeds = predictions(model, images), torch.arange(40)
    given = {"norm": "l2", "epsilon": 0.4, "random_start": False}
    plain = attack_pgd(model, images, labels, seeds, **given)
    flipped = attack_pgd(OnFlipped(model), flip(images), labels, seeds, box=FLIPPED, **given)
    torch.testing.assert_close(flip(flipped), plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("box", [UNIT, FLIPPED])
@pytest.mark.parametrize(("norm", "epsilon"), [("l1", 2.0), ("l2", 0.3), ("linf", 0.3)])
@pytest.mark.parametrize("restarts", [1, 3])
def test_pgd_stays_in_ball_and_box(norm: str, epsilon: float, restarts: int, box: Box) -> None:
    model = network(SHAPE, 5)
    images = grey_images(20, SHAPE, spread=0.5).float()
    images = flip(images) if box.flipped else images
    labels = predictions(model.float(), images)
    given = {"norm": norm, "epsilon": epsilon, "restarts": restarts, "steps": 5, "box": box}
    found = attack_pgd(model, images, labels, torch.arange(20), **given)
    assert found.dtype == torch.float32
    sizes = norms.length(found.double() - images.double(), norm)
    assert (sizes <= epsilon * (1 + 2e-6) + 2**-24).all() and (sizes > 0.2 * epsilon).all()
    assert (box.excess(found) <= (2**-21 if box.flipped else 0)).all()


def test_pgd_never_loses_by_more_steps_or_a_larger_ball() -> None:
    model = affine(SHAPE, 4)
    labels, margin = predictions(model, IMAGES), margins(model, IMAGES).median().item()

    def success(epsilon: float, steps: int) -> Tensor:
        found = attack_pgd(model, IMAGES, labels, SEEDS, norm="l2", epsilon=epsilon, step_size=margin / 5, steps=steps)
        return predictions(model, found) != labels

    shares = [success(factor * margin, 20).double().mean().item() for factor in (0.2, 0.5, 1.0, 2.0, 4.0)]
    assert shares == sorted(shares) and shares[0] < shares[-1]
    rows = [success(1.2 * margin, steps) for steps in (1, 5, 20, 60)]
    assert all((fewer <= more).all() for fewer, more in itertools.pairwise(rows))


def test_pgd_returns_the_highest_loss_where_it_fails() -> None:
    model = affine(SHAPE, 2)
    labels = predictions(model, IMAGES)
    epsilon = 0.5 * margins(model, IMAGES).min().item()
    found = attack_pgd(model, IMAGES, labels, SEEDS, norm="l2", epsilon=epsilon, step_size=epsilon, steps=20)
    normal = model.weight[1 - labels] - model.weight[labels]
    best = IMAGES + epsilon * norms.unit(normal).view_as(IMAGES)
    torch.testing.assert_close(found, best, rtol=0, atol=1e-3 * epsilon)


def test_pgd_draws_its_starts_from_the_samples_own_seeds() -> None:
    model, labels = Constant([1.0, 0.0]), torch.zeros(12, dtype=torch.int64)
    for norm in ("l1", "l2", "linf"):
        one = attack_pgd(model, IMAGES, labels, SEEDS, norm=norm, epsilon=0.2)
        assert torch.equal(one, attack_pgd(model, IMAGES, labels, SEEDS, norm=norm, epsilon=0.2))
        other = attack_pgd(model, IMAGES, labels, SEEDS + 1000, norm=norm, epsilon=0.2)
        assert not torch.isclose(one, other).all(dim=(1, 2, 3)).any()
        sizes = norms.length(one - IMAGES, norm)
        assert (sizes <= 0.2 + 1e-12).all() and (sizes > 0.1).all()


def test_pgd_keeps_the_best_of_its_restarts() -> None:
    model = network(SHAPE, 5)
    labels = predictions(model, IMAGES)

    def losses(restarts: int) -> Tensor:
        found = attack_pgd(model, IMAGES, labels, SEEDS, epsilon=1e-3, step_size=1e-6, steps=1, restarts=restarts)
        return loss_gradient(model, found, labels)[1]

    one, three, ten = losses(1), losses(3), losses(10)
    assert (one <= three).all() and (three <= ten).all() and (one < ten).sum() > 6


def test_restarts_without_a_random_start_are_refused() -> None:
    with pytest.raises(UserError, match="random_start"):
        attack_pgd(affine(SHAPE, 2), IMAGES, SEEDS, SEEDS, epsilon=0.1, restarts=2, random_start=False)


def test_attacks_leave_parameters_without_gradients() -> None:
    model = network(SHAPE, 5).requires_grad_(True)
    labels = predictions(model, IMAGES)
    deepfool(model=model, images=IMAGES, labels=labels, seeds=SEEDS)
    attack_pgd(model, IMAGES, labels, SEEDS, epsilon=0.1)
    found = projected_ascent(
        model=model, images=IMAGES, labels=labels, start=IMAGES, norm="linf", epsilon=0.1, step_size=0.03, steps=4
    )
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not found.requires_grad
    assert not IMAGES.requires_grad


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_projected_ascent_raises_the_loss_inside_the_ball(norm: str) -> None:
    model = network(SHAPE, 5)
    labels = predictions(model, IMAGES)
    outside = (IMAGES + 0.4).clamp(0, 1)
    found = projected_ascent(
        model=model, images=IMAGES, labels=labels, start=outside, norm=norm, epsilon=0.1, step_size=0.02, steps=15
    )
    assert ((norms.l2 if norm == "l2" else norms.linf)(found - IMAGES) <= 0.1 + 1e-12).all()
    assert (loss_gradient(model, found, labels)[1] > loss_gradient(model, IMAGES, labels)[1]).all()


def test_class_gradients_of_an_affine_classifier_are_its_weights() -> None:
    model = affine(SHAPE, 4)
    classes = torch.tensor([[0, 3], [2, 1], [1, 1]])
    logits, gradients = class_gradients(model, IMAGES[:3], classes)
    assert torch.equal(logits, model(IMAGES[:3]))
    torch.testing.assert_close(gradients.flatten(2), model.weight[classes])
    source = torch.tensor([1, 0, 2])
    _, differences = class_gradients(model, IMAGES[:3], classes, source)
    torch.testing.assert_close(differences.flatten(2), model.weight[classes] - model.weight[source][:, None])


def test_counted_model_counts_and_changes_nothing() -> None:
    model = network(SHAPE, 5)
    counted = CountedModel(model)
    assert not counted.training
    classes = torch.arange(5).expand(12, 5)
    plain = class_gradients(model, IMAGES, classes)
    for one, other in zip(class_gradients(counted, IMAGES, classes), plain, strict=True):
        assert torch.equal(one, other)
    assert (counted.forward_passes, counted.backward_passes) == (12, 60)
    loss_gradient(counted, IMAGES[:7], torch.zeros(7, dtype=torch.int64))
    assert (counted.forward_passes, counted.backward_passes) == (19, 67)
    with torch.no_grad():
        counted(IMAGES)
    assert (counted.forward_passes, counted.backward_passes) == (31, 67)


def test_counted_passes_of_whole_attacks() -> None:
    labels = predictions(affine(SHAPE, 4), IMAGES)
    # an affine classifier takes one linearisation, which gives the clean verdict, too, the trial, and one pass back
    counted = CountedModel(affine(SHAPE, 4))
    deepfool(model=counted, images=IMAGES, labels=labels, seeds=SEEDS, bisections=2, candidates=1)
    assert (counted.forward_passes, counted.backward_passes) == (12 * 3, 12 * 1)
    # nothing to climb: every restart makes its steps and looks at the last iterate
    counted = CountedModel(Constant([1.0, 0.0]))
    attack_pgd(counted, IMAGES, torch.zeros_like(labels), SEEDS, epsilon=0.1, steps=4, restarts=3)
    assert (counted.forward_passes, counted.backward_passes) == (12 * 3 * 5, 12 * 3 * 4)


def test_tiny_and_broken_gradients() -> None:
    gradient = torch.stack([torch.full(SHAPE, 1e-30), torch.zeros(SHAPE), torch.full(SHAPE, torch.nan)])
    for norm in ("l2", "linf"):
        step = norms.steepest(gradient, norm)
        size = (norms.l2 if norm == "l2" else norms.linf)(step)
        torch.testing.assert_close(size, torch.tensor([1.0, 0.0, 0.0]))


def test_l0_counts_pixels_and_entries() -> None:
    shift = torch.zeros(2, *SHAPE)
    shift[0, :, 1, 1] = 1e-9
    shift[0, 0, 2, 3] = -1
    assert norms.l0_pixels(shift).tolist() == [2, 0]
    assert norms.l0_entries(shift).tolist() == [3, 0]
