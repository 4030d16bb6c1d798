"""Derived data sets: frequency flip, low-pass and high-pass, from the maps to attacks and tables; and float data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.fft
import torch
from torch import Tensor, nn

from pipeline import specs, store
from pipeline.commandline import main
from pipeline.contracts import UserError
from pipeline.models.classifier import build
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip, high_pass, low_pass, mapping, pass_range
from pipeline.stages.inputs import load_classifier, read_evaluation, read_pixels
from pipeline.stages.prepare import prepare
from pipeline.stages.space import space
from tests.tiny import tiny_config
from workflow.common import Plan

CPU = torch.device("cpu")
SHAPES = [(6, 5), (3, 6, 5), (4, 3, 6, 5)]
MAPS: dict[str, Any] = {"plain": None, "flip": "flip", "low": {"low_pass": 3}, "high": {"high_pass": 3}}
NAMES = {"dataset": "d", "classifier": "c", "architecture": "a", "training": "t", "seed": 0}
CLOSE = {"rtol": 0, "atol": 1e-12}


def images(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coefficients(planes: Tensor) -> np.ndarray[Any, Any]:
    return scipy.fft.dctn(planes.numpy(), axes=(-2, -1), norm="ortho")


# Maps


@pytest.mark.parametrize("shape", SHAPES)
def test_flip_reverses_both_axes_of_the_coefficients_and_is_its_own_inverse(shape: tuple[int, ...]) -> None:
    x = images(shape)
    np.testing.assert_allclose(coefficients(flip(x)), coefficients(x)[..., ::-1, ::-1], atol=1e-12)
    torch.testing.assert_close(flip(flip(x)), x, **CLOSE)
    torch.testing.assert_close(flip(x).norm(), x.norm(), **CLOSE)
    y = images(shape, seed=1)
    torch.testing.assert_close((flip(x) * y).sum(), (x * flip(y)).sum())  # symmetric, so the gradient of flip is flip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bandwidth", [1, 3, 5, 6])
def test_low_pass_keeps_the_first_coefficients_whatever_the_rank(shape: tuple[int, ...], bandwidth: int) -> None:
    x = images(shape)
    kept = coefficients(x)
    kept[..., bandwidth:, :] = 0
    kept[..., bandwidth:] = 0
    np.testing.assert_allclose(coefficients(low_pass(x, bandwidth)), kept, atol=1e-12)
    share = (np.abs(coefficients(low_pass(x, bandwidth))) > 1e-9).mean()
    assert share == pytest.approx(min(bandwidth, 6) * min(bandwidth, 5) / 30)
    torch.testing.assert_close(low_pass(x, bandwidth) + high_pass(x, bandwidth), x, **CLOSE)


@pytest.mark.parametrize("given", [{"map": "flip"}, *({"map": f"{n}_pass", "bandwidth": 2} for n in ("low", "high"))])
def test_maps_take_a_batch_as_singles_and_keep_the_dtype(given: dict[str, Any]) -> None:
    x = images((7, 3, 6, 5)).float()
    chosen = mapping(given)
    assert chosen(x).dtype == torch.float32
    assert torch.equal(torch.stack([chosen(image) for image in x]), chosen(x))
    assert (chosen(x).double() - chosen(x.double())).abs().max() <= 2**-24  # rounded once
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(chosen(x), chosen(x.clone()))
        mixed = chosen(x)
    assert torch.equal(mixed, chosen(x)), "autocast must not touch the data"


@pytest.mark.parametrize("high", [False, True])
@pytest.mark.parametrize(("height", "width", "bandwidth"), [(6, 5, 1), (6, 5, 3), (6, 5, 5), (4, 4, 4), (1, 9, 4)])
def test_pass_range_is_met_by_corners_of_the_cube_and_never_exceeded(
    height: int, width: int, bandwidth: int, high: bool
) -> None:
    chosen = high_pass if high else low_pass
    low, top = pass_range(height, width, bandwidth, high=high)
    pixels = height * width
    weights = chosen(torch.eye(pixels, dtype=torch.float64).view(pixels, height, width), bandwidth).flatten(1).T
    for rows in (weights > 0, weights < 0):  # of each output pixel, the corner of the cube where it is extreme
        values = chosen(rows.double().view(pixels, height, width), bandwidth)
        assert values.min() >= low - 1e-12 and values.max() <= top + 1e-12
    extremes = [(weights * (weights > 0)).sum(dim=1).max(), (weights * (weights < 0)).sum(dim=1).min()]
    assert [top, low] == pytest.approx([float(value) for value in extremes], abs=1e-12)
    corners = images((500, height, width)).round()
    assert (Box(low - 1e-12, top + 1e-12).excess(chosen(corners, bandwidth)) == 0).all()


# Space


def test_spaces_of_pixels_and_of_floats() -> None:
    shape, pixels, free, half = (1, 6, 5), [0.0, 1.0], [None, None], [0.0, None]
    low_3, high_3 = {"map": "low_pass", "bandwidth": 3}, {"map": "high_pass", "bandwidth": 3}
    assert space({"box": pixels, "frequency": None}, shape).box == UNIT
    assert space({"box": pixels, "frequency": {"map": "flip"}}, shape).box == Box(0, 1, flipped=True)
    assert space({"box": pixels, "frequency": low_3}, shape).box == Box(*pass_range(6, 5, 3, high=False))
    assert space({"box": pixels, "frequency": high_3}, shape).box == Box(*pass_range(6, 5, 3, high=True))
    for frequency in (None, {"map": "flip"}, low_3):
        assert space({"box": free, "frequency": frequency}, shape).box == Box(-math.inf, math.inf)
    assert space({"box": half, "frequency": {"map": "flip"}}, shape).box == Box(0, math.inf, flipped=True)
    assert space({"box": half, "frequency": low_3}, shape).box == Box(-math.inf, math.inf)


@pytest.mark.parametrize("name", ["low_pass", "high_pass"])
def test_box_of_a_passed_set_holds_the_image_of_any_source_box(name: str) -> None:
    found = space({"box": [-1.0, 3.0], "frequency": {"map": name, "bandwidth": 2}}, (1, 6, 5))
    corners = torch.where(images((500, 1, 6, 5)) > 0.5, 3.0, -1.0).double()
    assert (found.box.excess(found.map(corners)) == 0).all()
    for constant in (-1.0, 3.0):
        assert (found.box.excess(found.map(torch.full((1, 1, 6, 5), constant).double())) < 1e-12).all()


# prepare


def made(folder: Path, frequency: Any, split: str, source: str = "digits", **options: Any) -> Path:
    path = folder / f"{split}.safetensors"
    given = {"source": source, "options": options, "split": split, "frequency": frequency}
    size = {"train_size": 50} if split == "train" else {"evaluation": 40}
    prepare(spec=specs.complete("prepare", {**given, **size}), code="", out=path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in MAPS}
    for name, folder in folders.items():
        for split in ("train", "evaluation"):
            made(folder, MAPS[name], split)
    return folders


@pytest.mark.parametrize("name", MAPS)
def test_files_hold_pixels_and_the_reader_maps_them(data: dict[str, Path], name: str) -> None:
    path, plain = (data[key] / "evaluation.safetensors" for key in (name, "plain"))
    (tensors, meta), (pixels, _) = store.read_tensors(path), store.read_tensors(plain)
    assert tensors["images"].dtype == np.uint8 and (tensors["images"] == pixels["images"]).all()
    assert meta["box"] == [0, 1] and meta["shape"] == [1, 8, 8]
    assert torch.equal(read_pixels(path, CPU).images, read_evaluation(plain, CPU).images)
    found = read_evaluation(path, CPU)
    chosen = mapping(meta["frequency"]) if meta["frequency"] else torch.clone
    assert torch.equal(found.images, chosen(read_pixels(path, CPU).images))
    assert found.images.dtype == torch.float32
    assert (found.space.box.excess(found.images) < 2**-21).all()


@pytest.mark.parametrize("name", MAPS)
def test_normaliser_follows_the_map(data: dict[str, Path], name: str) -> None:
    tensors, meta = store.read_tensors(data[name] / "train.safetensors")
    pixels = torch.tensor(tensors["train_images"]).double() / 255
    assert meta["mean"] == [pytest.approx(float(pixels.mean()))], "the mean is that of the pixels"
    chosen = mapping(meta["frequency"]) if meta["frequency"] else torch.clone
    recipe = {"model": "tests.test_derived:linear", "model_options": {}, "stem": "default", "classes": 10}
    recipe |= {"channels": 1, "size": [8, 8], **{key: meta[key] for key in ("mean", "std", "frequency")}}
    normalised = (chosen(pixels) - build(recipe).mean) / meta["std"][0]
    assert float((normalised**2).mean()) == pytest.approx(1, rel=1e-5)
    if name != "flip":  # the mean image of the flip is a pattern, which single pixels' means need not follow
        assert float(normalised.mean()) == pytest.approx(0, abs=1e-5)
    constant = torch.full((1, 8, 8), meta["mean"][0], dtype=torch.float64)
    torch.testing.assert_close(build(recipe).mean.double()[0].expand(1, 8, 8), chosen(constant), rtol=0, atol=1e-6)


def test_flipped_data_keep_the_pixels_standard_deviation(data: dict[str, Path]) -> None:
    found = {name: store.read_metadata(data[name] / "train.safetensors")["std"][0] for name in MAPS}
    assert found["flip"] == found["plain"] == pytest.approx(found["plain"])
    assert found["low"] ** 2 + found["high"] ** 2 == pytest.approx(found["plain"] ** 2)


# A whole flipped experiment with classifiers that are the flip of one another


def linear() -> nn.Module:
    """A factory such as a user would bring."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def classifier(path: Path, train: Path, *, weight: Tensor, bias: Tensor) -> None:
    meta = store.read_metadata(train)
    recipe = {"model": "tests.test_derived:linear", "model_options": {}, "stem": "default", "classes": 10}
    recipe |= {"channels": 1, "size": [8, 8], **{key: meta[key] for key in ("mean", "std", "frequency")}}
    model = build(recipe)
    model.net.load_state_dict({"1.weight": weight, "1.bias": bias})
    given = {"model": recipe["model"], "method": "standard", **NAMES}
    origin = store.provenance("train", given, "", {"data": train})
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    store.write_tensors(path, state, origin | {"recipe": recipe})


