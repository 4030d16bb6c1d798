"""Attacks that run through other packages."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from foolbox import PyTorchModel
from foolbox.attacks import DDNAttack, LInfFMNAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn

from pipeline import registry
from pipeline.attacks.fmn import ATTACKS
from pipeline.contracts import UserError
from pipeline.numerics import gradients, norms
from pipeline.numerics.box import Box
from tests.oracles import Affine, Constant, NanBeyond, affine, grey_images, margins, network, predictions

SHAPE = (2, 6, 5)
IMAGES = grey_images(10, SHAPE).float()
SEEDS = torch.arange(100, 110)
INTERVAL = Box(-1.0, 3.0)
MINIMAL: dict[str, dict[str, Any]] = {
    "fmn l0": {"norm": "l0", "steps": 40},
    "fmn l1": {"norm": "l1", "steps": 40},
    "fmn l2": {"norm": "l2", "steps": 40},
    "fmn linf": {"norm": "linf", "steps": 40},
    "ddn": {"steps": 40},
    "boundary_attack": {"queries": 400},
}
BUDGETS: dict[str, dict[str, Any]] = {
    "apgd l1": {"norm": "l1", "epsilon": 1.25, "steps": 10},
    "apgd l2": {"norm": "l2", "epsilon": 0.42, "steps": 10},
    "apgd linf": {"norm": "linf", "epsilon": 0.065, "steps": 10},
    "apgd dlr": {"epsilon": 0.065, "steps": 10, "loss": "dlr", "restarts": 2},
    "apgd targeted": {"epsilon": 0.065, "steps": 10, "loss": "dlr_targeted"},
}
EVERY = {**MINIMAL, **BUDGETS}


def smooth(classes: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    return network(SHAPE, classes).to(dtype)


def attack(name: str, model: nn.Module, images: Tensor, *, seeds: Tensor = SEEDS, **given: Any) -> Tensor:
    method = registry.load("attack", name.partition(" ")[0])
    options = {**EVERY.get(name, {}), **given}
    labels = options.pop("labels", None)
    labels = predictions(model, images) if labels is None else labels
    found: Tensor = method(model=model, images=images, labels=labels, seeds=seeds[: len(images)], **options)
    return found


def norm_of(name: str) -> str:
    return str(EVERY[name].get("norm", "linf" if name.startswith("apgd") else "l2"))


def sizes(shift: Tensor, norm: str) -> Tensor:
    return norms.l0_entries(shift).double() if norm == "l0" else norms.length(shift.double(), norm)


@pytest.mark.parametrize("name", MINIMAL)
def test_minimal_attacks_fool_inside_the_box(name: str) -> None:
    model = smooth(5)
    found = attack(name, model, IMAGES)
    assert found.dtype == IMAGES.dtype and ((found >= 0) & (found <= 1)).all()
    assert (predictions(model, found) != predictions(model, IMAGES)).all()
    assert (sizes(found - IMAGES, norm_of(name)) < 0.5 * sizes(1 - IMAGES, norm_of(name))).all()


@pytest.mark.parametrize(
    ("name", "slack"), [("fmn l2", 1.02), ("fmn linf", 1.1), ("ddn", 1.25), ("boundary_attack", 1.3)]
)
def test_minimal_attacks_near_the_closed_form_of_an_affine_classifier(name: str, slack: float) -> None:
    model = affine(SHAPE, 4)
    images = grey_images(10, SHAPE)
    best = margins(model, images, 2 if norm_of(name) == "l2" else torch.inf)
    given = {"queries": 4000} if name == "boundary_attack" else {"steps": 300}
    given |= {"step_size": 0.2} if name == "fmn linf" else {}
    found = sizes(attack(name, model, images, **given) - images, norm_of(name))
    assert (found >= best * (1 - 1e-6)).all()
    assert (found.median() <= slack * best.median()) and (found <= 1.5 * slack * best).all()


def test_fmn_in_l0_finds_the_one_entry_that_is_enough() -> None:
    weight = torch.zeros(2, 60)
    weight[1, :] = 0.01
    weight[1, 17] = 4.0
    model = Affine(weight, torch.tensor([0.0, -3.0]))
    found = attack("fmn l0", model, torch.full((2, *SHAPE), 0.5), labels=torch.zeros(2).long())
    assert norms.l0_entries(found - 0.5).tolist() == [1, 1]
    assert (found.flatten(1)[:, 17] != 0.5).all()


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_projections_of_fmn_end_in_the_ball(norm: str) -> None:
    import eagerpy as ep

    start, shift = torch.zeros(6, *SHAPE), torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))
    radii = torch.tensor([1.0, 2.0, 3.0, 60.0, 7.0, 1.0])
    moved = ATTACKS[norm]().project(x=ep.astensor(start + shift), x0=ep.astensor(start), epsilon=ep.astensor(radii)).raw
    size = sizes(moved, norm)
    torch.testing.assert_close(size, torch.minimum(sizes(shift, norm), radii.double()), rtol=2e-4, atol=0)


@pytest.mark.parametrize("name", BUDGETS)
def test_apgd_fools_inside_ball_and_box(name: str) -> None:
    model = smooth(5)
    labels = predictions(model, IMAGES)
    epsilon = 2 * BUDGETS[name]["epsilon"]
    found = attack(name, model, IMAGES, epsilon=epsilon)
    assert found.dtype == IMAGES.dtype and ((found >= 0) & (found <= 1)).all()
    assert (sizes(found - IMAGES, norm_of(name)) <= epsilon * (1 + 1e-6) + 2**-24).all()
    assert (predictions(model, found) != labels).all()
    # where it fails it hands back what it found with a larger loss than the clean image has
    close = attack(name, model, IMAGES, epsilon=epsilon / 100)
    assert (predictions(model, close) == labels).any()
    rise = gradients.loss_gradient(model, close, labels)[1] - gradients.loss_gradient(model, IMAGES, labels)[1]
    assert (rise > 0).all()


@pytest.mark.parametrize("name", EVERY)
def test_batch_equals_singles_and_any_order(name: str) -> None:
    model = smooth(5, torch.float64)
    images = IMAGES.double()
    everything = attack(name, model, images)
    fooled = predictions(model, everything) != predictions(model, images)
    if name in BUDGETS:  # further runs go to a part of the batch
        assert fooled.any() and not fooled.all()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    # an iterate that ends on the boundary turns back on one side of it or the other, as rounding decides
    close = {"rtol": 0, "atol": 1e-3 if name in MINIMAL else 2e-6}
    torch.testing.assert_close(attack(name, model, images[order], seeds=SEEDS[order]), everything[order], **close)
    singles = [attack(name, model, images[[row]], seeds=SEEDS[[row]]) for row in range(10)]
    torch.testing.assert_close(torch.cat(singles), everything, **close)


@pytest.mark.parametrize("name", ["boundary_attack", "apgd linf", "apgd l2", "apgd l1"])
def test_starts_come_from_the_samples_own_seeds(name: str) -> None:
    model = Constant([1.0, 0.0]) if name in BUDGETS else smooth(5)  # nothing to climb: the start comes back
    one, same = attack(name, model, IMAGES), attack(name, model, IMAGES)
    other = attack(name, model, IMAGES, seeds=SEEDS + 1000)
    assert torch.equal(one, same)
    assert (one != other).flatten(1).any(dim=1).all() and (one != IMAGES).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("name", [*EVERY, "autoattack"])
def test_global_generators_and_the_model_stay_as_they_are(name: str) -> None:
    model = smooth(3).requires_grad_(True)
    given = {"epsilon": 0.5} if name == "autoattack" else {"loss": "dlr"} if name == "apgd targeted" else {}
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    found = attack(name, model, IMAGES[:3], **given)
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert not model.training and not found.requires_grad


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("logits", [[1.0, 0.0, 0.5, 0.2], [torch.nan] * 4, [1.0, torch.nan, 0.0, 0.0]])
def test_models_without_gradients_or_with_nan_never_count_as_fooled(name: str, logits: list[float]) -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    found = attack(name, Constant(logits), IMAGES[:4], labels=labels, **({"starts": 3} if "bound" in name else {}))
    assert found.isfinite().all()
    if name in MINIMAL:
        assert torch.equal(found, IMAGES[:4])
    else:
        assert (sizes(found - IMAGES[:4], norm_of(name)) <= BUDGETS[name]["epsilon"] * (1 + 1e-6) + 2**-24).all()


@pytest.mark.parametrize("name", EVERY)
def test_points_with_nan_logits_are_no_success(name: str) -> None:
    model = affine(SHAPE, 4).float()
    image = IMAGES[predictions(model, IMAGES) != 0][:1]
    labels = predictions(model, image)
    broken = NanBeyond(model, image[0], 0.5 * margins(model, image).item())
    found = attack(name, broken, image, labels=labels, **({"starts": 3} if "bound" in name else {}))
    assert found.isfinite().all()
    if name in MINIMAL:
        assert torch.equal(found, image)


@pytest.mark.parametrize("name", EVERY)
def test_an_interval_is_the_unit_box_rescaled(name: str) -> None:
    model = smooth(5, torch.float64)
    images = IMAGES.double()
    low, width = INTERVAL.low, INTERVAL.high - INTERVAL.low

    class Shifted(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            logits: Tensor = model((given - low) / width)
            return logits

    scaled = {"epsilon": BUDGETS[name]["epsilon"] * (width if norm_of(name) != "l0" else 1)} if name in BUDGETS else {}
    plain = attack(name, model, images)
    found = attack(name, Shifted().eval(), low + width * images, box=INTERVAL, **scaled)
    assert (INTERVAL.excess(found) == 0).all()
    torch.testing.assert_close(found, low + width * plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("box", [Box(0, 1, flipped=True), Box(-torch.inf, torch.inf)])
def test_other_boxes_are_refused(name: str, box: Box) -> None:
    with pytest.raises(UserError, match="bounded pixels"):
        attack(name, smooth(5), IMAGES, box=box)


@pytest.mark.parametrize("name", EVERY)
def test_empty_batches(name: str) -> None:
    assert attack(name, smooth(5), IMAGES[:0], labels=torch.zeros(0).long()).shape == (0, *SHAPE)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("name", EVERY)
def test_few_and_many_classes(name: str, classes: int) -> None:
    model = smooth(classes)
    needed = {"apgd dlr": 3, "apgd targeted": 4}.get(name, 2)
    if classes < needed:
        with pytest.raises(UserError, match=f"at least {needed} classes, the classifier has {classes}"):
            attack(name, model, IMAGES[:3])
    else:
        assert attack(name, model, IMAGES[:3]).isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_apgd_runs_with_any_number_of_steps(norm: str, steps: int) -> None:
    found = attack("apgd", smooth(4), IMAGES[:2], norm=norm, epsilon=0.1, steps=steps)
    assert (sizes(found - IMAGES[:2], norm) <= 0.1 * (1 + 1e-6) + 2**-24).all()


@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr_targeted"])
@pytest.mark.parametrize(("norm", "epsilon"), [("l2", 0.45), ("linf", 0.075), ("l1", 1.6)])
def test_apgd_is_the_reference_for_a_single_sample(norm: str, epsilon: float, loss: str) -> None:
    model = smooth(5)
    given = {"norm": norm.title(), "n_iter": 20, "eps": epsilon, "use_largereps": norm == "l1", "device": "cpu"}
    fooled = 0
    for row in range(4):
        image, label = IMAGES[[row]], predictions(model, IMAGES[[row]])
        found = attack("apgd", model, image, seeds=SEEDS[[row]], norm=norm, epsilon=epsilon, loss=loss, steps=20)
        with torch.random.fork_rng(devices=[]):
            if loss == "dlr_targeted":
                theirs = APGDAttack_targeted(model, **given, n_target_classes=4, seed=SEEDS[row].item())
            else:
                theirs = APGDAttack(model, **given, loss=loss, seed=SEEDS[row].item())
            expected = theirs.perturb(image, label)
        success = bool(predictions(model, expected) != label)
        assert bool(predictions(model, found) != label) == success
        if success and (loss != "dlr_targeted" or predictions(model, found) == predictions(model, expected)):
            fooled += 1
            if loss != "dlr_targeted":
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert fooled


@pytest.mark.parametrize("name", ["ddn", "fmn linf"])
def test_foolbox_attacks_are_the_librarys(name: str) -> None:
    model = smooth(5)
    theirs = DDNAttack(steps=40) if name == "ddn" else LInfFMNAttack(steps=40)
    with torch.random.fork_rng(devices=[]):
        expected = theirs.run(PyTorchModel(model, bounds=(0, 1), device="cpu"), IMAGES, predictions(model, IMAGES))
    found = attack(name, model, IMAGES)
    if name == "ddn":
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    else:  # the overshoot changes the iterates
        torch.testing.assert_close(norms.linf(found - IMAGES), norms.linf(expected - IMAGES), rtol=5e-3, atol=0)


def test_boundary_attack_gets_closer_with_more_queries() -> None:
    model = smooth(5)
    few, many = (norms.l2(attack("boundary_attack", model, IMAGES, queries=n) - IMAGES) for n in (100, 3000))
    assert (many <= few).all() and many.median() < 0.8 * few.median()
