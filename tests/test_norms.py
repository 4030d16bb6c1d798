"""Norms, steps, projections and draws of the lp balls; their common points with the box; Dykstra's projection."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from pipeline.attacks.ascent import move, projected_ascent, restrict
from pipeline.numerics import norms
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.dykstra import nearest_common_point
from pipeline.numerics.frequency import flip

NORMS = ("l1", "l2", "linf")
FLIPPED = Box(0.0, 1.0, True)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pictures(n: int, channels: int = 1, side: int = 4) -> Tensor:
    """Images of which many pixels are black or white."""
    return (0.5 + 0.6 * draws(n, channels, side, side, seed=1)).clamp(0, 1)


def nearest_in_l1_ball(point: np.ndarray, epsilon: float) -> np.ndarray:
    """By trying every support: on the right one the projection is a shift of the magnitudes by a constant."""
    if np.abs(point).sum() <= epsilon:
        return point
    best = np.zeros_like(point)
    for size in range(1, len(point) + 1):
        for support in map(list, itertools.combinations(range(len(point)), size)):
            magnitudes = np.abs(point[support])
            shrunk = magnitudes - (magnitudes.sum() - epsilon) / size
            if (shrunk >= 0).all():
                candidate = np.zeros_like(point)
                candidate[support] = np.sign(point[support]) * shrunk
                if ((candidate - point) ** 2).sum() < ((best - point) ** 2).sum():
                    best = candidate
    return best


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 4.0, 100.0])
def test_l1_projection_is_the_nearest_point(epsilon: float) -> None:
    shift = torch.cat((draws(20, 1, 2, 3), torch.ones(1, 1, 2, 3), torch.zeros(1, 1, 2, 3)))
    found = norms.project(shift, "l1", epsilon)
    expected = np.stack([nearest_in_l1_ball(row, epsilon) for row in shift.flatten(1).numpy()])
    np.testing.assert_allclose(found.flatten(1).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_idempotent_and_keeps_what_is_inside(norm: str) -> None:
    shift = draws(9, 3, 4, 4)
    shift[0] *= 1e-3
    found = norms.project(shift, norm, 0.7)
    assert (norms.length(found, norm) <= 0.7 + 1e-12).all()
    torch.testing.assert_close(norms.project(found, norm, 0.7), found)
    torch.testing.assert_close(found[0], shift[0])


def test_shrinking_with_limits_is_the_nearest_point() -> None:
    shift, limit = 2 * draws(12, 6), draws(12, 6, seed=3).abs()
    limit[:, 0] = 0
    found = norms.shrink(shift, 1.5, limit)
    assert (found.abs() <= limit + 1e-12).all()
    assert (found * shift >= 0).all(), "so that magnitudes are enough to compare"
    for point, high, mine in zip(shift.abs().numpy(), limit.numpy(), found.abs().numpy(), strict=True):
        solved = minimize(
            lambda d, p=point: ((d - p) ** 2).sum(),
            np.zeros(6),
            jac=lambda d, p=point: 2 * (d - p),
            bounds=[(0, h) for h in high],
            constraints={"type": "ineq", "fun": lambda d: 1.5 - d.sum(), "jac": lambda d: -np.ones(6)},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(mine, solved.x, atol=1e-6)


def test_sparse_step_shares_one_unit_among_the_largest_entries() -> None:
    gradient = draws(5, 3, 10, 10)
    step = norms.steepest(gradient, "l1").flatten(1)
    torch.testing.assert_close(step.abs().sum(1), torch.ones(5, dtype=torch.float64))
    assert ((step != 0).sum(1) == 3).all(), "one per cent of 300 entries"
    smallest_taken = gradient.flatten(1).abs().masked_fill(step == 0, math.inf).amin(1)
    largest_left = gradient.flatten(1).abs().masked_fill(step != 0, 0).amax(1)
    assert (smallest_taken >= largest_left).all()
    assert (step * gradient.flatten(1) >= 0).all()
    few = norms.steepest(torch.tensor([[0.0, -3.0, 1.0]]), "l1")
    assert few.tolist() == [[0, -1, 0]], "one entry at least"


def test_steps_along_tiny_zero_and_broken_gradients() -> None:
    gradient = torch.stack([torch.full((1, 3, 3), 1e-30), torch.zeros(1, 3, 3), torch.full((1, 3, 3), torch.nan)])
    for norm in NORMS:
        torch.testing.assert_close(
            norms.length(norms.steepest(gradient, norm), norm), torch.tensor([1.0, 0.0, 0.0]), msg=norm
        )


@pytest.mark.parametrize("norm", NORMS)
def test_draws_fill_the_ball_uniformly(norm: str) -> None:
    shift = norms.uniform_in_ball((4000, 1, 1, 3), norm, torch.Generator().manual_seed(0))
    assert shift.shape == (4000, 1, 1, 3)
    # the radius r of a uniform draw has P(radius < r) = r^3, so r^3 is uniform; standard error 0.005
    assert norms.length(shift, norm).pow(3).mean().item() == pytest.approx(0.5, abs=0.02)
    assert norms.length(shift, norm).max() <= 1
    octants = (shift.flatten(1) > 0).float() @ torch.tensor([1.0, 2.0, 4.0])
    assert torch.bincount(octants.long()).min() > 400, "500 each"
    # the second moment of one coordinate, by integration over the ball
    expected = {"l1": 1 / 10, "l2": 1 / 5, "linf": 1 / 3}[norm]
    assert shift.pow(2).mean().item() == pytest.approx(expected, rel=0.05)
    again = norms.uniform_in_ball((4000, 1, 1, 3), norm, torch.Generator().manual_seed(0))
    assert torch.equal(again, shift)


def test_dykstra_finds_the_nearest_point_of_two_discs() -> None:
    centre = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def left(point: Tensor) -> Tensor:
        return point / point.norm().clamp(min=1)

    def right(point: Tensor) -> Tensor:
        return left(point - centre) + centre

    start = torch.tensor([1.5, 2.0], dtype=torch.float64)
    nearest = left(start)  # lies in the right disc too; plain alternation that begins there ends elsewhere
    for first, second in ((left, right), (right, left)):
        found = nearest_common_point(start, first, second, 2000)
        torch.testing.assert_close(found, nearest, atol=1e-3, rtol=0)
    inside = torch.tensor([0.6, 0.1], dtype=torch.float64)
    torch.testing.assert_close(nearest_common_point(inside, left, right, 3), inside)


@pytest.mark.parametrize("box", [UNIT, FLIPPED, Box(-0.5, 1.2)])
@pytest.mark.parametrize("norm", NORMS)
def test_restricted_points_lie_in_ball_and_box(norm: str, box: Box) -> None:
    pixels = pictures(8, 3)
    clean = flip(pixels) if box.flipped else pixels
    for epsilon in (0.0, 0.2, 3.0, 100.0):
        found = restrict(clean, clean + 0.5 * draws(8, 3, 4, 4, seed=2), norm=norm, epsilon=epsilon, box=box)
        assert (norms.length(found - clean, norm) <= epsilon + 1e-9).all()
        assert (box.excess(found) < 1e-9).all()
        if norm != "l1" or epsilon:
            near = clean + 1e-9 * draws(8, 3, 4, 4, seed=2)
            torch.testing.assert_close(
                restrict(clean, near, norm=norm, epsilon=epsilon, box=box), clean, atol=1e-8, rtol=0
            )


@pytest.mark.parametrize("norm", ["l1", "linf"])
@pytest.mark.parametrize("flipped", [False, True])
def test_restricted_points_are_the_nearest(norm: str, flipped: bool) -> None:
    box, side = Box(0.0, 1.0, flipped), 2
    pixels = pictures(6, 1, side)
    clean = flip(pixels) if flipped else pixels
    target = clean + 0.8 * draws(6, 1, side, side, seed=5)
    epsilon = 0.9 if norm == "l1" else 0.35
    found = restrict(clean, target, norm=norm, epsilon=epsilon, box=box)
    rows = flip(torch.eye(side * side, dtype=torch.float64).view(-1, 1, side, side)).flatten(1).numpy().T
    to_pixels = rows if flipped else np.eye(side * side)
    split = np.hstack((np.eye(4), -np.eye(4)))  # shift = up - down, both >= 0, which makes the l1 norm linear
    for centre, goal, mine in zip(clean.flatten(1).numpy(), target.flatten(1).numpy(), found.flatten(1), strict=True):
        constraints = [
            {"type": "ineq", "fun": lambda d, c=centre: to_pixels @ (c + split @ d)},
            {"type": "ineq", "fun": lambda d, c=centre: 1 - to_pixels @ (c + split @ d)},
        ]
        if norm == "l1":
            constraints.append({"type": "ineq", "fun": lambda d: epsilon - d.sum()})
        solved = minimize(
            lambda d, c=centre, g=goal: ((c + split @ d - g) ** 2).sum(),
            np.full(8, 1e-3),
            bounds=[(0, epsilon)] * 8,
            constraints=constraints,
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 300},
        )
        nearest = ((centre + split @ solved.x - goal) ** 2).sum() ** 0.5
        assert np.linalg.norm(mine.numpy() - goal) == pytest.approx(nearest, rel=0.01 if flipped else 1e-5)


def test_clipping_towards_a_box_that_holds_the_centre_never_leaves_a_ball() -> None:
    """What `restrict` relies on: entrywise in pixels for every norm, and in l2 behind the flip."""
    pixels, far = pictures(50, 3), 2 * draws(50, 3, 4, 4, seed=7)
    assert ((UNIT.clip(pixels + far) - pixels).abs() <= far.abs() + 1e-12).all()
    clean = flip(pixels)
    assert (norms.l2(FLIPPED.clip(clean + far) - clean) <= norms.l2(far) + 1e-12).all()
    corner = 0.3 * far.sign()
    assert (norms.linf(FLIPPED.clip(clean + corner) - clean) > 0.31).any(), "else Dykstra would not be needed"


def test_an_l1_step_leaves_out_what_the_box_blocks() -> None:
    clean = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    gradient = torch.tensor([-9.0, 1.0, 5.0]).view(1, 1, 1, 3)
    moved = move(clean, clean, gradient, norm="l1", epsilon=1.0, step_size=0.25)
    torch.testing.assert_close(moved.flatten(), torch.tensor([0.0, 0.75, 1.0]))


@pytest.mark.parametrize("norm", NORMS)
def test_ascent_on_an_affine_classifier_reaches_the_closed_form(norm: str) -> None:
    """Of two classes the loss grows along the difference of the weights; the box matters for l1 and linf alone here."""
    weights = draws(2, 9, seed=4)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 2, bias=False).double())
    model[1].weight.data = weights
    clean = pictures(5, 1, 3) if norm != "l2" else torch.full((5, 1, 3, 3), 0.5, dtype=torch.float64)
    labels = torch.zeros(5, dtype=torch.long)
    uphill = (weights[1] - weights[0]).view(1, 1, 3, 3)
    epsilon = {"l1": 1.5, "l2": 0.3, "linf": 0.4}[norm]
    found = projected_ascent(
        model=model, images=clean, labels=labels, start=clean, norm=norm, epsilon=epsilon, step_size=epsilon / 10,
        steps=80,
    )  # fmt: skip
    if norm == "l2":
        best = clean + epsilon * uphill / uphill.norm()
    elif norm == "linf":
        best = (clean + epsilon * uphill.sign()).clamp(0, 1)
    else:  # spend the budget on the steepest pixels first, as far as the box lets each go
        best = clean.clone()
        for row in best.view(5, -1):
            left = epsilon
            for pixel in uphill.flatten().abs().argsort(descending=True):
                room = 1 - row[pixel] if uphill.flatten()[pixel] > 0 else row[pixel].clone()
                used = min(left, float(room))
                row[pixel] += used * uphill.flatten()[pixel].sign()
                left -= used
    gain = ((found - clean) * uphill).flatten(1).sum(1)
    torch.testing.assert_close(
        gain, ((best - clean) * uphill).flatten(1).sum(1), rtol=0.02 if norm == "l1" else 1e-6, atol=0
    )
