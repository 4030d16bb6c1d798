from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from pipeline import registry
from pipeline.contracts import KEYS, Column, UserError, View
from pipeline.measurements.accuracy import accuracy
from pipeline.measurements.gallery import gallery
from pipeline.measurements.perturbation import perturbation
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip
from pipeline.store import arrow_type
from tests.oracles import Affine, Constant, affine, grey_images, network, predictions

SHAPE = (1, 8, 8)
DETAILS = {
    "classifier": "toy--standard--0",
    "norm": "l2",
    "epsilon": None,
    "forward_passes": 3.5,
    "backward_passes": 2.0,
    "large_epsilon_success": None,
}


def context(model: torch.nn.Module, images: Tensor, labels: Tensor, *views: View) -> dict[str, Any]:
    seeds = torch.arange(len(images))
    return {"model": model, "images": images, "labels": labels, "seeds": seeds, "views": views, "batch_size": 4}


def attacked(images: Tensor, norm: str = "l2", epsilon: float | None = None) -> View:
    return View("toy", "attack", None, images, {**DETAILS, "norm": norm, "epsilon": epsilon})


def sign_classifier() -> Affine:
    """Class 1 where the two pixels sum to more than 1."""
    weight = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    return Affine(weight, torch.tensor([0.0, -1.0], dtype=torch.float64))


def pixels(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).view(-1, 1, 1, 2)


@pytest.mark.parametrize("name", registry.names("measurement"))
def test_every_measurement_returns_the_columns_that_it_declares(name: str) -> None:
    module = importlib.import_module(f"pipeline.measurements.{name}")
    accepts: tuple[str, ...] = module.ACCEPTS
    columns: Mapping[str, Column] = module.COLUMNS
    assert accepts and set(accepts) <= {"clean", "corruption", "attack"}
    assert not set(columns) & {*KEYS, "row"}
    for column in columns.values():
        assert column.meaning and arrow_type(column.type)
    model = network(SHAPE, 5).float()
    images = grey_images(9, SHAPE).float()
    labels = predictions(model, images)
    views = {
        "clean": View("clean", "clean", None, images, {}),
        "corruption": View("noise", "corruption", 3, (images + 0.1).clamp(0, 1), {}),
        "attack": attacked((images + 0.3).clamp(0, 1)),
    }
    defaults = registry.bind("measurement", name, {}, name)
    given = context(model, images, labels, *(views[kind] for kind in accepts))
    given |= {"box": UNIT, "ids": [f"sample/{row}" for row in range(9)], "directions": None, "augmentations": {}}
    table = registry.load("measurement", name)(**registry.passed("measurement", name, given), **defaults)
    assert list(table) == ["row", *columns] or set(table) == {"row", *columns}
    assert len({len(values) for values in table.values()}) == 1
    assert all(0 <= row < 9 for row in table["row"])
    for column, (kind, _) in columns.items():
        array = pa.array(table[column], arrow_type(kind))
        if pa.types.is_floating(array.type):
            assert all(math.isfinite(value) for value in array.drop_null().to_pylist())


def test_accuracy_of_handmade_logits() -> None:
    images = pixels([0.1, 0.2], [0.9, 0.8], [0.9, 0.9])
    corrupted = View("noise", "corruption", 2, pixels([0.9, 0.9], [0.9, 0.8], [0.0, 0.0]), {})
    labels = torch.tensor([0, 1, 0])
    table = accuracy(**context(sign_classifier(), images, labels, View("clean", "clean", None, images, {}), corrupted))
    assert table["row"] == [0, 1, 2, 0, 1, 2]
    assert table["view"] == ["clean"] * 3 + ["noise"] * 3
    assert table["kind"] == ["clean"] * 3 + ["corruption"] * 3
    assert table["severity"] == [None] * 3 + [2] * 3
    assert table["label"] == [0, 1, 0] * 2
    assert table["prediction"] == [0, 1, 1, 1, 1, 0]
    assert table["correct"] == [True, True, False, False, True, True]
    assert table["confidence"][0] == pytest.approx(1 / (1 + math.exp(-0.7)))
    assert table["confidence"][5] == pytest.approx(1 / (1 + math.exp(-1)))


def test_accuracy_of_nan_logits() -> None:
    images = pixels([0.1, 0.2])
    clean = View("clean", "clean", None, images, {})
    table = accuracy(**context(Constant([torch.nan, 0.0]), images, torch.tensor([0]), clean))
    assert table["correct"] == [False] and table["confidence"] == [None]


