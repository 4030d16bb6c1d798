"""Classifiers that hide their gradients are flagged, sound ones are not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from pipeline.attacks.pgd import pgd
from pipeline.contracts import View
from pipeline.measurements.perturbation import perturbation
from pipeline.measurements.probes import random_search, single_step
from pipeline.models.integrity import frozen
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip
from pipeline.numerics.passes import CountedModel
from pipeline.numerics.reliability import (
    batch_dependent,
    gradient_mismatches,
    precision_cosines,
    random_forward,
    softmax_output,
    zero_gradients,
)
from pipeline.report.outcomes import gather
from tests.oracles import Affine, Constant, NanBeyond, Rescaled, affine, grey_images, network, predictions

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


class Behind(nn.Module):
    """A model behind a change of its images."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.change(images))


def normalised(**options: Any) -> nn.Module:
    """The sound network behind batch normalisation."""
    return nn.Sequential(nn.BatchNorm2d(1, dtype=torch.float64, **options), SOUND).eval()


class Stubborn(nn.BatchNorm2d):
    """Stays in train mode."""

    def train(self, mode: bool = True) -> Stubborn:
        return super().train(True)


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


# The batch


@pytest.mark.parametrize("count", [1, 2, 20])
def test_statistics_of_the_batch_in_eval_mode_are_flagged(count: int) -> None:
    images = IMAGES[:count]
    assert not batch_dependent(SOUND, images) and not batch_dependent(normalised(), images)
    assert batch_dependent(normalised(track_running_stats=False), images)
    stuck = nn.Sequential(Stubborn(1, dtype=torch.float64), SOUND).eval()
    assert batch_dependent(stuck, images)


# Gradients


@pytest.mark.parametrize(
    ("name", "change", "wrong"),
    [
        ("none", lambda x: x, False),
        ("a clamp at the faces of the box", lambda x: x.clamp(0, 1), False),
        ("quantised", lambda x: (16 * x).round() / 16, True),
        ("passed straight through", lambda x: x + ((16 * x).round() / 16 - x).detach(), True),
        ("killed", lambda x: x.detach() + 0 * x, True),
        ("reversed", lambda x: 2 * x.detach() - x, True),
        ("too large", lambda x: 3 * x - 2 * x.detach(), True),
        ("not finite", lambda x: x + 0 * (x - x).sqrt(), True),
    ],
)
@pytest.mark.parametrize("centred", [True, False])
def test_a_gradient_that_does_not_say_how_the_logits_change_is_found(
    name: str, change: Callable[[Tensor], Tensor], wrong: bool, centred: bool
) -> None:
    images = IMAGES if centred else (IMAGES > 0.5).double()  # the latter in corners of the box
    seeds = torch.arange(20)
    model = Behind(SOUND, change)
    found = gradient_mismatches(model, images, predictions(model, images), seeds)
    assert found.double().mean() == float(wrong), name


def test_a_constant_classifier_has_the_gradient_that_it_should() -> None:
    labels = torch.zeros(20, dtype=torch.int64)
    assert not gradient_mismatches(MODELS["constant"], IMAGES, labels, torch.arange(20)).any()


@pytest.mark.parametrize("box", [Box(0, 1, flipped=True), Box(-math.inf, math.inf), Box(-3, 5)])
def test_gradients_are_checked_inside_any_box(box: Box) -> None:
    corners = (IMAGES > 0.5).double()
    images = flip(corners) if box.flipped else 8 * corners - 3
    labels, seeds = predictions(SOUND, images), torch.arange(20)
    inside: list[Tensor] = []

    def watched(points: Tensor) -> Tensor:
        inside.append(box.excess(points.detach()))
        return points

    assert not gradient_mismatches(Behind(SOUND, watched), images, labels, seeds, box).any()
    assert torch.cat(inside).max() < 1e-9
    killed = Behind(SOUND, lambda x: x.detach() + 0 * x)
    assert gradient_mismatches(killed, images, labels, seeds, box).all()


