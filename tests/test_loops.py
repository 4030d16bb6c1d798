"""Loops and their fillings on models whose regions are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.contracts import View
from pipeline.measurements.loops import COLUMNS, _merge, loops
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.paths import find_paths
from pipeline.numerics.quads import Curves, Quads
from tests.oracles import grey_images, predictions
from tests.test_paths import OPEN, Fed, Shells, on_circle, plane
from tests.test_regions import bumpy

IMAGES = grey_images(40, (1, 4, 4), spread=0.5)


def measured(model: nn.Module, images: Tensor, **options: Any) -> dict[str, Any]:
    count = len(images)
    given: dict[str, Any] = {
        "labels": torch.zeros(count, dtype=torch.int64),
        "seeds": torch.arange(count),
        "views": [View("clean", "clean", None, images, {})],
        "batch_size": 64,
        "ids": [f"id{row}" for row in range(count)],
        "box": OPEN,
        "resolution": 11,
        **options,
    }
    table = loops(model=model, images=images, **given)
    assert set(table) == {"row", *COLUMNS} and len({len(column) for column in table.values()}) == 1
    return table


@pytest.mark.parametrize("hole", [0.05, 0.4, 0.9])
def test_a_loop_around_a_hole_cannot_be_filled(hole: float) -> None:
    table = measured(Shells(([0.0, 0.0], hole, 3.0)), on_circle(0, 90, 180, 270, radius=1.3), resolution=31)
    assert table["loop_connected"] == [True]
    assert table["converged"] == [False] and table["patch"] == [False]
    assert table["quads"] == table["levels"] == table["deviation"] == [None]


def test_a_loop_beside_the_hole_can_be_filled() -> None:
    # Four points within a third of the annulus; the side from the last to the first passes by the hole.
    points = torch.cat([on_circle(0, 50, radius=1.0), on_circle(100, radius=1.0), on_circle(50, radius=1.8)])
    table = measured(Shells(([0.0, 0.0], 0.9, 3.0)), points[[0, 1, 2, 3]], levels=6, resolution=21)
    assert table["loop_connected"] == [True] and table["converged"] == [True]
    assert table["row"] == [0] and [table[n] for n in ("second", "third", "fourth")] == [["id1"], ["id2"], ["id3"]]


def test_a_hole_in_space_does_not_stop_a_surface() -> None:
    """In three dimensions the Coons patch meets a ball that is no part of the class, and the surface passes it by."""
    circle = on_circle(0, 90, 180, 270).flatten(1)
    points = torch.cat([circle, torch.full((4, 1), 0.1, dtype=torch.float64)], dim=1)[:, None, None, :]
    table = measured(Shells(([0.0, 0.0, 0.0], 0.5, 3.0)), points, resolution=15, levels=6)
    assert table["loop_connected"] == [True] and table["patch"] == [False] and table["converged"] == [True]
    assert table["quads"][0] >= 4 and table["levels"][0] >= 1
    assert 0.05 < table["deviation"][0] < 1


def test_a_convex_region_is_filled_by_the_patch() -> None:
    points = on_circle(0, 90, 180, 270)
    table = measured(Shells(([0.0, 0.0], 0.0, 1.5)), points)
    assert table["converged"] == table["patch"] == [True]
    assert table["quads"] == [1] and table["levels"] == [0] and table["deviation"] == [0]
    assert table["length"] == pytest.approx([4 * math.sqrt(2)])
    # four sides of 11 samples, and a grid of 11 by 11
    assert table["forward_passes"] == [4 * 11 + 121] and table["backward_passes"] == [0]


def test_points_of_regions_apart_make_no_loop() -> None:
    model = Shells(([0.0, 0.0], 0.0, 0.5), ([3.0, 0.0], 0.0, 0.5))
    points = plane((0.0, 0.0), (0.2, 0.0), (3.0, 0.0), (3.1, 0.1))
    assert measured(Fed(model), points[:3])["row"] == []
    table = measured(Fed(model), points)
    assert table["loop_connected"] == table["converged"] == [False]
    assert table["patch"] == table["length"] == [None]


def test_curves_and_coons_patches() -> None:
    model = Shells(([0.0, 0.0], 0.8, 3.0))
    start, end = on_circle(0, 180, 0, 90), on_circle(90, 90, 0, 30)
    target = torch.ones(4, dtype=torch.int64)
    search: dict[str, Any] = {"depth": 12, "steps": 50, "overshoot": 1.0, "box": OPEN, "batch_size": 64}
    paths = find_paths(model, start, end, target, (end - start).flatten(1).norm(dim=1) / 21, **search)
    assert paths.connected.all() and not paths.straight[0]
    curves = Curves(paths)
    number = torch.arange(4)
    zero, one = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    assert torch.equal(curves.points(number, zero), start)
    torch.testing.assert_close(curves.points(number, one), end, rtol=0, atol=1e-12)
    torch.testing.assert_close(curves.lengths(number, zero, one), paths.lengths())
    third = curves.lengths(number, zero, one / 3) + curves.lengths(number, one, one / 3)
    torch.testing.assert_close(third, paths.lengths())
    anchors = paths.pair == 0
    torch.testing.assert_close(
        curves.points(paths.pair[anchors], paths.position[anchors]), paths.start[anchors], rtol=0, atol=1e-12
    )
    again = curves.add(paths)
    assert again == 4 and torch.equal(curves.points(number + 4, one / 2), curves.points(number, one / 2))

    # bottom and left share their start, and so on: a patch has its sides as its edges, and is linear between lines
    corners = plane((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
    lines = find_paths(
        Shells(([0.0, 0.0], 0.0, 9.0)), corners[[0, 2, 0, 1]], corners[[1, 3, 2, 3]], target, one, **search
    )
    zeros = torch.zeros(1, 4, dtype=torch.float64)
    quad = Quads(torch.zeros(1, dtype=torch.int64), number[None], zeros, zeros + 1, zeros[:, :2])
    u, v = torch.tensor([0.3]).double(), torch.tensor([0.8]).double()
    torch.testing.assert_close(quad.points(Curves(lines), u, v, OPEN).flatten(), torch.cat([u, v]))
    boxed = quad.points(Curves(lines), u, v, Box(0.4, 0.6)).flatten()
    assert boxed.tolist() == [0.4, 0.6]


def test_neither_batch_nor_order_matters() -> None:
    model = bumpy()
    whole = measured(model, IMAGES, box=UNIT, loops=None, levels=3, batch_size=16)
    assert len(whole["row"]) >= 7 and any(whole["converged"]) and not all(whole["patch"])
    other = measured(model, IMAGES, box=UNIT, loops=None, levels=3, batch_size=3)
    for name, column in whole.items():
        assert column == pytest.approx(other[name]), name
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    ids = [f"id{row}" for row in order.tolist()]
    table = measured(model, IMAGES[order], box=UNIT, loops=None, levels=3, seeds=order, ids=ids)
    place = {row: index for index, row in enumerate(order[table["row"]].tolist())}
    for index, row in enumerate(whole["row"]):
        for name in COLUMNS:
            assert whole[name][index] == pytest.approx(table[name][place[row]]), name
    predicted = predictions(model, IMAGES)
    members = [whole["row"], *([int(i[2:]) for i in whole[n]] for n in ("second", "third", "fourth"))]
    assert all(predicted[loop].tolist() == [own] * 4 for *loop, own in zip(*members, whole["class"], strict=True))
    assert len({row for column in members for row in column}) == 4 * len(whole["row"]), "groups are disjoint"


def test_a_second_search_takes_the_place_of_a_first_that_failed() -> None:
    first = {"converged": [True, False, False], "quads": [1, None, None]}
    first |= {"forward_passes": [5, 6, 7], "backward_passes": [0, 1, 2]}
    second = {"converged": [False, True], "quads": [None, 4], "forward_passes": [10, 20], "backward_passes": [3, 4]}
    _merge(first, [1, 2], second)
    assert first["converged"] == [True, False, True] and first["quads"] == [1, None, 4]
    assert first["forward_passes"] == [5, 16, 27] and first["backward_passes"] == [0, 4, 6]
