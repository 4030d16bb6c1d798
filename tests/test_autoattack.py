"""AutoAttack through the reference code."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from pipeline.attacks.autoattack import autoattack
from pipeline.attacks.fmn import fmn
from pipeline.contracts import UserError, View
from pipeline.measurements.perturbation import perturbation
from pipeline.numerics import norms
from pipeline.numerics.box import Box
from pipeline.stages.attack import overheard
from tests.oracles import Constant, grey_images, network, predictions

SHAPE = (1, 6, 6)
IMAGES = grey_images(6, SHAPE).float()
EPSILON = {"l1": 1.2, "l2": 0.25, "linf": 0.05}


def run(model: nn.Module, images: Tensor, norm: str = "linf", **given: Any) -> Tensor:
    labels = predictions(model, images)
    seeds = torch.arange(len(images))
    given = {"epsilon": EPSILON[norm], **given}
    return autoattack(model=model, images=images, labels=labels, seeds=seeds, norm=norm, **given)  # type: ignore


def partly_robust(norm: str) -> tuple[nn.Module, float]:
    """A curved classifier and a radius within which four of the six images are fooled."""
    model = network(SHAPE, 4).float()
    labels = predictions(model, IMAGES)
    found = fmn(model=model, images=IMAGES, labels=labels, seeds=torch.arange(6), norm=norm)  # type: ignore[arg-type]
    return model, 1.05 * norms.length(found - IMAGES, norm).sort().values[3].item()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ensemble with fewer steps and queries."""
    full = AutoAttack._set_version

    def shorter(self: AutoAttack, version: str) -> None:
        full(self, version)
        self.square.n_queries = 200
        self.fab.n_iter = 20
        for part in (self.apgd, self.apgd_targeted):
            part.n_iter = part.n_iter_orig = 25

    monkeypatch.setattr(AutoAttack, "_set_version", shorter)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_every_sample_gets_what_the_library_gives_it_alone(norm: str) -> None:
    model, epsilon = partly_robust(norm)
    labels = predictions(model, IMAGES)
    found = run(model, IMAGES, norm, epsilon=epsilon, seed=5)
    robust = predictions(model, found) == labels
    assert 0 < robust.sum() < 6 and torch.equal(found[robust], IMAGES[robust])
    assert (norms.length(found.double() - IMAGES.double(), norm) <= epsilon * (1 + 1e-6) + 2**-24).all()
    assert ((found >= 0) & (found <= 1)).all()
    with torch.random.fork_rng(devices=[]):
        for row in range(6):
            image, label = IMAGES[[row]], labels[[row]]
            theirs = AutoAttack(model, norm=norm.title(), eps=epsilon, seed=5)
            theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = 3
            expected, _ = theirs.run_standard_evaluation(image, label)
            alone = run(model, image, norm, epsilon=epsilon, seed=5)
            torch.testing.assert_close(alone, expected, rtol=0, atol=1e-6)
            assert bool(robust[row]) == bool(predictions(model, expected) == label)
            # rounding sums up over steps, and turns the sign of a gradient near zero
            assert ((found[[row]] - expected).abs() < 1e-4).double().mean() > 0.9