def test_a_mismatch_belongs_to_the_sample() -> None:
    images = IMAGES.clone()
    images[::2] += 0.2

    def reversed_above(x: Tensor) -> Tensor:
        return torch.where(x.mean(dim=(1, 2, 3), keepdim=True) > 0.6, 2 * x.detach() - x, x)

    model = Behind(SOUND, reversed_above)
    labels, order = predictions(model, images), torch.randperm(20, generator=torch.Generator().manual_seed(0))
    found = gradient_mismatches(model, images, labels, torch.arange(20))
    assert found.tolist() == [True, False] * 10
    assert torch.equal(gradient_mismatches(model, images[order], labels[order], order), found[order])


@pytest.mark.parametrize(("scale", "low", "high"), [(1.0, 1 - 1e-6, 1), (40.0, 0.1, 0.95), (200.0, 0, 0)])
def test_float32_loses_the_gradient_of_far_logits(scale: float, low: float, high: float) -> None:
    weight = torch.zeros(3, 16, dtype=torch.float64)
    weight[0, 0] = weight[1, 1] = weight[2, 2] = 1  # logits are pixels, so the first class leads by 0.7 and 0.8
    image = torch.zeros(1, *SHAPE)
    image.view(-1)[:3] = torch.tensor([0.9, 0.2, 0.1])
    model = Rescaled(Affine(weight, torch.zeros(3, dtype=torch.float64)), scale, 0.0).float()
    cosine = float(precision_cosines(model, image, torch.tensor([0])))
    # at 40 the leads are 28 and 32 nats: the label's part is lost, and (1, -1) has become (1, 0), but for a little
    assert low <= cosine <= high + 1e-12
    if scale == 40:
        assert cosine == pytest.approx(0.5**0.5, abs=0.02)


def test_gradients_of_a_model_that_insists_on_float32_are_checked_too() -> None:
    class Insists(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.flatten(1).float())

    model = Insists(16, 3).requires_grad_(False)
    images, seeds = IMAGES.float(), torch.arange(20)
    labels = predictions(model, images)
    assert not gradient_mismatches(model, images, labels, seeds).any()
    assert gradient_mismatches(Behind(model, lambda x: 2 * x.detach() - x), images, labels, seeds).all()


def test_no_cosine_without_two_gradients_to_compare() -> None:
    images, labels = IMAGES.float(), torch.zeros(20, dtype=torch.int64)
    assert precision_cosines(MODELS["constant"], images, labels).isnan().all()

    class Insists(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.flatten(1).float())

    assert precision_cosines(Insists(16, 3), images, labels).isnan().all()


# Cheap attacks


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_cheap_attacks_keep_to_ball_and_box_and_win_with_a_large_budget_alone(norm: str) -> None:
    model, seeds = affine(SHAPE, 4), torch.arange(20)
    labels, tried = predictions(model, IMAGES), list[Tensor]()

    def watched(points: Tensor) -> Tensor:
        tried.append(points.detach())
        return points

    large = {"linf": 0.4, "l2": 1.6, "l1": 6.0}[norm]
    shares = {}
    for epsilon in (1e-4, large):
        given: dict[str, Any] = {"norm": norm, "epsilon": epsilon, "images": IMAGES, "labels": labels}
        shares[epsilon] = [
            float(found.double().mean())
            for found in (single_step(model=model, **given), random_search(model=model, seeds=seeds, **given))
        ]
        tried.clear()
        images = {**given, "images": IMAGES[:1], "labels": labels[:1]}
        random_search(model=Behind(model, watched), seeds=seeds[:1], **images)
        order = {"l1": 1, "l2": 2, "linf": math.inf}[norm]
        sizes = (torch.cat(tried) - IMAGES[:1]).flatten(1).norm(order, dim=1)
        assert sizes.max() <= epsilon * (1 + 1e-9) and sizes.min() > 0.5 * epsilon
        assert UNIT.excess(torch.cat(tried)).max() == 0
    assert shares[1e-4] == [0, 0]
    assert min(shares[large]) > 0.5


def test_a_single_step_is_the_best_one_against_an_affine_classifier_of_two_classes() -> None:
    model = affine(SHAPE, 2)
    labels = predictions(model, IMAGES)
    logits = model(IMAGES)
    lead = (logits.gather(1, labels[:, None]) - logits.gather(1, 1 - labels[:, None])).squeeze(1)
    margin = lead / (model.weight[0] - model.weight[1]).abs().sum()  # in linf
    epsilon = float(margin.median()) * (1 + 1e-6)
    found = single_step(model=model, images=IMAGES, labels=labels, norm="linf", epsilon=epsilon)
    assert torch.equal(found, margin < epsilon) and 0 < found.sum() < 20


