"""Examples of paths inside classes: what is recorded along them, on models whose regions are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.contracts import View
from pipeline.measurements.path_examples import COLUMNS, path_examples
from pipeline.numerics.box import UNIT
from pipeline.numerics.frequency import flip
from tests.oracles import Affine, grey_images, network, predictions
from tests.test_paths import Fed, Shells, plane

SHAPE = (2, 4, 3)
IMAGES = grey_images(30, SHAPE, spread=0.5)
RING = Shells(([0.5, 0.5], 0.2, 5.0))  # class 0 in the disk of radius 0.2, class 1 around it


def measured(model: nn.Module, images: Tensor, **options: Any) -> list[dict[str, Any]]:
    count = len(images)
    given: dict[str, Any] = {
        "labels": torch.zeros(count, dtype=torch.int64),
        "seeds": torch.arange(count),
        "views": [View("clean", "clean", None, images, {})],
        "batch_size": 16,
        "ids": [f"id{row}" for row in range(count)],
        "kinds": ["image"],
        "points": 9,
        "pictures": 3,
        **options,
    }
    table = path_examples(model=model, images=images, **given)
    assert set(table) == {"row", *COLUMNS} and len({len(column) for column in table.values()}) == 1
    return [{name: table[name][i] for name in table} for i in range(len(table["row"]))]


def seen(row: dict[str, Any]) -> Tensor:
    shape = (len(row["pictured"]), row["channels"], row["height"], row["width"])
    return torch.from_numpy(np.frombuffer(row["images"], dtype="<f4").reshape(shape).copy())


def test_around_a_hole() -> None:
    start, end = (0.05, 0.45), (0.95, 0.45)
    straight, found = measured(RING, plane(start, end))
    for row in (straight, found):
        assert row["class"] == row["partner_class"] == 1 and row["partner"] == "id1" and row["pair"] == row["row"] == 0
        assert row["share"] == pytest.approx([i / 8 for i in range(9)]) and row["pictured"] == [0, 4, 8]
        assert row["converged"] and (row["path"], row["kind"], row["view"]) in {
            ("straight", "image", "clean"),
            ("found", "image", "clean"),
        }
        pictures = seen(row)
        torch.testing.assert_close(pictures[[0, -1]], plane(start, end).float())
        logits = RING(pictures.double())
        assert (logits[:, 1] - logits[:, 0]).tolist() == pytest.approx([row["margin"][i] for i in (0, 4, 8)], abs=1e-6)
    radii = [math.hypot(0.45 - 0.9 * i / 8, 0.05) for i in range(9)]
    assert straight["margin"] == pytest.approx([2 * (radius - 0.2) for radius in radii])
    assert straight["prediction"] == [int(radius > 0.2) for radius in radii]
    assert not straight["verified"] and straight["anchors"] == 0 and straight["length"] == pytest.approx(0.9)
    assert found["verified"] and found["anchors"] > 0 and found["prediction"] == [1] * 9
    assert min(found["margin"]) > -1e-9
    # no path around the disk is shorter than two tangents and the arc between them
    far = math.hypot(0.45, 0.05)
    angle = 2 * math.atan2(0.45, 0.05) - 2 * math.acos(0.2 / far)
    assert found["length"] >= 2 * math.sqrt(far**2 - 0.2**2) + 0.2 * angle


def test_positions_follow_the_length_of_the_path() -> None:
    _, found = measured(RING, plane((0.05, 0.45), (0.95, 0.47)), points=2001, pictures=2001)
    steps = seen(found).double().flatten(1).diff(dim=0).norm(dim=1)
    step = found["length"] / 2000
    assert float(steps.max()) <= step * (1 + 1e-3)  # shorter only where the path bends
    assert float((steps > step * (1 - 1e-3)).double().mean()) > 0.95
    assert float(steps.sum()) == pytest.approx(found["length"], rel=1e-3)


def test_a_path_that_is_not_there() -> None:
    balls = Shells(([0.2, 0.5], 0.0, 0.1), ([0.8, 0.5], 0.0, 0.1))
    straight, found = measured(balls, plane((0.2, 0.5), (0.8, 0.5)), depth=3, boxed=True)
    assert straight["converged"] and not straight["verified"] and min(straight["margin"]) == pytest.approx(-0.4)
    assert not found["converged"]
    for name in ("verified", "anchors", "length", "share", "margin", "prediction", "pictured", "images"):
        assert found[name] is None
    assert (found["channels"], found["height"], found["width"]) == (1, 1, 2)


def test_what_lies_between_samples_counts() -> None:
    class Slit(nn.Module):
        """Class 1 but for a thin slit across the segment, which ends a little beside it or nowhere."""

        def __init__(self, top: float) -> None:
            super().__init__()
            self.top = top

        def forward(self, images: Tensor) -> Tensor:
            x, y = images.flatten(1).T
            value = torch.maximum((x - 0.53).abs() - 0.01, y - self.top)
            return torch.stack([-value, value], dim=1)

    images = plane((0.0, 0.5), (1.0, 0.5))
    straight, found = measured(Slit(0.505).eval(), images, resolution=5)
    assert not straight["verified"] and found["verified"] and found["anchors"] > 0
    straight, found = measured(Slit(9.0).eval(), images, resolution=5)
    assert not straight["verified"] and found["converged"] and not found["verified"] and found["anchors"] == 0
    straight, found = measured(Slit(-9.0).eval(), images, resolution=5)
    assert straight["verified"] and found["verified"] and found["margin"] == straight["margin"]


def test_pairs_whose_segment_leaves_the_class_come_first() -> None:
    images = plane((0.1, 0.1), (0.2, 0.1), (0.1, 0.2), (0.2, 0.2), (0.05, 0.5), (0.95, 0.5))
    assert [row["row"] for row in measured(RING, images, pairs=2)] == [4, 4, 0, 0]
    assert [row["row"] for row in measured(RING, images, pairs=9)] == [4, 4, 0, 0, 2, 2]
    assert [row["pair"] for row in measured(RING, images)] == [0, 0, 1, 1, 2, 2]
    assert [row["row"] for row in measured(RING, images, pairs=2, candidates=2)] == [0, 0, 2, 2]
    assert [row["row"] for row in measured(RING, images, pairs=1, candidates=1, seeds=-torch.arange(6))] == [5, 5]


def test_partners_are_pushed_into_the_class() -> None:
    model = Affine(torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double(), torch.tensor([0.0, -0.5]).double())
    images = plane((0.1, 0.2), (0.2, 0.8), (0.8, 0.1), (0.9, 0.9))
    rows = measured(model, images, kinds=["perturbed"], overshoot=0.5, pairs=4)[::2]
    assert [row["kind"] for row in rows] == ["perturbed"] * 4
    for row in rows:
        here, partner = images[row["row"]], images[int(row["partner"][2:])]
        assert row["partner_class"] == 1 - row["class"] == int(partner[0, 0, 0] > 0.5)
        pushed = partner.flatten() + torch.tensor([1.5 * (0.5 - float(partner[0, 0, 0])), 0.0])
        torch.testing.assert_close(seen(row)[-1].flatten(), pushed.float(), atol=1e-5, rtol=0)
        torch.testing.assert_close(seen(row)[0], here.float())
        assert row["verified"] and row["margin"][-1] > 0

    class Stubborn(nn.Module):
        """No gradient leads from one class to the other."""

        def forward(self, images: Tensor) -> Tensor:
            inside = (images.flatten(1)[:, 0] > 0.5).to(images) + 0 * images.flatten(1).sum(dim=1)
            return torch.stack([1 - inside, inside], dim=1)

    assert measured(Stubborn().eval(), images, kinds=["perturbed"]) == []


def test_attacked_images_are_joined_as_they_are() -> None:
    model = Affine(torch.tensor([[0.0, 0.0], [1.0, 0.0]]).double(), torch.tensor([0.0, -0.5]).double())
    images = plane((0.1, 0.2), (0.2, 0.8), (0.8, 0.1), (0.9, 0.9))
    moved = plane((0.6, 0.2), (0.2, 0.8), (0.4, 0.1), (0.9, 0.9))  # the second and fourth attack gave up
    rows = measured(model, images, views=[View("df", "attack", None, moved, {})], pairs=4)[::2]
    assert [(row["row"], row["partner"]) for row in rows] == [(0, "id2"), (1, "id2"), (2, "id0"), (3, "id0")]
    for row in rows:
        assert (row["view"], row["kind"]) == ("df", "perturbed")
        torch.testing.assert_close(seen(row)[-1], moved[int(row["partner"][2:])].float())
    assert measured(Fed(model), images, views=[View("none", "attack", None, images, {})]) == []


def test_neither_batch_nor_order_matters() -> None:
    model, seeds = network(SHAPE, 3, seed=5), torch.arange(30) * 7919 % 1009
    given: dict[str, Any] = {"kinds": ["image", "perturbed"], "pairs": 4, "candidates": 9}
    whole = measured(model, IMAGES, seeds=seeds, **given)
    assert len(whole) == 16 and {row["class"] for row in whole} <= set(predictions(model, IMAGES).tolist())
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    moved = {"seeds": seeds[order], "ids": [f"id{row}" for row in order.tolist()]}
    others = [measured(model, IMAGES, seeds=seeds, batch_size=size, **given) for size in (1, 3)]
    others.append(measured(model, IMAGES[order], **moved, **given))
    for row in others[-1]:
        row["row"] = int(order[row["row"]])
    for other in others:
        for one, two in zip(whole, other, strict=True):
            torch.testing.assert_close(seen(one), seen(two), atol=1e-6, rtol=0)
            for name in set(one) - {"images"}:
                close = name in ("length", "share", "margin")
                assert one[name] == (pytest.approx(two[name], rel=1e-6, abs=1e-9) if close else two[name]), name


def test_flipped_data_are_measured_behind_the_flip_and_pictured_in_their_own_space() -> None:
    model = network((1, 4, 4), 3, seed=5)
    images = grey_images(30, (1, 4, 4), spread=0.5)

    class Behind(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model(flip(images))
            return logits

    pixels = measured(model, images)
    flipped = measured(Behind().eval(), flip(images), box=UNIT._replace(flipped=True))
    for one, two in zip(pixels, flipped, strict=True):
        assert one["partner"] == two["partner"] and one["margin"] == pytest.approx(two["margin"])
        torch.testing.assert_close(flip(seen(one)), seen(two), atol=1e-5, rtol=0)


def test_a_logit_that_is_no_number_leaves_no_margin() -> None:
    class Hole(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            x = images.flatten(1)[:, 0]
            logits = torch.stack([x, x + 1], dim=1)
            return logits.masked_fill((x - 0.5).abs()[:, None] < 0.1, math.nan)

    straight, _ = measured(Hole().eval(), plane((0.0, 0.5), (1.0, 0.5)), depth=1)
    assert [value is None for value in straight["margin"]] == [i == 4 for i in range(9)]
    assert not straight["verified"]
