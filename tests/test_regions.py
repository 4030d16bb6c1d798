"""Pairs of points of a class, joined by paths: rows, choice of partners, second search."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.contracts import View
from pipeline.measurements._paths import following, groups
from pipeline.measurements.regions import COLUMNS, regions
from pipeline.numerics.box import UNIT
from pipeline.numerics.frequency import flip
from tests.oracles import Affine, Constant, affine, grey_images, network, predictions
from tests.test_paths import Fed, Shells, plane


def measured(model: nn.Module, images: Tensor, **options: Any) -> dict[str, Any]:
    count = len(images)
    given: dict[str, Any] = {
        "labels": torch.zeros(count, dtype=torch.int64),
        "seeds": torch.arange(count) * 7919 % 1009,
        "views": [View("clean", "clean", None, images, {})],
        "batch_size": 16,
        "ids": [f"id{row}" for row in range(count)],
        "resolution": 11,
        **options,
    }
    table = regions(model=model, images=images, **given)
    assert set(table) == {"row", *COLUMNS} and len({len(column) for column in table.values()}) == 1
    return table


SHAPE = (1, 4, 4)
IMAGES = grey_images(30, SHAPE, spread=0.5)


def bumpy() -> nn.Module:
    """Three classes in bent regions."""

    class Bumpy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            x = images.flatten(1)
            return torch.stack([torch.sin(9 * x[:, :6]).sum(1), torch.cos(8 * x[:, 4:12]).sum(1), x.sum(1) - 8], 1)

    return Bumpy().eval()


def test_rows_of_all_kinds() -> None:
    model = bumpy()
    table = measured(model, IMAGES, pairs=9)
    predicted = predictions(model, IMAGES)
    assert set(table["kind"]) == {"image", "perturbed", "noise"}
    for kind in ("perturbed", "noise"):
        assert [row for row, own in zip(table["row"], table["kind"], strict=True) if own == kind] == list(range(9))
    seen = []
    for row, kind, partner, own in zip(table["row"], table["kind"], table["partner"], table["class"], strict=True):
        assert own == predicted[row]
        if kind == "image":
            assert predicted[int(partner[2:])] == own
            seen += [f"id{row}", partner]
        elif kind == "perturbed":
            assert predicted[int(partner[2:])] != own
        else:
            assert partner is None
    assert len(seen) == len(set(seen)) == 18, "pairs of images are disjoint"
    assert not all(table["straight"]) and any(table["straight"])
    for found, straight, ratio, anchors, verified, length, distance in zip(
        *(table[name] for name in ("converged", "straight", "ratio", "anchors", "verified", "length", "distance")),
        strict=True,
    ):
        assert (ratio is None) == (anchors is None) == (verified is None) == (length is None) == (not found)
        if found:
            assert ratio >= 1 - 1e-9 and ratio == pytest.approx(length / distance)
            assert (anchors == 0) == straight


def rows_of(table: dict[str, Any]) -> dict[Any, Any]:
    names = ("view", "kind", "row")
    return {key: {n: table[n][i] for n in table} for i, key in enumerate(zip(*(table[n] for n in names), strict=True))}


def test_neither_batch_nor_order_matters() -> None:
    model = bumpy()
    whole = rows_of(measured(model, IMAGES, pairs=None))
    for batch_size in (1, 3):
        other = rows_of(measured(model, IMAGES, pairs=None, batch_size=batch_size))
        assert set(other) == set(whole)
        for key, row in whole.items():
            assert row == pytest.approx(other[key])
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    table = measured(
        model,
        IMAGES[order],
        pairs=None,
        seeds=(torch.arange(30) * 7919 % 1009)[order],
        ids=[f"id{row}" for row in order.tolist()],
    )
    table["row"] = [int(order[row]) for row in table["row"]]
    for key, row in rows_of(table).items():
        assert row == pytest.approx(whole[key])


def test_attacked_images_are_joined_as_they_are() -> None:
    model = Affine(torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double(), torch.tensor([0.0, -0.5]).double())
    images = plane((0.1, 0.2), (0.2, 0.8), (0.8, 0.1), (0.9, 0.9))
    moved = plane((0.6, 0.2), (0.2, 0.8), (0.4, 0.1), (0.9, 0.9))  # the second and fourth attack gave up
    views = [View("df", "attack", None, moved, {})]
    table = measured(model, images, views=views, seeds=torch.arange(4))
    assert table["kind"] == ["perturbed"] * 4 and table["view"] == ["df"] * 4
    assert table["row"] == [0, 1, 2, 3] and table["partner"] == ["id2", "id2", "id0", "id0"]
    assert table["distance"] == pytest.approx(
        [math.hypot(0.3, 0.1), math.hypot(0.2, 0.7), math.hypot(0.2, 0.1), 0.76157731]
    )
    assert all(table["straight"]) and all(table["verified"]) and table["ratio"] == pytest.approx([1.0] * 4)
    views = [View("none", "attack", None, images, {})]
    assert measured(Fed(model), images, views=views)["row"] == []


def test_a_gap_between_samples_is_found_at_ten_times_the_density() -> None:
    class Slit(nn.Module):
        """Class 1 but for a thin slit across the segment, which ends a little beside it."""

        def forward(self, images: Tensor) -> Tensor:
            x, y = images.flatten(1).T
            value = torch.maximum((x - 0.53).abs() - 0.01, y - 0.505)
            return torch.stack([-value, value], dim=1)

    images = plane((0.0, 0.5), (1.0, 0.5))
    coarse = measured(Slit().eval(), images, kinds=["image"], resolution=5)
    assert coarse["converged"] == [True] and coarse["verified"] == [True]
    assert coarse["straight"] == [False] and coarse["anchors"][0] > 0 and coarse["ratio"][0] > 1

    class Wall(nn.Module):
        """As the slit, without an end."""

        def forward(self, images: Tensor) -> Tensor:
            value = (images.flatten(1)[:, 0] - 0.53).abs() - 0.01
            return torch.stack([-value, value], dim=1)

    coarse = measured(Wall().eval(), images, kinds=["image"], resolution=5)
    assert coarse["converged"] == [True] and coarse["verified"] == [False] and coarse["straight"] == [False]


def test_ends_that_cannot_be_pushed_have_no_path() -> None:
    model = Constant([0.0, 1.0])
    table = measured(model, IMAGES, kinds=["noise"], pairs=3)
    assert table["entered"] == [True] * 3  # the one class is everywhere
    table = measured(affine(SHAPE, 3), IMAGES, kinds=["perturbed"], pairs=4, steps=1, overshoot=0.0, boxed=False)
    for entered, *rest in zip(
        *(table[name] for name in ("entered", "straight", "distance", "forward_passes", "length")), strict=True
    ):
        assert entered or rest == [None] * 4


def test_flipped_data_are_measured_behind_the_flip() -> None:
    model = network(SHAPE, 3, seed=5)

    class Behind(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model(flip(images))
            return logits

    given: dict[str, Any] = {"pairs": None, "overshoot": 1.0}
    pixels = measured(model, IMAGES, **given)
    flipped = measured(Behind().eval(), flip(IMAGES), box=UNIT._replace(flipped=True), **given)
    assert flipped["partner"] == pixels["partner"] and flipped["converged"] == pixels["converged"]
    assert flipped["length"] == pytest.approx(pixels["length"], rel=1e-6)


def test_groups_and_followers() -> None:
    predicted = torch.tensor([1, 0, 1, 1, 0, 1, 2])
    seeds = torch.tensor([5, 9, 1, 7, 2, 3, 4])
    assert groups(predicted, seeds, 2).tolist() == [[0, 3], [2, 5], [4, 1]]
    assert groups(predicted, seeds, 4).tolist() == [[2, 5, 0, 3]]
    assert groups(predicted, seeds, 5).tolist() == []
    assert following(seeds, 3, lambda head: predicted != predicted[head]).tolist() == [1, 2, 4]
    assert following(seeds, 1, lambda head: predicted > 2).tolist() == [-1]


def test_a_second_search_goes_farther_beyond_the_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path around a hole ends on the boundary unless its points go beyond it far enough."""
    model = Shells(([0.5, 0.5], 0.2, 5.0))
    images = plane((0.05, 0.45), (0.95, 0.47))
    given: dict[str, Any] = {"kinds": ["image"], "depth": 9, "resolution": 31}
    found = {overshoot: measured(model, images, overshoot=overshoot, **given) for overshoot in (0.0, 0.05, 1.0)}
    assert [found[overshoot]["verified"] for overshoot in found] == [[None], [True], [True]]
    monkeypatch.setattr(f"{regions.__module__}.FARTHER", 1.0)
    assert measured(model, images, overshoot=0.05, **given)["verified"] == [None]
    assert measured(model, images, overshoot=1.0, **given)["verified"] == [True]