@pytest.mark.usefixtures("short")
def test_batch_and_order_do_not_matter() -> None:
    model = network(SHAPE, 5).double()
    images = IMAGES.double()
    epsilon = 0.025
    everything = run(model, images, epsilon=epsilon)
    fooled = predictions(model, everything) != predictions(model, images)
    assert fooled.any() and not fooled.all()
    order = torch.tensor([3, 0, 5, 4, 1, 2])
    torch.testing.assert_close(run(model, images[order], epsilon=epsilon), everything[order], rtol=0, atol=1e-4)
    halves = torch.cat([run(model, part, epsilon=epsilon) for part in images.split(4)])
    torch.testing.assert_close(halves, everything, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("short")
def test_another_seed_draws_other_noise() -> None:
    model, epsilon = partly_robust("l2")
    one, two = (run(model, IMAGES, "l2", epsilon=epsilon, seed=seed) for seed in (1, 2))
    assert not torch.equal(one, two)


@pytest.mark.slow
def test_robust_accuracy_is_that_of_the_library_on_the_whole_batch() -> None:
    model = network(SHAPE, 10).float()
    images = grey_images(60, SHAPE, seed=4).float()
    labels = predictions(model, images)
    with torch.random.fork_rng(devices=[]):
        expected, _ = AutoAttack(model, eps=0.012, seed=0).run_standard_evaluation(images, labels)
    ours, theirs = (
        (predictions(model, x) == labels).sum().item() for x in (run(model, images, epsilon=0.012), expected)
    )
    assert 6 < theirs < 54 and abs(ours - theirs) <= 1


@pytest.mark.parametrize("version", ["standard", "plus", "rand"])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_few_and_many_classes(classes: int, version: str, caplog: pytest.LogCaptureFixture) -> None:
    model = network(SHAPE, classes).float()
    with caplog.at_level(logging.WARNING):
        found = run(model, IMAGES, epsilon=0.3, version=version)
    assert (predictions(model, found) != predictions(model, IMAGES)).all()
    lacking = {
        2: {"standard": "apgd-t", "plus": "apgd-dlr and apgd-t", "rand": "apgd-dlr"},
        3: {"standard": "apgd-t", "plus": "apgd-t"},
    }
    expected = lacking.get(classes, {}).get(version)
    said = [record.getMessage() for record in caplog.records if record.name == "pipeline.attacks.autoattack"]
    assert said == ([f"autoattack: with {classes} classes it runs without {expected}"] if expected else [])


def test_the_librarys_flags_go_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Softmax(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return network(SHAPE, 4).float()(images).softmax(dim=1)

    run(Softmax().eval(), IMAGES[:2], epsilon=0.5)
    assert any("probability distribution" in record.getMessage() for record in caplog.records)


def test_the_librarys_flags_go_into_the_table() -> None:
    class Softmax(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return network(SHAPE, 4).float()(images).softmax(dim=1)

    model, images = Softmax().eval(), IMAGES[:2].float()
    with overheard() as warnings:
        found = run(model, images, epsilon=0.5)
        logging.getLogger("auto-attack").warning("there are 3 points with zero gradient! See flags_doc.md for details.")
        logging.getLogger("pipeline.attacks.autoattack").warning("a word of our own")
    expected = {
        "it seems that the output is a probability distribution, please be sure that the logits are used",
        "there are n points with zero gradient",
    }
    assert warnings == expected
    details = {
        "norm": "linf",
        "epsilon": 0.5,
        "forward_passes": 1.0,
        "backward_passes": 1.0,
        "warnings": sorted(warnings),
    }
    views = [View("aa", "attack", None, found, {**details, "large_epsilon_success": 1.0})]
    labels = predictions(model, images)
    table = perturbation(model=model, images=images, labels=labels, seeds=torch.arange(2), views=views, batch_size=2)
    assert table["library_warnings"] == ["; ".join(sorted(expected))] * 2
    logging.getLogger("auto-attack").warning("said after the attack")
    assert warnings == expected


def test_a_tracer_stays_in_place() -> None:
    def tracer(*_: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        run(network(SHAPE, 4).float(), IMAGES[:1], epsilon=0.5)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


def test_an_interval_is_the_unit_box_rescaled() -> None:
    model = network(SHAPE, 4).double()

    class Shifted(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            logits: Tensor = model((given + 1) / 2)
            return logits

    images = IMAGES.double()
    plain = run(model, images, epsilon=0.1)
    found = run(Shifted().eval(), 2 * images - 1, epsilon=0.2, box=Box(-1, 1))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, 2 * plain - 1, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("logits", [[torch.nan] * 4, [1.0, torch.nan, 0.0, 0.0]])
def test_nan_is_no_success(logits: list[float]) -> None:
    labels = torch.zeros(2, dtype=torch.int64)
    seeds = torch.arange(2)
    found = autoattack(model=Constant(logits), images=IMAGES[:2], labels=labels, seeds=seeds, epsilon=0.1)
    assert torch.equal(found, IMAGES[:2])


@pytest.mark.usefixtures("short")
def test_what_cannot_run_is_refused() -> None:
    model = network(SHAPE, 4).float()
    for box in (Box(0, 1, flipped=True), Box(-torch.inf, torch.inf)):
        with pytest.raises(UserError, match="bounded pixels"):
            run(model, IMAGES, box=box)
    small = grey_images(2, (1, 4, 4)).float()
    with pytest.raises(UserError, match="at least 5 x 5 pixels, given 4 x 4"):
        run(network((1, 4, 4), 4).float(), small, "l2")
    assert run(network((1, 4, 4), 4).float(), small, epsilon=0.5).isfinite().all()
    assert run(model, IMAGES[:0]).shape == (0, *SHAPE)
