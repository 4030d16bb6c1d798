"""The box of valid images: nearest points, excess and diameter, in the pixels and behind the frequency flip."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip
from pipeline.numerics.norms import length

SHAPE = (2, 5, 4)
FLIPPED = Box(0, 1, flipped=True)
BOXES = [UNIT, FLIPPED, Box(-0.5, 2), Box(-2, 0.25, flipped=True), Box(-math.inf, 0.5), Box(-math.inf, 1, flipped=True)]


def points(count: int = 50, spread: float = 1.5, seed: int = 0) -> Tensor:
    return spread * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("box", BOXES)
def test_clip_gives_the_nearest_point(box: Box) -> None:
    outside = points()
    nearest = box.clip(outside)
    assert (box.excess(nearest) < 1e-12).all() and (box.excess(outside) > 0).any()
    # a point of a convex set is the nearest one if and only if no other lies on the far side of it
    away, behind = outside - nearest, (flip if box.flipped else torch.clone)
    low, high = max(box.low, -100), min(box.high, 100)
    corner = behind(torch.where(behind(away) > 0, high, low).double())  # the farthest of the box along `away`
    assert ((away * (corner - nearest)).flatten(1).sum(dim=1) < 1e-9).all()
    torch.testing.assert_close(box.clip(nearest), nearest, rtol=0, atol=1e-12)


@pytest.mark.parametrize("box", [UNIT, FLIPPED])
def test_clip_never_takes_a_point_farther_from_one_in_the_box(box: Box) -> None:
    inside, outside = box.clip(points(seed=1)), points()
    before, after = length(outside - inside, "l2"), length(box.clip(outside) - inside, "l2")
    assert (after <= before + 1e-12).all()


def test_clip_keeps_the_dtype_and_rounds_once() -> None:
    single = points().float()
    for box in (UNIT, FLIPPED):
        assert box.clip(single).dtype == torch.float32
        assert (box.clip(single) - box.clip(single.double())).abs().max() <= 2**-23
    assert torch.equal(Box(-math.inf, math.inf).clip(single), single)


def test_excess_is_that_of_the_farthest_pixel() -> None:
    pixels = torch.full((4, *SHAPE), 0.5, dtype=torch.float64)
    pixels[1, 0, 1, 2], pixels[1, 1, 0, 0] = 1.25, -0.75
    pixels[2, 1, 3, 3] = 1.0
    pixels[3, 0, 0, 0] = torch.nan
    expected = torch.tensor([0, 0.75, 0, torch.inf]).double()
    torch.testing.assert_close(UNIT.excess(pixels), expected, rtol=0, atol=0)
    torch.testing.assert_close(FLIPPED.excess(flip(pixels)), expected, rtol=0, atol=1e-12)
    infinite = pixels.clone()
    infinite[0, 0, 0, 0] = torch.inf
    assert Box(-math.inf, math.inf).excess(infinite).tolist() == [math.inf, 0, 0, math.inf]


@pytest.mark.parametrize("size", [8, 32])
def test_excess_of_flipped_float32_images_is_rounding(size: int) -> None:
    images = torch.rand(20, 3, size, size, generator=torch.Generator().manual_seed(3)).round()
    for found in (flip(images), FLIPPED.clip(flip(images) + 0.3), flip(torch.ones_like(images))):
        assert found.dtype == torch.float32
        assert (FLIPPED.excess(found) < 2**-21).all()


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
@pytest.mark.parametrize("box", [UNIT, FLIPPED, Box(-0.5, 2)])
def test_diameter_is_never_exceeded(norm: str, box: Box) -> None:
    corners = torch.where(points(400) > 0, box.high, box.low).double()
    opposite = box.low + box.high - corners
    move = flip if box.flipped else torch.clone
    distances = length(move(corners) - move(opposite), norm)
    diameter = box.diameter(SHAPE, norm)
    assert (distances <= diameter + 1e-9).all()
    if norm == "l2" or not box.flipped:  # opposite corners are that far apart
        torch.testing.assert_close(distances, torch.full_like(distances, diameter))


def test_linf_diameter_of_a_flipped_box_is_reached() -> None:
    entries = math.prod(SHAPE)
    weights = flip(torch.eye(entries, dtype=torch.float64).view(entries, *SHAPE)).flatten(1)
    corners = (weights > 0).double().view(entries, *SHAPE)  # where each entry of the flip is largest
    distances = length(flip(corners) - flip(1 - corners), "linf")
    assert float(distances.max()) == pytest.approx(FLIPPED.diameter(SHAPE, "linf"))
    assert FLIPPED.diameter(SHAPE, "linf") < FLIPPED.diameter(SHAPE, "l2")


def test_diameter_of_other_boxes() -> None:
    assert [UNIT.diameter((1, 4, 4), norm) for norm in ("l1", "l2", "linf", "l0")] == [16, 4, 1, 16]
    assert all(math.isinf(Box(-math.inf, 1, flipped).diameter((1, 4, 4), "linf")) for flipped in (False, True))
