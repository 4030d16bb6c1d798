"""Curvature as a detector: closed forms, planted detectors, an attacker who knows them, rows that keep to a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn

from pipeline import specs
from pipeline.contracts import View, derive_seed
from pipeline.measurements import _detectors
from pipeline.measurements._evasion import evade
from pipeline.measurements.detection import COLUMNS, detection
from pipeline.numerics import randomness
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.directional import second_derivatives
from pipeline.numerics.frequency import flip
from pipeline.numerics.norms import l2, unit
from pipeline.stages.inputs import read_evaluation
from pipeline.stages.prepare import prepare
from tests.oracles import Affine, Constant, affine, grey_images, network, predictions

SHAPE = (1, 3, 4)
ENTRIES = 12
FREE = Box(-math.inf, math.inf)


class Logits(nn.Module):
    """Logits from a function of flattened images."""

    def __init__(self, function: Callable[[Tensor], Sequence[Tensor]]) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack(list(self.function(images.flatten(1))), dim=1)


def ball(radius: float) -> Logits:
    """Class 0 inside a ball around zero, class 1 outside."""
    return Logits(lambda x: (0 * x[:, 0], x.square().sum(dim=1) - radius**2))


def on_sphere(count: int, radius: float) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return radius * unit(torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64))


def probes(count: int, number: int = 5) -> Tensor:
    drawn = randomness.normal(torch.arange(count), (number, *SHAPE)).double()
    return unit(drawn.flatten(0, 1)).view_as(drawn)


def quadratic(classes: int, seed: int = 0) -> tuple[Logits, Tensor, Tensor]:
    """Logits x^T A_i x / 2 + b_i x with symmetric matrices A_i."""
    generator = torch.Generator().manual_seed(seed)
    forms = torch.randn(classes, ENTRIES, ENTRIES, generator=generator, dtype=torch.float64)
    forms, slopes = forms + forms.mT, torch.randn(classes, ENTRIES, generator=generator, dtype=torch.float64)
    model = Logits(lambda x: (torch.einsum("ne,kef,nf->nk", x, forms.to(x), x) / 2 + x @ slopes.to(x).T).unbind(dim=1))
    return model, forms, slopes


def rows_of(model: nn.Module, images: Tensor, attacked: Tensor, **options: Any) -> pd.DataFrame:
    """The table, for labels as predicted, the sample's number as its seed."""
    given: dict[str, Any] = {"labels": predictions(model, images), "seeds": torch.arange(len(images)), "batch_size": 64}
    view = View("deepfool", "attack", None, attacked, {})
    given |= {"views": [view], "box": FREE} | options
    table = detection(model=model, images=images, **given)
    assert set(table) == {"row", *COLUMNS} and len({len(column) for column in table.values()}) == 1
    return pd.DataFrame(table)


@pytest.mark.parametrize("radius", [None, 0.05])
def test_a_ball_is_curved_by_one_over_its_radius(radius: float | None) -> None:
    for size, sign in ((1.0, 1), (2.0, 1), (3.0, -1)):  # inside, on the boundary, outside
        source = torch.full((4,), int(sign < 0))
        found = _detectors.curvatures(
            ball(2.0), on_sphere(4, size), source, 1 - source[:, None], probes(4), radius, batch_size=7
        )
        assert torch.allclose(found, torch.full_like(found, sign / size), rtol=1e-9)


