"""Planes through images, on an affine classifier whose regions are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.contracts import View
from pipeline.measurements.slices import COLUMNS, slices
from pipeline.numerics.box import UNIT, Box
from tests.oracles import affine, grey_images, predictions

SHAPE = (2, 3, 3)
IMAGES = grey_images(12, SHAPE, spread=0.5)
MODEL = affine(SHAPE, 3)
IDS = [f"id{row}" for row in range(12)]


def view(images: Tensor = IMAGES, name: str = "clean") -> View:
    return View(name, "clean" if name == "clean" else "attack", None, images, {})


def measured(model: nn.Module = MODEL, images: Tensor = IMAGES, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "labels": torch.arange(len(images)),
        "seeds": torch.arange(len(images)),
        "views": [view(images)],
        "batch_size": 100,
        "ids": IDS,
        "box": UNIT,
        "points": 9,
        "samples": 4,
        **options,
    }
    table = slices(model=model, images=images, **given)
    assert set(table) == {"row", *COLUMNS} and len({len(column) for column in table.values()}) == 1
    return table


def grid(table: dict[str, Any], row: int, column: str, kind: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(table[column][row], dtype=kind).reshape(table["points"][row], table["points"][row])


def rebuilt(images: list[Tensor], left: float, bottom: float, side: float, points: int) -> Tensor:
    """Points of the grid by Gram and Schmidt, bottom row first."""
    origin, second, third = (image.flatten() for image in images)
    right = (second - origin) / (second - origin).norm()
    rest = (third - origin) - ((third - origin) @ right) * right
    up = rest / rest.norm()
    ticks = torch.linspace(0, side, points, dtype=torch.float64)
    return torch.stack([origin + (left + x) * right + (bottom + y) * up for y in ticks for x in ticks]).view(-1, *SHAPE)


def test_planes_through_three_images() -> None:
    table = measured()
    predicted = predictions(MODEL, IMAGES)
    assert table["row"] == [0, 1, 2, 3] and table["label"] == [0, 1, 2, 3] and table["view"] == ["clean"] * 4
    for row in range(4):
        second, third = int(table["second"][row][2:]), int(table["third"][row][2:])
        assert second != row and predicted[second] == predicted[row] != predicted[third]
        anchors = [IMAGES[row], IMAGES[second], IMAGES[third]]
        assert table["anchor_classes"][row] == predicted[[row, second, third]].tolist()
        x, y = table["anchors_x"][row], table["anchors_y"][row]
        assert (x[0], y[0], y[1]) == (0, 0, 0) and x[1] > 0 and y[2] > 0
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert math.hypot(x[a] - x[b], y[a] - y[b]) == pytest.approx(float((anchors[a] - anchors[b]).norm()))
        left, bottom, side = (table[name][row] for name in ("left", "bottom", "side"))
        assert all(left < value < left + side for value in x) and all(bottom < value < bottom + side for value in y)
        points = rebuilt(anchors, left, bottom, side, 9)
        logits = MODEL(points).detach()
        assert grid(table, row, "classes", "<i2").ravel().tolist() == logits.argmax(dim=1).tolist()
        lead = logits.topk(2, dim=1).values
        torch.testing.assert_close(
            torch.from_numpy(grid(table, row, "margins", "<f4").ravel().copy()),
            (lead[:, 0] - lead[:, 1]).float(),
            rtol=1e-4,
            atol=1e-5,
        )
        assert grid(table, row, "inside", "u1").ravel().tolist() == (UNIT.excess(points) <= 1e-5).int().tolist()


def test_planes_around_attacked_images() -> None:
    moved = IMAGES.clone()
    moved[[0, 2]] += 0.05
    table = measured(views=[view(), view(moved, "df")])
    assert table["row"] == [0, 1, 2, 3, 0, 2], "images that the attack left as they are have no plane"
    assert table["view"] == ["clean"] * 4 + ["df"] * 2 and table["second"][4:] == ["id0", "id2"]
    length = 0.05 * math.sqrt(18)
    for row in (4, 5):
        assert table["anchors_x"][row][1] == pytest.approx(length)
        assert table["left"][row] == table["bottom"][row] == pytest.approx(-3 * length)
        assert table["side"][row] == pytest.approx(6 * length)


def test_neither_batch_nor_order_matters() -> None:
    whole = measured(samples=12)
    for batch_size in (1, 7):
        other = measured(samples=12, batch_size=batch_size)
        assert other["classes"] == whole["classes"] and other["third"] == whole["third"]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    ids = [IDS[row] for row in order.tolist()]
    table = measured(images=IMAGES[order], seeds=order, ids=ids, samples=12)
    place = {ids[row]: index for index, row in enumerate(table["row"])}
    for index, row in enumerate(whole["row"]):
        for name in ("second", "third", "classes", "anchors_x", "side"):
            assert table[name][place[IDS[row]]] == pytest.approx(whole[name][index]), name


def test_a_sample_without_others_has_no_row() -> None:
    class One(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.stack([images.flatten(1).sum(dim=1), -images.flatten(1).sum(dim=1)], dim=1)

    assert measured(One().eval(), IMAGES)["row"] == []
    assert all(grid(measured(box=Box(-math.inf, math.inf)), row, "inside", "u1").all() for row in range(4))
