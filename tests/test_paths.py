"""Paths inside classes and points pushed into them, on models whose regions are known: balls, halfspaces, annuli."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.paths import Paths, enter, find_paths, inside
from tests.oracles import Affine, Constant, predictions

OPEN = Box(-math.inf, math.inf)


class Shells(nn.Module):
    """Class 1 where one of the signed functions is positive: regions around centres; class 0 elsewhere."""

    def __init__(self, *shells: tuple[list[float], float, float]) -> None:
        """Shells are (centre, inner radius, outer radius); a ball has the inner radius 0."""
        super().__init__()
        self.shells = shells
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        points = images.flatten(1)
        values = []
        for centre, inner, outer in self.shells:
            radius = (points - points.new_tensor(centre)).norm(dim=1)
            values.append(torch.minimum(radius - inner, outer - radius) if inner else outer - radius)
        value = torch.stack(values, dim=1).amax(dim=1)
        return torch.stack([-value, value], dim=1)


class Fed(nn.Module):
    """Another model that refuses an empty batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        assert len(images)
        logits: Tensor = self.model(images)
        return logits


def plane(*points: tuple[float, ...]) -> Tensor:
    return torch.tensor(points, dtype=torch.float64)[:, None, None, :]


def join(model: nn.Module, start: Tensor, end: Tensor, box: Box = OPEN, **options: Any) -> Paths:
    given: dict[str, Any] = {"depth": 12, "steps": 50, "overshoot": 1.0, "batch_size": 64, **options}
    target = torch.ones(len(start), dtype=torch.int64)
    spacing = given.pop("spacing", (end - start).flatten(1).norm(dim=1) / 51)
    return find_paths(model, start, end, target, spacing, box=box, **given)


def on_circle(*angles: float, radius: float = 1.0) -> Tensor:
    return plane(*[(radius * math.cos(math.radians(a)), radius * math.sin(math.radians(a))) for a in angles])


def check(model: nn.Module, paths: Paths, start: Tensor, end: Tensor) -> None:
    """Each path goes from its start to its end without a gap, over anchors of the class."""
    assert torch.equal(paths.pair.unique(), paths.connected.nonzero().squeeze(1))
    for pair in paths.pair.unique().tolist():
        own = paths.pair == pair
        first, last = paths.start[own], paths.end[own]
        assert torch.equal(first[0], start[pair]) and torch.equal(last[-1], end[pair])
        assert torch.equal(last[:-1], first[1:])
        assert bool((paths.position[own].diff() == paths.width[own][:-1]).all())
        assert float(paths.width[own].sum()) == 1
        assert predictions(model, last[:-1]).tolist() == [1] * (len(last) - 1)
        assert int(paths.anchors()[pair]) == len(last) - 1


def test_a_ball_is_convex() -> None:
    model = Shells(([0.0, 0.0, 0.0], 0.0, 1.0))
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(40, 1, 1, 3, generator=generator, dtype=torch.float64)
    points = 0.99 * points / points.flatten(1).norm(dim=1)[:, None, None, None]
    paths = join(model, points[:20], points[20:])
    assert paths.connected.all() and paths.straight.all()
    assert paths.anchors().tolist() == [0] * 20 and paths.depth.tolist() == [0] * 20
    torch.testing.assert_close(paths.lengths(), (points[:20] - points[20:]).flatten(1).norm(dim=1), rtol=1e-12, atol=0)
    assert paths.forward.tolist() == [51] * 20 and not paths.backward.any()


def test_two_balls_of_one_class_are_not_connected() -> None:
    model = Shells(([0.0, 0.0], 0.0, 1.0), ([3.0, 0.0], 0.0, 1.0))
    start, end = plane((0.0, 0.0), (0.0, 0.0), (2.5, 0.0)), plane((3.0, 0.0), (0.5, 0.5), (3.2, 0.4))
    paths = join(model, start, end)
    assert paths.connected.tolist() == [False, True, True]
    assert paths.straight.tolist() == [False, True, True]
    assert paths.anchors().tolist() == [-1, 0, 0] and paths.lengths()[0] == 0
    check(model, paths, start, end)