@pytest.mark.parametrize("radius", [None, 0.1])
def test_curvature_is_the_mean_along_projected_directions(radius: float | None) -> None:
    model, forms, slopes = quadratic(4)
    points, directions = grey_images(3, SHAPE), probes(3)
    source, classes = torch.tensor([0, 1, 2]), torch.tensor([[1, 2, 3], [0, 2, 3], [3, 1, 0]])
    bends = second_derivatives(model, points, source, classes, directions, radius, batch_size=4)
    found = _detectors.curvatures(model, points, source, classes, directions, radius, batch_size=4)
    for n, mine in enumerate(source):
        for k, other in enumerate(classes[n]):
            hessian, x, v = forms[other] - forms[mine], points[n].flatten(), directions[n].flatten(1)
            gradient = hessian @ x + slopes[other] - slopes[mine]
            assert torch.allclose(bends[n, k], torch.einsum("te,ef,tf->t", v, hessian, v), rtol=1e-8)
            normal = gradient / gradient.norm()
            tangents = v - (v @ normal)[:, None] * normal
            tangents = tangents / tangents.norm(dim=1, keepdim=True)
            expected = torch.einsum("te,ef,tf->t", tangents, hessian, tangents).mean() / gradient.norm()
            assert torch.allclose(found[n, k], expected, rtol=1e-8)


def test_differences_and_exact_derivatives_agree_on_a_smooth_network() -> None:
    model, points = network(SHAPE, 4), grey_images(5, SHAPE)
    source = predictions(model, points)
    classes = torch.stack([(source + step) % 4 for step in (1, 2, 3)], dim=1)
    exact, near = (
        _detectors.curvatures(model, points, source, classes, probes(5), radius, batch_size=8)
        for radius in (None, 1e-3)
    )
    assert exact.abs().max() > 0.01
    assert torch.allclose(exact, near, rtol=1e-3, atol=1e-5)


def test_flat_and_constant_classifiers() -> None:
    model, images = affine(SHAPE, 3), grey_images(20, SHAPE)
    rows = rows_of(model, images, 1 - images, radii=None)  # the grey image is where all logits are equal
    assert len(rows) and rows["converged"].all() and (rows["rho"] == 0).all()
    assert rows[["lowest_class", "highest_class"]].isna().all(axis=None), "no class is extreme"
    near = rows_of(model, images, 1 - images, radii=[0.1])
    assert near["rho"].abs().max() < 1e-9
    where = torch.tensor([0, 0]), torch.tensor([[1], [1]])
    found = _detectors.curvatures(Constant([1, 0]), images[:2], *where, probes(2), 0.1, batch_size=2)
    assert found.isnan().all()


def test_a_class_without_gradient_is_passed_over() -> None:
    """Class 1 is a ball; class 2 is as constant as class 0, which leaves its boundary undefined."""
    model = Logits(lambda x: (0 * x[:, 0], x.square().sum(dim=1) - 4, 0 * x[:, 0] - 9))
    rows = rows_of(model, on_sphere(6, 1.0), on_sphere(6, 3.0), alphas=[1.0])
    natural = rows[rows["alpha"] == 0]
    assert (
        np.allclose(natural["rho"], 1) and (natural["lowest_class"] == 1).all() and (natural["candidates"] == 2).all()
    )
    flat = rows_of(Logits(lambda x: (0 * x[:, 0] + 1.0, 2.0 * (x[:, 0] > 1))), on_sphere(3, 0.5), on_sphere(3, 0.5) + 2)
    assert not flat["converged"].any()
    assert flat[["rho", "lowest_class", "highest_class"]].isna().all(axis=None)
    assert flat["confidence"].notna().all()


def test_a_ball_tells_its_perturbed_images() -> None:
    rows = rows_of(ball(2.0), on_sphere(40, 1.8), on_sphere(40, 2.2), alphas=[1, 2])
    assert np.allclose(rows.loc[rows["alpha"] == 0, "rho"], 1 / 1.8)
    assert np.allclose(rows.loc[rows["alpha"] == 1, "rho"], -1 / 2.2)
    assert np.allclose(rows.loc[rows["alpha"] == 2, "rho"], -1 / 2.6)
    assert (rows["changed"] == (rows["alpha"] > 0)).all()
    assert np.allclose(rows["l2"], 0.4 * rows["alpha"])