def test_perturbation_judges_handmade_images() -> None:
    #                        fooled,     not fooled, out of box,  NaN,        misclassified and left, label 1 fooled
    clean = pixels([0.4, 0.5], [0.4, 0.5], [0.4, 0.5], [0.4, 0.5], [0.9, 0.5], [0.9, 0.5])
    found = pixels([0.4, 0.7], [0.4, 0.55], [0.4, 1.01], [math.nan, 1.0], [0.9, 0.5], [0.1, 0.5])
    labels = torch.tensor([0, 0, 0, 0, 0, 1])
    table = perturbation(**context(sign_classifier(), clean, labels, attacked(found)))
    assert table["converged"] == [True, False, False, False, True, True]
    assert table["in_box"] == [True, True, False, False, True, True]
    assert table["within_epsilon"] == [None] * 6 and table["epsilon"] == [None] * 6
    assert table["clean_prediction"] == [0, 0, 0, 0, 1, 1]
    assert table["l0_pixels"] == [1, None, None, None, 0, 1]
    assert table["l0_entries"] == [1, None, None, None, 0, 1]
    for norm in ("l1", "l2", "linf"):
        assert [value for value in table[norm] if value is not None] == pytest.approx([0.2, 0.0, 0.8])
        assert [row for row, value in enumerate(table[norm]) if value is None] == [1, 2, 3]
    assert table["forward_passes"] == [3.5] * 6 and table["backward_passes"] == [2.0] * 6


@pytest.mark.parametrize("norm", ["l1", "l2", "linf", "l0"])
def test_perturbation_holds_attacks_to_their_epsilon(norm: str) -> None:
    clean = pixels([0.4, 0.5], [0.4, 0.5], [0.4, 0.5])
    found = pixels([0.4, 0.7], [0.4, 0.7001], [0.4, 0.7 + 1e-8])
    epsilon = 1.0 if norm == "l0" else 0.2
    table = perturbation(**context(sign_classifier(), clean, torch.zeros(3).long(), attacked(found, norm, epsilon)))
    assert table["within_epsilon"] == [True, norm == "l0", True]
    assert table["converged"] == table["within_epsilon"]
    assert table["epsilon"] == [epsilon] * 3


def test_rounding_of_float32_images_does_not_break_a_small_epsilon() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(200, *SHAPE, generator=generator)
    signs = torch.rand(200, *SHAPE, generator=generator).sub(0.5).sign()
    epsilon = 0.5 / 255
    found = (clean + epsilon * signs).clamp(0, 1)
    labels = torch.zeros(200, dtype=torch.int64)
    table = perturbation(**context(Constant([0.0, 1.0]), clean, labels, attacked(found, "linf", epsilon)))
    assert all(table["converged"])


def test_perturbation_judges_by_the_box_of_the_data() -> None:
    pixels_in, pixels_out = grey_images(2, SHAPE, spread=0.5).float(), grey_images(2, SHAPE).float()
    pixels_out[:, 0, 3, 3] = torch.tensor([1 + 1e-5, -1e-5])
    clean = flip(pixels_in)
    found = torch.cat((clean, flip(pixels_out)))
    labels = torch.zeros(4).long()
    given = context(Constant([0.0, 1.0]), clean.repeat(2, 1, 1, 1), labels, attacked(found))
    assert ((clean < 0) | (clean > 1)).any(dim=(1, 2, 3)).all()
    assert perturbation(**given, box=Box(0, 1, flipped=True))["in_box"] == [True, True, False, False]
    assert perturbation(**given, box=Box(-math.inf, math.inf))["converged"] == [True] * 4
    assert perturbation(**given, box=Box(-9, 9))["in_box"] == [True] * 4
    assert perturbation(**given)["in_box"] == [False] * 4


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_rounding_of_large_entries_does_not_break_a_small_epsilon(norm: str) -> None:
    clean = torch.full((1, *SHAPE), 64.0)
    wanted = 1.5 * 2**-17  # and a half unit of the last place at 64, so every entry is rounded up by half a unit
    epsilon = wanted * (clean.numel() if norm == "l1" else 1)
    box = Box(-math.inf, math.inf)
    for factor, inside in ((1, True), (0.9, False)):
        view = attacked(clean + wanted, norm, factor * epsilon)
        table = perturbation(**context(Constant([0.0, 1.0]), clean, torch.zeros(1).long(), view), box=box)
        assert table["within_epsilon"] == [inside]