def test_the_random_search_needs_no_gradient_and_does_not_depend_on_the_batch() -> None:
    model = Behind(affine(SHAPE, 4), lambda x: x.detach() + 0 * x)
    labels, seeds = predictions(model, IMAGES), torch.arange(20)
    given: dict[str, Any] = {"norm": "linf", "epsilon": 0.03}
    counted = CountedModel(model)
    whole = random_search(model=counted, images=IMAGES, labels=labels, seeds=seeds, **given)
    assert 0 < whole.sum() < 20
    assert not single_step(model=model, images=IMAGES, labels=labels, **given)[~whole].any()
    assert counted.forward_passes < 50 * 20 and counted.backward_passes == 0
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    for rows in (order, *torch.arange(20).split(1)):
        found = random_search(model=model, images=IMAGES[rows], labels=labels[rows], seeds=seeds[rows], **given)
        assert torch.equal(found, whole[rows])


def test_the_random_search_changes_one_window_of_the_best_pattern_so_far() -> None:
    model, tried = affine(SHAPE, 4), list[Tensor]()
    labels = predictions(model, IMAGES[:1])

    def watched(points: Tensor) -> Tensor:
        tried.append(points)
        return points

    given: dict[str, Any] = {"images": IMAGES[:1], "labels": labels, "norm": "linf", "epsilon": 1e-6}
    assert not random_search(model=Behind(model, watched), seeds=torch.arange(1), **given).any()
    points = torch.cat(tried)
    logits = model(points)
    leads = logits[:, labels[0]] - logits.index_fill(1, labels, -math.inf).amax(dim=1)
    signs, accepted = (points - IMAGES[:1]).sign(), 0
    best = 0
    for query in range(1, len(points)):
        assert len(signs[query][signs[query] != signs[best]].unique()) <= 1  # a window has one sign
        if leads[query] < leads[best]:
            best, accepted = query, accepted + 1
    assert len(points) == 50 and accepted > 3


def test_the_random_search_takes_nan_for_no_success() -> None:
    model = NanBeyond(affine(SHAPE, 4), IMAGES[:1], 1e-3)
    labels = predictions(model, IMAGES[:1])
    given: dict[str, Any] = {"images": IMAGES[:1], "labels": labels, "norm": "linf", "epsilon": 0.4}
    assert not random_search(model=model, seeds=torch.arange(1), **given).any()


# The table and what the report says of it


def rows_of(model: nn.Module, **attack: Any) -> pd.DataFrame:
    """Rows of an attack that changed nothing, with the flags."""
    images, seeds = IMAGES.repeat(4, 1, 1, 1), torch.arange(80)
    details = {"norm": "linf", "epsilon": 0.2, "forward_passes": 1.0, "backward_passes": 1.0} | attack
    views = [View("a", "attack", None, images, {"large_epsilon_success": 1.0, **details})]
    labels = predictions(model, images)
    labels[0] = (labels[0] + 1) % 4  # one that is misclassified
    frame = pd.DataFrame(
        perturbation(model=model, images=images, labels=labels, seeds=seeds, views=views, batch_size=32)
    )
    keys = {"dataset": "d", "classifier": "c", "architecture": "a", "training": "t", "seed": 0, "measurement": "m"}
    return frame.assign(sample=frame["row"].astype(str), **keys)


def said(frame: pd.DataFrame) -> str:
    (found,) = gather({"perturbation": frame})
    (reasons,) = found.doubts.values()
    return "; ".join(reasons)


def test_probes_take_the_first_64_samples_that_are_classified_correctly() -> None:
    frame = rows_of(affine(SHAPE, 4))
    for name in ("gradient_mismatch", "gradient_cosine", "single_step_success", "random_search_success"):
        assert frame.index[frame[name].notna()].tolist() == list(range(1, 65)), name
    assert set(frame["batch_dependent"]) == {False}


@pytest.mark.parametrize("attack", [{"backward_passes": 0.0}, {"epsilon": None}, {"norm": "l0", "epsilon": 3}])
def test_an_attack_without_gradients_or_epsilon_has_no_rivals(attack: dict[str, Any]) -> None:
    frame = rows_of(affine(SHAPE, 4), **attack)
    assert frame[["single_step_success", "random_search_success"]].isna().all(axis=None)
    assert frame["gradient_mismatch"].notna().sum() == 64