@pytest.mark.parametrize(("sign", "column"), [(-1, "lowest_class"), (1, "highest_class")])
def test_the_label_is_recovered_where_it_is_planted(sign: int, column: str) -> None:
    """Logits of label 0 bend one way, all others are affine: at an image of class 1, class 0 alone is curved."""

    def function(x: Tensor) -> Sequence[Tensor]:
        return 0.5 - x[:, 0] + 0.1 * sign * x.square().sum(dim=1), x[:, 0] - 0.5, 0.1 * x[:, 1] - 9, 0.1 * x[:, 2] - 9

    images = grey_images(10, SHAPE)
    images[:, 0, 0, 0], attacked = 0.0, images.clone()
    attacked[:, 0, 0, 0] = 1.5
    rows = rows_of(Logits(function), images, attacked, alphas=[1.0])
    perturbed = rows[rows["alpha"] == 1]
    assert len(perturbed) == 10 and (perturbed["prediction"] == 1).all()
    assert (perturbed[column] == 0).all()
    assert (perturbed["label"] == 0).all()


def planted() -> Logits:
    """Class 1 beyond x_0 = 0.5. Curvature is strong beyond x_0 = 0.7, and elsewhere of either sign, as x_1 says."""

    def function(x: Tensor) -> Sequence[Tensor]:
        bend = x[:, 1] + 4 * torch.sigmoid((x[:, 0] - 0.75) / 0.05)
        return 0 * x[:, 0], 2 * (x[:, 0] - 0.5) + bend * x[:, 2:].square().sum(dim=1)

    return Logits(function)


def planted_images(count: int) -> tuple[Tensor, Tensor]:
    images = grey_images(count, SHAPE, spread=0.02) - 0.5
    images[:, 0, 0, 0] = 0.4
    images[:, 0, 0, 1] = torch.linspace(-0.3, 0.3, count)
    attacked = images.clone()
    attacked[:, 0, 0, 0] = 0.52
    return images, attacked


def auroc(natural: pd.Series[float], perturbed: pd.Series[float]) -> float:
    wins = perturbed.to_numpy()[:, None] - natural.to_numpy()
    return float(((wins > 0) + 0.5 * (wins == 0)).mean())


def test_an_attacker_who_knows_the_detector_evades_it() -> None:
    images, attacked = planted_images(24)
    rows = rows_of(planted(), images, attacked, alphas=[3.0], adaptive_samples=20, adaptive_steps=30)
    natural, plain = rows[rows["alpha"] == 0], rows[(rows["alpha"] == 3) & ~rows["adaptive"]]
    adaptive = rows[rows["adaptive"]]
    assert auroc(natural["rho"], plain["rho"]) < 0.01  # the detector's AUROC, were low curvature the sign, is 1
    assert adaptive["row"].tolist() == list(range(20)) and adaptive["changed"].all()
    assert (adaptive["l2"] <= plain["l2"].to_numpy()[:20] * (1 + 1e-9)).all()
    assert 0.25 < auroc(natural["rho"], adaptive["rho"]) < 0.75


def test_evasion_keeps_to_the_box_the_ball_and_a_wrong_class() -> None:
    model, images = network((1, 4, 4), 4, seed=4), grey_images(30, (1, 4, 4), spread=0.4)
    source = predictions(model, images)
    start = torch.lerp(images, images.roll(1, dims=0), 0.9)
    wrong = predictions(model, start) != source
    images, start, source = images[wrong], start[wrong], source[wrong]
    assert len(images) >= 5
    for box in (UNIT, Box(0, 1, flipped=True)):
        clean, far = (flip(x) if box.flipped else x for x in (images, start))
        judged = Logits(lambda x: model(flip(x.view(-1, 1, 4, 4))).unbind(dim=1)) if box.flipped else model
        found = evade(judged, clean, far, source, torch.arange(len(clean)), box, 0.1, None, steps=6, step=0.3)
        assert (predictions(judged, found) != source).all()
        assert (l2(found - clean) <= l2(far - clean) * (1 + 1e-12)).all()
        assert box.excess(found).max() < 1e-12
        assert not torch.equal(found, far)