def test_nan_logits_are_no_success() -> None:
    clean = pixels([0.4, 0.5])
    table = perturbation(**context(Constant([0.0, torch.nan]), clean, torch.tensor([0]), attacked(clean)))
    assert table["converged"] == [False]


def test_an_epsilon_in_an_unknown_norm_is_refused() -> None:
    clean = pixels([0.4, 0.5])
    with pytest.raises(UserError, match="toy: epsilon in the norm 'ssim'"):
        perturbation(**context(sign_classifier(), clean, torch.tensor([0]), attacked(clean, "ssim", 0.1)))


def test_l0_counts_pixels_and_entries_apart() -> None:
    model = affine((3, 4, 4), 2)
    clean = grey_images(1, (3, 4, 4))
    found = clean.clone()
    found[0, :, 2, 2] = 0
    label = 1 - predictions(model, found)
    table = perturbation(**context(model, clean, label, attacked(found)))
    assert (table["l0_pixels"], table["l0_entries"]) == ([1], [3])


def test_perturbation_judges_images_rounded_to_eight_bits() -> None:
    levels = torch.tensor([[100.0, 127.0]] * 5, dtype=torch.float64).view(-1, 1, 1, 2)
    # far beyond the boundary (127.5), in part by half a level; by less than half a level; not at all; out of the box;
    # fooled only when rounded
    shift = torch.tensor([[40.3, 0.4], [0.0, 28.45], [0.0, 0.0], [0.0, 200.0], [0.0, 27.6]]).double().view(-1, 1, 1, 2)
    model = Affine(torch.tensor([[0.0, 0.0], [255.0, 255.0]]).double(), torch.tensor([0.0, -255.4]).double())
    clean, labels = levels / 255, torch.zeros(5).long()
    given = context(model, clean, labels, attacked(clean + shift / 255))
    table = perturbation(**given)
    assert table["converged"] == [True, True, False, False, False]
    assert table["l0_pixels"] == [2, 1, None, None, None]
    assert table["converged_8bit"] == [True, False, False, False, False]
    assert table["l0_pixels_8bit"] == [1, None, None, None, None]


@pytest.mark.parametrize(("shift", "box"), [(1e-3, Box()), (0.0, Box(0, 1, flipped=True)), (0.0, Box(-9, 9))])
def test_data_that_are_no_pixels_are_not_rounded(shift: float, box: Box) -> None:
    clean = pixels([0.0, 1.0], [0.2, 0.4]) * (1 - shift)
    given = context(sign_classifier(), clean, torch.zeros(2).long(), attacked(clean))
    assert perturbation(**given)["converged_8bit"] == ([None] * 2 if shift else [False] * 2)
    table = perturbation(**given, box=box)
    assert table["converged_8bit"] == table["l0_pixels_8bit"] == [None] * 2


def test_float32_pixels_as_they_are_read_lie_on_the_grid() -> None:
    clean = (torch.arange(256, dtype=torch.uint8).float() / 255).view(4, 1, 8, 8)
    table = perturbation(**context(Constant([0.0, 1.0]), clean, torch.zeros(4).long(), attacked(clean + 1e-4)))
    assert table["converged_8bit"] == [True] * 3 + [False]  # the last one leaves the box
    assert table["l0_pixels_8bit"] == [0] * 3 + [None]


def test_gallery_packs_images_as_little_endian_float32() -> None:
    model = affine((3, 4, 5), 3)
    images = grey_images(5, (3, 4, 5)).float()
    found = (images + 0.25).clamp(0, 1)
    labels = predictions(model.float(), images)
    table = gallery(**context(model, images, labels, attacked(found), attacked(images)), samples=2)
    assert table["row"] == [0, 1, 0, 1]
    assert (table["channels"], table["height"], table["width"]) == ([3] * 4, [4] * 4, [5] * 4)
    assert table["clean_prediction"] == labels[:2].tolist() * 2
    for row, image in zip(range(4), [*found[:2], *images[:2]], strict=True):
        unpacked = torch.frombuffer(bytearray(table["perturbed"][row]), dtype=torch.float32)
        assert torch.equal(unpacked.view(3, 4, 5), image)
    assert len(gallery(**context(model, images, labels, attacked(found)), samples=50)["row"]) == 5
