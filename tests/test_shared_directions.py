"""Shared curved directions, on classifiers whose curved directions are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.contracts import UserError, View
from pipeline.measurements.shared_directions import COLUMNS, _subspaces, shared_directions
from tests.oracles import grey_images, network, predictions
from tests.test_curvature import Level, cylinder

SHAPE, SMALL = (1, 4, 4), (1, 2, 3)
D = 16


def measured(model: nn.Module, clean: Tensor, perturbed: Tensor, batch_size: int = 256, **options: Any) -> Any:
    options = {"dimension": 1, "per_point": 1, "radius": 0.1, **options}
    seeds = options.pop("seeds", torch.arange(len(clean)))
    return shared_directions(
        model=model,
        images=clean,
        labels=predictions(model, clean),
        seeds=seeds,
        views=[View("df", "attack", None, perturbed, {})],
        batch_size=batch_size,
        **options,
    )


def known(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def parabola() -> Level:
    """F = x_0 + 4 x_1^2 - 1: the only curved direction at x_1 = 0 is the second axis."""
    return Level(lambda x: x[:, 0] + 4 * x[:, 1] ** 2 - 1)


def along_parabola(count: int = 12) -> tuple[Tensor, Tensor]:
    """Images on the first axis, and perturbations of which the second axis takes 3 parts in 5 (or none, for even)."""
    clean, perturbed = torch.zeros(2, count, D, dtype=torch.float64)
    clean[:, 2:] = torch.rand(count, D - 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    perturbed[:] = clean
    perturbed[:, 0] += 1.6
    perturbed[1::2, 1] += 1.2
    return clean.view(count, *SHAPE), perturbed.view(count, *SHAPE)


@pytest.mark.parametrize("full_below", [256, 0])
def test_a_planted_direction_is_found_and_measured(full_below: int) -> None:
    """The even half, perturbed along the first axis alone, finds the second; the odd half lies in it by 3 in 5."""
    clean, perturbed = along_parabola()
    table = measured(parabola(), clean, perturbed, full_below=full_below, noise=3.0, draws=30)
    assert set(table) == {"row", *COLUMNS}
    assert table["role"] == ["fit", "test"] * 6
    assert table["converged"] == [False, True] * 6
    assert known(table["projected"]) == pytest.approx([0.6] * 6, abs=1e-6)
    assert known(table["chance"]) == [0.25] * 6
    assert known(table["points"]) == [6] * 6
    assert known(table["dimension"]) == [1] * 6
    # at z = (a, b) the normal is (1, 8 b) / s with s^2 = 1 + 64 b^2, so u = e_1 has G_uu = 8 / s^5
    scale = (-4 / 5 + math.sqrt(16 / 25 + 4 * 4 * 9 / 25)) / (2 * 4 * 9 / 25)  # 4/5 t + 4 (3/5 t)^2 = 1
    slope = math.sqrt(1 + 64 * (3 / 5 * scale) ** 2)
    assert known(table["distance"]) == pytest.approx([scale] * 6, rel=1e-6)
    assert known(table["curvature_shared"]) == pytest.approx([8 / slope**5] * 6, rel=1e-5)
    # noise of 3 times the distance along the second axis always crosses; the flat subspace is orthogonal to it
    assert known(table["noise"]) == pytest.approx([3 * scale] * 6, rel=1e-6)
    assert known(table["flips_shared"]) == [30] * 6
    assert max(known(table["curvature_flat"])) < 1.0
    assert sum(known(table["flips_flat"])) < sum(known(table["flips_random"])) < sum(known(table["flips_shared"]))


def test_exact_derivatives() -> None:
    clean, perturbed = along_parabola()
    near, exact = (measured(parabola(), clean, perturbed, radius=radius) for radius in (0.1, None))
    for name in ("curvature_shared", "curvature_random", "projected"):
        assert known(near[name]) == pytest.approx(known(exact[name]), rel=1e-6)


def test_the_subspace_is_made_from_the_other_half_alone() -> None:
    """Test images whose perturbations lie elsewhere do not move it, fitted ones do."""
    clean, perturbed = along_parabola()
    whole = measured(parabola(), clean, perturbed)
    fewer = measured(parabola(), clean[[0, 2, 4, 1]], perturbed[[0, 2, 4, 1]], seeds=torch.tensor([0, 2, 4, 1]))
    for name in ("projected", "curvature_shared"):
        assert known(fewer[name]) == pytest.approx(known(whole[name])[:1])
    assert known(fewer["points"]) == [3]
    swapped = measured(parabola(), clean, perturbed, seeds=torch.arange(1, 13))
    assert known(swapped["projected"]) != pytest.approx(known(whole["projected"]))
    assert swapped["role"] == ["test", "fit"] * 6


def test_dimensions_and_failures() -> None:
    clean, perturbed = along_parabola()
    perturbed[3], perturbed[4] = clean[3], clean[4]  # a test image, and one to be fitted, that were not attacked
    table = measured(parabola(), clean, perturbed)
    assert table["converged"] == [False, True, False, False] + [False, True] * 4
    assert table["other"][2:5] == [1, None, None]
    assert (table["projected"][3], table["flips_flat"][3]) == (None, None)
    assert known(table["points"]) == [5] * 5
    alone = measured(parabola(), clean[1::2], perturbed[1::2], seeds=torch.arange(6) * 2 + 1)
    assert alone["converged"] == [False] * 6
    assert alone["projected"] == [None] * 6
    with pytest.raises(UserError, match="dimension: given 9, expected at most 8"):
        measured(parabola(), clean, perturbed, dimension=9)
    default = measured(parabola(), clean, perturbed, dimension=None, per_point=3)
    assert known(default["dimension"]) == [1] * 5  # 200 / 3072 of 16
    assert measured(parabola(), clean, perturbed, samples=2)["row"] == [0, 1]


def test_all_directions_of_a_ball_are_alike() -> None:
    generator = torch.Generator().manual_seed(1)
    towards = torch.randn(40, D, dtype=torch.float64, generator=generator)
    clean = 0.01 * towards.view(40, *SHAPE)
    perturbed = (3 * towards / towards.norm(dim=1, keepdim=True)).view(40, *SHAPE)
    table = measured(cylinder(D, 2.0), clean, perturbed, dimension=4, per_point=2, lines=64)
    means = {
        kind: sum(known(table[f"curvature_{kind}"])) / len(known(table["dimension"]))
        for kind in ("shared", "flat", "random")
    }
    # u^T P u / R for random u: (1 - 1 / d) / 2
    assert list(means.values()) == pytest.approx([(1 - 1 / D) / 2] * 3, rel=0.1)
    assert sum(known(table["projected"])) / len(known(table["projected"])) == pytest.approx(0.5, abs=0.1)
    assert known(table["flips_random"]) == known(table["draws"])  # longer than the radius


@pytest.mark.parametrize("full_below", [256, 0])
def test_batches_and_order_do_not_matter(full_below: int) -> None:
    model, clean = network(SMALL, 3), grey_images(14, SMALL, 3.0)
    perturbed = clean.roll(1, dims=0)
    options: dict[str, Any] = {"full_below": full_below, "averages": 2, "iterations": 4, "dimension": 2, "radius": 0.2}
    whole = measured(model, clean, perturbed, **options)
    names = ("projected", "curvature_shared", "curvature_flat", "curvature_random", "flips_shared", "flips_flat")
    assert len(known(whole["projected"])) >= 3
    for batch_size in (1, 3):
        part = measured(model, clean, perturbed, batch_size, **options)
        for name in names:
            assert known(part[name]) == pytest.approx(known(whole[name]), rel=1e-6)
    order = torch.randperm(14, generator=torch.Generator().manual_seed(0))
    mixed = measured(model, clean[order], perturbed[order], seeds=order, **options)
    for name in ("projected", "chance", "curvature_random"):
        expected = [whole[name][row] for row in order.tolist()]
        assert known(mixed[name]) == pytest.approx(known(expected), rel=1e-6)
        assert [value is None for value in mixed[name]] == [value is None for value in expected]


def test_subspaces_are_orthonormal_and_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows in (3, 30):  # with room left beside the stack, and without
        stack = torch.randn(rows, 10, dtype=torch.float64, generator=generator)
        shared, flat = _subspaces(stack, 2, 7)
        both = torch.cat([shared, flat])
        assert torch.allclose(both @ both.mT, torch.eye(4, dtype=torch.float64), atol=1e-10)
        assert (stack @ flat.mT).norm() < (stack @ shared.mT).norm()
    assert (stack[:3] @ _subspaces(stack[:3], 2, 7)[1].mT).abs().max() < 1e-12
    assert len(_subspaces(stack[:1], 2, 7)[0]) == 1