def test_batches_and_order_do_not_matter() -> None:
    model, images = network(SHAPE, 4), grey_images(30, SHAPE, spread=0.4)
    attacked = torch.lerp(images, images.roll(1, dims=0), 0.8)
    seeds = torch.arange(30) + 100
    options: dict[str, Any] = {
        "box": UNIT,
        "adaptive_samples": 30,
        "adaptive_steps": 3,
        "radii": [0.1, 0.2],
        "seeds": seeds,
    }
    whole = rows_of(model, images, attacked, batch_size=64, **options)
    assert 5 <= whole["row"].nunique() < 30
    for size in (1, 3):
        pd.testing.assert_frame_equal(rows_of(model, images, attacked, batch_size=size, **options), whole, rtol=1e-6)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    other = rows_of(model, images[order], attacked[order], **options | {"seeds": seeds[order]})
    other["row"] = order.numpy()[other["row"].to_numpy()]
    keys = ["view", "radius", "alpha", "adaptive", "row"]
    whole, other = (table.sort_values(keys).reset_index(drop=True) for table in (whole, other))
    pd.testing.assert_frame_equal(other, whole, rtol=1e-6)


def test_draws_belong_to_the_sample() -> None:
    images, attacked = on_sphere(6, 1.8), on_sphere(6, 2.2)
    model, _, _ = quadratic(3)
    labels = predictions(model, images)
    attacked = torch.where((predictions(model, -images) != labels).view(-1, 1, 1, 1), -images, attacked)
    seeds = torch.arange(6)
    first = rows_of(model, images, attacked, seeds=seeds)
    seeds = seeds.clone()
    seeds[first["row"].iloc[0]] = 77
    second = rows_of(model, images, attacked, seeds=seeds)
    same = first["rho"] == second["rho"]
    assert (same == (first["row"] != first["row"].iloc[0])).all()
    assert ((first["instability"] == second["instability"]) == same).all()
    assert (first["gap"] == second["gap"]).all()


def test_splits_are_disjoint_and_even() -> None:
    rows = rows_of(ball(2.0), on_sphere(400, 1.8), on_sphere(400, 2.2), alphas=[1.0], probes=1, draws=1)
    assert len(rows[["row", "split"]].drop_duplicates()) == 400, "all images of a sample are in the same split"
    share = (rows["split"] == "test").mean()
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(400)
    expected = ["calibration" if derive_seed(row, "split") % 2 == 0 else "test" for row in rows["row"]]
    assert rows["split"].tolist() == expected


def test_only_attacks_that_succeed_are_looked_at() -> None:
    images, attacked = on_sphere(6, 1.8), on_sphere(6, 2.2)
    attacked[1] = images[1]  # gave up
    labels = torch.tensor([0, 0, 1, 0, 0, 0])  # the third is misclassified when clean
    rows = rows_of(ball(2.0), images, attacked, labels=labels, samples=5)
    assert sorted(set(rows["row"])) == [0, 3, 4]
    none = rows_of(ball(2.0), images, images)
    assert none.empty
    few = rows_of(ball(2.0), images, attacked, labels=labels, adaptive_samples=2, adaptive_steps=1, alphas=[1.0])
    assert few.loc[few["adaptive"], "row"].tolist() == [0, 3]


def test_images_are_clipped_and_lengthened() -> None:
    images, attacked = planted_images(4)
    images, attacked = images.abs(), attacked.abs()  # in the box
    free = rows_of(planted(), images, attacked, alphas=[5.0], overshoot=0.2)
    assert np.allclose(free.loc[free["alpha"] == 5, "l2"], 0.12 * 5 * 1.2)
    boxed = rows_of(planted(), images, attacked, alphas=[5.0], overshoot=0.2, box=UNIT)
    assert np.allclose(boxed.loc[boxed["alpha"] == 5, "l2"], 0.6)
    unclipped = rows_of(planted(), images, attacked, alphas=[5.0], overshoot=0.2, box=UNIT, clip=False)
    assert np.allclose(unclipped.loc[unclipped["alpha"] == 5, "l2"], 0.12 * 5 * 1.2)