def run(stage: str, spec: dict[str, Any], folder: Path, out: str, *more: str) -> int:
    flags = ["--data", str(folder / "evaluation.safetensors"), "--out", str(folder / out), "--device", "cpu"]
    if stage != "corrupt":
        flags += ["--classifier", str(folder / "model.safetensors")]
    return main([stage, "--spec", store.canonical(spec), *flags, *more])


@pytest.fixture(scope="module")
def weights(data: dict[str, Path]) -> tuple[Tensor, Tensor]:
    """Least squares on the evaluation images: most of them are classified correctly."""
    pixels = read_pixels(data["plain"] / "evaluation.safetensors", CPU)
    meta = store.read_metadata(data["plain"] / "train.safetensors")
    x = ((pixels.images - meta["mean"][0]) / meta["std"][0]).flatten(1).double()
    inputs = torch.cat((x, torch.ones(len(x), 1)), dim=1)
    targets = nn.functional.one_hot(pixels.labels, 10).double()
    solution = torch.linalg.solve(inputs.T @ inputs + 5 * torch.eye(65).double(), inputs.T @ targets).T
    return 5 * solution[:, :-1].float(), 5 * solution[:, -1].float()


@pytest.fixture(scope="module")
def experiment(data: dict[str, Path], weights: tuple[Tensor, Tensor]) -> dict[str, Path]:
    weight, bias = weights
    moved = {"plain": weight, "flip": flip(weight.view(10, 8, 8)).flatten(1)}
    for name, rows in moved.items():
        folder = data[name]
        classifier(folder / "model.safetensors", folder / "train.safetensors", weight=rows, bias=bias)
        assert run("corrupt", {"method": "contrast", "corruption": "contrast"}, folder, "contrast.safetensors") == 0
        attacks = {
            "deepfool": {"method": "deepfool"},
            "l2": {"method": "pgd", "options": {"epsilon": 1.5, "norm": "l2", "random_start": False}},
            "linf": {"method": "pgd", "options": {"epsilon": 0.2, "norm": "linf", "steps": 5}},
            "l1": {"method": "pgd", "options": {"epsilon": 3, "norm": "l1", "steps": 5}},
        }
        for attack, spec in attacks.items():
            assert run("attack", {"attack": attack, **spec}, folder, f"{attack}.safetensors") == 0
        views = [str(folder / f"{attack}.safetensors") for attack in attacks]
        assert run("measure", {"method": "perturbation"}, folder, "norms.parquet", "--views", *views) == 0
        spec = {"method": "accuracy", "clean": True}
        corrupted = str(folder / "contrast.safetensors")
        assert run("measure", spec, folder, "accuracy.parquet", "--views", corrupted) == 0
        options = {"size": 2, "step": 2}
        assert run("measure", {"method": "dct_margin", "options": options}, folder, "margin.parquet") == 0
    return {name: data[name] for name in moved}