@pytest.mark.parametrize("hole", [0.3, 0.9])
def test_an_annulus_is_connected_but_not_convex(hole: float) -> None:
    model = Shells(([0.0, 0.0], hole, 2.0))
    start, end = on_circle(0, 0, 10, 90), on_circle(179, 120, 30, 275)
    paths = join(model, start, end)
    assert paths.connected.all()
    straight = (start + end).flatten(1).norm(dim=1) / 2 > hole  # the middle of the chord is its nearest point
    assert paths.straight.tolist() == straight.tolist()
    check(model, paths, start, end)
    distance = (end - start).flatten(1).norm(dim=1)
    for pair, angle in enumerate((179, 120, 20, 175)):
        if straight[pair]:
            assert float(paths.lengths()[pair]) == pytest.approx(float(distance[pair]), rel=1e-12)
            continue
        tangent = math.acos(hole)  # of the points at radius 1 to the hole
        shortest = 2 * math.sqrt(1 - hole**2) + hole * (math.radians(angle) - 2 * tangent)
        assert shortest * (1 - 1e-3) <= float(paths.lengths()[pair]) <= 2.2 * shortest


def test_nested_rings_of_one_class_stay_apart() -> None:
    model = Shells(([0.0, 0.0], 0.0, 0.5), ([0.0, 0.0], 1.0, 1.5))
    start = torch.cat([plane((0.0, 0.0)), on_circle(0, 0, radius=1.2), plane((0.3, 0.0))])
    end = torch.cat([plane((1.2, 0.0)), on_circle(100, 180, radius=1.2), plane((-0.3, 0.1))])
    paths = join(model, start, end)
    # The third pair could be joined around the ring, but its middle lies in the inner ball, which the search keeps to.
    assert paths.connected.tolist() == [False, True, False, True]
    assert paths.straight.tolist() == [False, False, False, True]
    check(model, paths, start, end)


def test_points_enter_a_halfspace_by_the_shortest_way() -> None:
    model = Affine(torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double(), torch.tensor([0.0, -10.0]).double())
    points = plane((0.0, 0.0), (4.0, 4.0), (-1.0, 2.0))
    target = torch.ones(3, dtype=torch.int64)
    found = enter(model, points, target, steps=5, overshoot=0.5, box=OPEN, batch_size=2)
    assert found.found.all()
    # by (10 - w x) / 25 * w, and half as much more
    expected = torch.tensor([[1.8, 2.4], [4.0, 4.0], [-0.1, 3.2]], dtype=torch.float64)
    torch.testing.assert_close(found.points.flatten(1), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.points[1], points[1]) and found.backward.tolist() == [2, 0, 2]


def test_points_do_not_enter_where_gradients_vanish_or_steps_run_out() -> None:
    points = plane((0.2, 0.2), (0.8, 0.3))
    target = torch.ones(2, dtype=torch.int64)
    search: dict[str, Any] = {"overshoot": 1.0, "box": OPEN, "batch_size": 2}
    found = enter(Constant([1.0, 0.0]), points, target, steps=5, **search)
    assert not found.found.any() and torch.equal(found.points, points)
    model = Shells(([3.0, 0.0], 0.0, 1.0))
    assert not enter(model, points, target, steps=0, **search).found.any()
    assert enter(model, points, target, steps=1, **search).found.all()


def test_paths_keep_to_the_box() -> None:
    # The hole reaches over the upper edge of the unit square's middle: the only way is below it.
    model = Shells(([0.5, 0.8], 0.35, 5.0))
    start, end = plane((0.05, 0.7)), plane((0.95, 0.7))
    paths = join(model, start, end, box=UNIT)
    assert paths.connected.all() and not paths.straight.any()
    assert UNIT.excess(paths.start).max() == 0 and UNIT.excess(paths.end).max() == 0
    check(model, paths, start, end)


def test_a_point_on_the_bound_slides_along_it() -> None:
    model = Affine(torch.tensor([[0.0, 0.0], [2.0, 1.0]]).double(), torch.tensor([0.0, -2.5]).double())
    found = enter(
        model, plane((1.0, 0.1)), torch.ones(1, dtype=torch.int64), steps=3, overshoot=0.5, box=UNIT, batch_size=1
    )
    assert found.found.all() and found.backward.tolist() == [2]  # in one step: the blocked entry is left out
    torch.testing.assert_close(found.points.flatten(), torch.tensor([1.0, 0.7], dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_tie_is_not_inside() -> None:
    logits = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, math.nan]])
    assert inside(logits, torch.ones(3, dtype=torch.int64)).tolist() == [False, True, False]