def test_of_a_random_classifier_no_further_sign_is_taken() -> None:
    torch.manual_seed(0)
    frame = rows_of(Noisy(SOUND))
    assert frame["random_forward"].all()
    assert frame[["batch_dependent", "gradient_mismatch", "gradient_cosine"]].isna().all(axis=None)


def test_an_attack_that_loses_against_cheap_ones_is_doubted() -> None:
    text = said(rows_of(affine(SHAPE, 4)))
    assert "it misses what a single step fools" in text and "it misses what a random search fools" in text
    assert "gradient" not in text.replace("gradient is zero", "")
    assert "nothing" not in text


def test_a_minimal_attack_that_often_fails_is_doubted() -> None:
    frame = rows_of(affine(SHAPE, 4), epsilon=None)
    assert said(frame) == "it finds nothing on 99 % of images"
    frame.loc[3:, "converged"] = True
    assert said(frame) == ""


def test_a_few_odd_samples_are_chance_and_old_tables_say_nothing() -> None:
    frame = rows_of(affine(SHAPE, 4), epsilon=1e-6)
    assert said(frame) == ""
    for name, text in (
        ("gradient_mismatch", "gradient does not say how logits change on"),
        ("single_step_success", "it misses what a single step fools,"),
        ("random_search_success", "it misses what a random search fools,"),
    ):
        for count, flagged in ((1, False), (16, True)):
            odd = frame.copy()
            odd.loc[1:count, name] = True
            assert said(odd) == (f"{text} {100 * count / 64:.0f} % of images" if flagged else "")
    odd = frame.copy()
    odd.loc[1:16, "gradient_cosine"] = 0.1
    assert said(odd) == "float32 loses the gradient on 25 % of images"
    assert said(frame.assign(batch_dependent=True)) == "predictions depend on the batch"
    added = ["batch_dependent", "gradient_mismatch", "gradient_cosine", "single_step_success", "random_search_success"]
    assert said(frame.drop(columns=added)) == ""


# Changes under an analysis


def change(model: nn.Module) -> None:
    model[0].running_mean += 1  # type: ignore[index, operator]


@pytest.mark.parametrize("error", [ValueError("no luck"), UserWarning("no luck")])
def test_an_error_and_a_change_are_both_told(error: Exception) -> None:
    with (
        pytest.raises(RuntimeError, match="changed the classifier.*(ValueError|UserWarning): no luck") as raised,
        frozen(normalised()) as model,
    ):
        change(model)
        raise error
    assert raised.value.__cause__ is error
    with pytest.raises(type(error)) as alone, frozen(normalised()):
        raise error
    assert alone.value is error


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_stays_one_and_notes_the_change(kind: type[BaseException]) -> None:
    with pytest.raises(kind) as raised, frozen(normalised()) as model:
        change(model)
        raise kind
    assert any("changed the classifier" in note for note in raised.value.__notes__)
    with pytest.raises(kind) as raised, frozen(normalised()):
        raise kind
    assert not hasattr(raised.value, "__notes__")


def test_a_change_before_a_return_is_found() -> None:
    def analysis(model: nn.Module) -> int:
        with frozen(model):
            change(model)
            return 1

    with pytest.raises(RuntimeError, match="changed the classifier"):
        analysis(normalised())


def test_a_module_that_stays_in_train_mode_is_no_fault_of_the_analysis() -> None:
    model = nn.Sequential(Stubborn(1, dtype=torch.float64), nn.BatchNorm2d(1, dtype=torch.float64), SOUND)
    before = copy.deepcopy(model[0].running_mean)
    with frozen(model):
        model(IMAGES)
    assert not torch.equal(model[0].running_mean, before)
    for deed in (lambda: model[0].weight.data.add_(1), lambda: model[1].running_mean.add_(1), lambda: model[1].train()):
        with pytest.raises(RuntimeError, match="changed the classifier"), frozen(model):
            deed()
    with pytest.raises(RuntimeError, match="changed the classifier"), frozen(model):
        nn.Module.train(model[0], False)
    bare = Stubborn(1, dtype=torch.float64)
    with frozen(bare):
        bare(IMAGES)