def tables(experiment: dict[str, Path], name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    plain, flipped = (pd.read_parquet(experiment[key] / f"{name}.parquet") for key in ("plain", "flip"))
    return plain, flipped


def test_flipped_classifier_on_flipped_images_is_the_plain_one(experiment: dict[str, Path]) -> None:
    logits = {}
    for name, folder in experiment.items():
        model, _ = load_classifier(folder / "model.safetensors", CPU)
        logits[name] = model(read_evaluation(folder / "evaluation.safetensors", CPU).images)
    torch.testing.assert_close(logits["flip"], logits["plain"], rtol=0, atol=1e-4)


def test_corruptions_act_before_the_map(experiment: dict[str, Path]) -> None:
    plain, flipped = tables(experiment, "accuracy")
    assert len(plain) == 40 * 6 and (plain["view"] == flipped["view"]).all()
    assert plain["correct"].mean() > 0.5 and not plain["correct"].all()
    np.testing.assert_allclose(plain["confidence"], flipped["confidence"], atol=1e-5)
    one, two = (store.read_tensors(folder / "contrast.safetensors")[0]["images"] for folder in experiment.values())
    assert one.dtype == np.uint8 and (one == two).all()


def test_l2_attacks_on_flipped_data_find_the_flip_of_what_they_find_on_pixels(experiment: dict[str, Path]) -> None:
    plain, flipped = tables(experiment, "norms")
    assert flipped["in_box"].all() and flipped.loc[flipped["attack"] != "deepfool", "within_epsilon"].all()
    assert flipped.loc[flipped["attack"] == "deepfool", "converged"].all()
    for attack in ("deepfool", "l2"):
        one, two = (table[table["attack"] == attack].reset_index() for table in (plain, flipped))
        assert (one["converged"] == two["converged"]).all() and one["converged"].sum() > 20
        known = one["converged"]
        np.testing.assert_allclose(two["l2"][known], one["l2"][known], rtol=2e-3)
    assert (plain.loc[plain["attack"] == "deepfool", "l2"] > 0.05).any()
    assert set(flipped["large_epsilon_success"].dropna()) == {1.0}


def test_attacked_images_lie_in_the_flipped_space(experiment: dict[str, Path]) -> None:
    folder = experiment["flip"]
    for attack in ("deepfool", "l2", "linf", "l1"):
        found = torch.tensor(store.read_tensors(folder / f"{attack}.safetensors")[0]["images"])
        assert ((found < -0.1) | (found > 1.1)).any() and (Box(0, 1, flipped=True).excess(found) < 2**-20).all()


def test_margins_of_the_flipped_experiment_are_in_reversed_order(experiment: dict[str, Path]) -> None:
    plain, flipped = tables(experiment, "margin")
    one, two = (table["margin"].to_numpy().reshape(40, 4) for table in (plain, flipped))
    assert np.isfinite(one).all()
    np.testing.assert_allclose(two, one[:, ::-1], rtol=1e-3)


# Floats


def test_float_data_are_taken_as_they_are_and_know_no_bounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"dimension": 64, "samples": 100, "test_samples": 60}
    train = made(tmp_path, None, "train", "synthetic", **options)
    path = made(tmp_path, None, "evaluation", "synthetic", **options)
    tensors, meta = store.read_tensors(train)
    assert tensors["train_images"].dtype == np.float32 and meta["box"] == [None, None]
    assert meta["mean"] == [pytest.approx(float(tensors["train_images"].mean()), abs=1e-6)]
    assert meta["std"] == [pytest.approx(float(tensors["train_images"].std()), rel=1e-5)]
    found = read_evaluation(path, CPU)
    assert found.space.box == Box(-math.inf, math.inf)
    assert (found.images.numpy() == store.read_tensors(path)[0]["images"]).all()

    weight = torch.zeros(10, 64)
    weight[1] = -0.1
    classifier(tmp_path / "model.safetensors", train, weight=weight, bias=torch.tensor([0.0] * 2 + [-99.0] * 8))
    assert run("corrupt", {"method": "contrast"}, tmp_path, "contrast.safetensors") == 2
    assert capsys.readouterr().err.strip().endswith("leave corruptions out for this data set")
    spec = {"attack": "pgd", "method": "pgd", "options": {"epsilon": 50, "norm": "l2"}}
    assert run("attack", spec, tmp_path, "pgd.safetensors") == 0
    assert store.read_metadata(tmp_path / "pgd.safetensors")["large_epsilon_success"] is None
    view = str(tmp_path / "pgd.safetensors")
    assert run("measure", {"method": "perturbation"}, tmp_path, "norms.parquet", "--views", view) == 0
    table = pd.read_parquet(tmp_path / "norms.parquet")
    assert table["converged"].all() and table["in_box"].all() and table["linf"].max() > 1