def test_top_classes_alone() -> None:
    model, images = affine(SHAPE, 5), grey_images(20, SHAPE)
    rows = rows_of(model, images, 1 - images, top_k=1)
    assert (rows["candidates"] == 1).all()
    assert (rows["lowest_class"] == rows["runner_up"]).all()
    assert (rows["highest_class"] == rows["runner_up"]).all()


def test_median_is_that_of_scipy() -> None:
    pixels = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = scipy.ndimage.median_filter(pixels.numpy(), size=(1, 1, 2, 2), mode="reflect")
    assert np.array_equal(_detectors.median(pixels).numpy(), expected)


def test_squeezing() -> None:
    """One bit moves 0.4 to 0 and 0.6 to 1; the median of a constant image changes nothing."""
    model = Logits(lambda x: (4 * x[:, 0], 0 * x[:, 0]))
    images = torch.tensor([0.4, 0.6, 1.0]).double().view(3, 1, 1, 1).expand(3, *SHAPE)
    found = _detectors.squeeze(model, images, model(images).softmax(dim=1), UNIT, 1, 2)
    shares = [1 / (1 + math.exp(-4 * value)) for value in (0.4, 0.0, 0.6, 1.0)]
    assert np.allclose(found, [2 * (shares[0] - shares[1]), 2 * (shares[3] - shares[2]), 0])
    assert _detectors.squeeze(model, images, model(images), FREE, 1, 2).isnan().all()
    flipped, behind = Box(0, 1, flipped=True), Logits(lambda x: (4 * flip(x.view(-1, *SHAPE))[:, 0, 0, 0], 0 * x[:, 0]))
    same = _detectors.squeeze(behind, flip(images), behind(flip(images)).softmax(dim=1), flipped, 1, 2)
    assert np.allclose(same, found)


def test_instability() -> None:
    model = Logits(lambda x: (x[:, 0], 0 * x[:, 0]))
    images, noise = torch.zeros(1, *SHAPE).double(), torch.zeros(1, 2, *SHAPE).double()
    noise[0, 1, 0, 0, 0] = math.log(3)  # from (1/2, 1/2) to (3/4, 1/4)
    found = _detectors.instability(model, images, model(images).softmax(dim=1), noise, 1)
    assert np.allclose(found, [0.25])


def test_both_splits_of_real_images_hold_every_class(tmp_path: Path) -> None:
    """Digits as the pipeline shuffles and seeds them, told apart by their nearest class mean."""
    path = tmp_path / "evaluation.safetensors"
    given = {"dataset": "digits", "source": "digits", "split": "evaluation", "test_share": 0.25, "evaluation": 300}
    prepare(spec=specs.complete("prepare", given), code="", out=path)
    evaluation = read_evaluation(path, torch.device("cpu"))
    images, labels = evaluation.images, evaluation.labels
    means = torch.stack([images[labels == label].mean(dim=0).flatten() for label in range(10)])
    model = Affine(2 * means, -means.square().sum(dim=1))
    attacked = torch.lerp(images, means[(labels + 1) % 10].view_as(images), 0.9)
    options: dict[str, Any] = {"labels": labels, "seeds": evaluation.seeds(0, "measure", "detection"), "box": UNIT}
    rows = rows_of(model, images, attacked, **options, alphas=[1.0], probes=1, draws=1)
    natural, perturbed = rows[rows["alpha"] == 0], rows[rows["alpha"] == 1]
    assert len(natural) == len(perturbed) > 200
    assert perturbed["changed"].all() and not natural["changed"].any()
    counts = natural.groupby("split")["label"].value_counts()
    assert len(counts) == 20 and counts.min() >= 3
    shares = natural.groupby("label")["split"].apply(lambda split: (split == "test").mean())
    assert ((shares > 0.2) & (shares < 0.8)).all()