# Config


@pytest.mark.parametrize(
    "given", ["flop", {"low_pass": 0}, {"low_pass": 2, "high_pass": 3}, {}, {"mid_pass": 3}, {"low_pass": 2.5}, 5, True]
)
def test_a_wrong_frequency_is_refused_in_one_line(given: Any, tmp_path: Path) -> None:
    config = tiny_config()
    config["datasets"]["digits"]["frequency"] = given
    with pytest.raises(UserError) as error:
        Plan(config, "cfg")
    assert str(error.value).startswith(f"cfg: datasets.digits.frequency: given {given!r}, expected one of flip, ")
    with pytest.raises(UserError, match="frequency: given .*, expected one of flip") as error:
        made(tmp_path, given, "evaluation")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("given", "largest"), [({"low_pass": 9}, 8), ({"high_pass": 8}, 7)])
def test_a_bandwidth_beyond_the_images_is_refused(given: dict[str, int], largest: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"for images of 8 x 8, expected at most {largest}$"):
        made(tmp_path, given, "evaluation")


def test_both_splits_of_a_derived_set_carry_its_map() -> None:
    config = tiny_config()
    config["datasets"]["low"] = {"source": "digits", "frequency": {"low_pass": 4}}
    config["datasets"]["digits"]["frequency"] = None
    plan = Plan(config)
    for split in ("train", "evaluation"):
        assert plan.prepared["low", split]["frequency"] == {"low_pass": 4}
        assert plan.prepared["digits", split]["frequency"] is None
        spec = plan.prepared["low", split]
        assert specs.complete("prepare", spec) == spec
