"""Principal curvatures of boundaries that are known, and of networks against dense Hessians."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline import registry
from pipeline.contracts import View
from pipeline.measurements.curvature import COLUMNS, curvature, find_crossings
from pipeline.numerics.spectra import tangents
from tests.oracles import Rescaled, affine, grey_images, network, predictions

SHAPE = (1, 2, 3)
D = 6


class Level(nn.Module):
    """Two classes with the boundary F(x) = 0: logits 0 and F."""

    def __init__(self, level: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.level = level
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        values = self.level(images.flatten(1))
        return torch.stack([torch.zeros_like(values), values], dim=1)


def cylinder(axes: int, radius: float) -> Level:
    """F = |x|^2 - R^2 in the first axes: a ball if they are all of them."""
    return Level(lambda x: x[:, :axes].square().sum(dim=1) - radius**2)


def rays(count: int, length: float, axes: int = D) -> tuple[Tensor, Tensor]:
    """Images near the origin, and those moved along random directions of the first axes."""
    generator = torch.Generator().manual_seed(3)
    start = 0.05 * torch.randn(count, D, dtype=torch.float64, generator=generator)
    towards = torch.randn(count, D, dtype=torch.float64, generator=generator)
    towards[:, axes:] = 0
    end = start + length * towards / towards.norm(dim=1, keepdim=True)
    return start.view(count, *SHAPE), end.view(count, *SHAPE)


def measured(model: nn.Module, images: Tensor, perturbed: Tensor, batch_size: int = 256, **options: Any) -> Any:
    """Columns as lists of floats where they are numbers."""
    options = {"radii": [0.1], **options}
    return curvature(
        model=model,
        images=images,
        labels=predictions(model, images),
        seeds=torch.arange(100, 100 + len(images)),
        views=[View("df", "attack", None, perturbed, {})],
        batch_size=batch_size,
        **options,
    )


@pytest.mark.parametrize("full_below", [256, 0])
def test_a_ball_is_curved_by_one_over_its_radius(full_below: int) -> None:
    """Positive: the region of the image is convex. F is quadratic, so differences are exact."""
    clean, perturbed = rays(4, 5.0)
    table = measured(cylinder(D, 2.0), clean, perturbed, exact=True, full_below=full_below)
    assert set(table) == {"row", *COLUMNS}
    assert table["converged"] == [True] * 8
    assert (table["prediction"], table["other"]) == ([0] * 8, [1] * 8)
    assert (table["radius"], table["exact"]) == ([0.1] * 4 + [None] * 4, [False] * 4 + [True] * 4)
    for column in ("smallest", "largest", "mean"):
        assert table[column] == pytest.approx([0.5] * 8, rel=1e-6)
    assert table["slope"] == pytest.approx([4.0] * 8)
    assert max(table["gap"]) < 1e-9
    assert max(table["asymmetry"]) < 1e-6
    assert (table["flat"], table["negative"]) == ([0.0] * 8, [0.0] * 8)
    assert table["positive"] == pytest.approx([1.0] * 8)
    assert all(sum(weights) == pytest.approx(1) for weights in table["weights"])
    # the distance is that to the sphere along the ray
    start, towards = clean.flatten(1), (perturbed - clean).flatten(1) / 5
    along = (start * towards).sum(dim=1)
    expected = -along + (along**2 + 4 - start.square().sum(dim=1)).sqrt()
    assert table["distance"] == pytest.approx((2 * expected.tolist()), rel=1e-9)
    # F(x + r) - F(x) - <grad F, r> = |r|^2
    assert table["nonlinearity"] == pytest.approx((25 / (4 - start.square().sum(dim=1))).tolist() * 2)


def test_the_outside_of_a_ball_is_curved_the_other_way() -> None:
    clean, perturbed = rays(3, 5.0)
    table = measured(cylinder(D, 2.0), perturbed, clean)
    assert table["mean"] == pytest.approx([-0.5] * 3)
    assert table["prediction"] == [1] * 3


@pytest.mark.parametrize("axes", [2, 4])
def test_a_cylinder_is_curved_in_some_directions(axes: int) -> None:
    clean, perturbed = rays(3, 3.0, axes)
    table = measured(cylinder(axes, 1.0), clean, perturbed)
    for nodes in table["nodes"]:
        assert nodes == pytest.approx([0] * (D - axes) + [1] * (axes - 1), abs=1e-6)
    assert table["flat"] == pytest.approx([(D - axes) / (D - 1)] * 3)


def test_a_saddle_has_both_signs() -> None:
    """F = x_0 + (2 x_1^2 - 3 x_2^2) / 2 at the origin, with images on the axis of x_0."""
    model = Level(lambda x: x[:, 0] + x[:, 1] ** 2 - 1.5 * x[:, 2] ** 2)
    clean = torch.zeros(1, *SHAPE, dtype=torch.float64)
    clean[0, 0, 0, 0] = -0.4
    table = measured(model, clean, -clean)
    assert table["nodes"][0] == pytest.approx([-3, 0, 0, 0, 2], abs=1e-6)
    assert (table["smallest"][0], table["largest"][0], table["mean"][0]) == pytest.approx((-3, 2, -0.2))
    assert [table[name][0] for name in ("flat", "negative", "positive")] == pytest.approx([0.6, 0.2, 0.2])


def quadratic(entries: int, seed: int = 0) -> tuple[Level, Tensor, Tensor]:
    """F = <b, x> + x^T A x / 2, its matrix, and its slope."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(entries, entries, dtype=torch.float64, generator=generator) / math.sqrt(entries)
    matrix, slope = half + half.mT, torch.randn(entries, dtype=torch.float64, generator=generator)
    return Level(lambda x: x @ slope + ((x @ matrix) * x).sum(dim=1) / 2), matrix, slope


def through_origin(slope: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    end = (0.01 * slope / slope.norm()).view(1, *shape)
    return -end, end


def test_quadratic_against_the_dense_projected_hessian() -> None:
    model, matrix, slope = quadratic(D)
    table = measured(model, *through_origin(slope, SHAPE))
    normal = slope / slope.norm()
    off = torch.eye(D, dtype=torch.float64) - torch.outer(normal, normal)
    values = torch.linalg.eigvalsh(off @ matrix @ off / slope.norm())
    expected = values[values.abs().argsort()[1:]].sort().values  # but for the zero along the normal
    assert table["nodes"][0] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-4)


def test_quadrature_has_the_ends_and_the_trace() -> None:
    shape = (1, 10, 10)
    model, matrix, slope = quadratic(100)
    clean, perturbed = through_origin(slope, shape)
    dense = measured(model, clean, perturbed)
    table = measured(model, clean, perturbed, full_below=10, iterations=50, probes=6)
    assert len(table["nodes"][0]) == len(table["weights"][0]) == 300
    for end in ("smallest", "largest"):
        assert table[end] == pytest.approx(dense[end], rel=0.01)
    # the error of a mean over 6 probes: root of 2 |A|^2 / d^2 / 6
    normal = slope / slope.norm()
    error = math.sqrt(2 / 6) * float(matrix.norm()) / 100 / float(slope.norm())
    assert abs(table["mean"][0] - dense["mean"][0]) < 4 * error
    second = [sum(w * k**2 for w, k in zip(t["weights"][0], t["nodes"][0], strict=True)) for t in (table, dense)]
    assert second[0] == pytest.approx(second[1], rel=0.3)
    assert abs(float(normal @ normal) - 1) < 1e-12


def test_scaled_and_shifted_logits_change_nothing() -> None:
    model = network(SHAPE, 3)
    clean = grey_images(6, SHAPE, 0.4)
    perturbed = 1 - clean
    one = measured(model, clean, perturbed, exact=True)
    other = measured(Rescaled(model, 7.0, -2.0), clean, perturbed, exact=True)
    assert sum(one["converged"]) >= 2
    for column in ("smallest", "largest", "mean", "flat", "distance", "asymmetry", "nonlinearity"):
        kept = [value for value in one[column] if value is not None]
        assert [value for value in other[column] if value is not None] == pytest.approx(kept, rel=1e-4, abs=1e-6)


def test_affine_boundaries_are_flat() -> None:
    clean = grey_images(5, SHAPE, 0.4)
    table = measured(affine(SHAPE, 3), clean, 1 - clean, exact=True)
    assert any(table["converged"])
    for flat, largest, odd in zip(table["flat"][5:], table["largest"][5:], table["nonlinearity"][5:], strict=True):
        assert (flat, largest) in ((1.0, 0.0), (None, None))
        assert odd is None or odd < 1e-9
    assert max(abs(value) for value in table["largest"] if value is not None) < 1e-9


def test_rectifiers_are_flat_but_for_differences() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, 40), nn.ReLU(), nn.Linear(40, 3)).double().requires_grad_(False)
    clean = torch.randn(8, *SHAPE, dtype=torch.float64)
    table = measured(model, clean, -clean, exact=True, radii=[0.5])
    known = [row for row in range(8) if table["converged"][row]]
    assert len(known) >= 2
    assert all(table["largest"][8 + row] == 0 for row in known)
    assert any(table["largest"][row] > 0.01 for row in known)


def test_averages_over_bases_lessen_the_asymmetry() -> None:
    """Of a network whose bends lie closer together than the radius."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, 64), nn.ReLU(), nn.Linear(64, 2)).double().requires_grad_(False)
    clean = torch.randn(8, *SHAPE, dtype=torch.float64)
    means = []
    for draws in (1, 10):
        table = measured(model, clean, -clean, radii=[0.3], draws=draws)
        found = [value for value in table["asymmetry"] if value is not None]
        assert found
        means.append(sum(found) / len(found))
    assert means[1] < 0.5 * means[0]


def test_loss_curvature_of_two_affine_logits() -> None:
    """Cross-entropy of F = <w, x> + b: Hessian s (1 - s) w w^T and gradient s w with s = sigmoid(F); ratio (1-s)|w|."""
    weight = torch.linspace(-1, 2, D, dtype=torch.float64)
    model = Level(lambda x: x @ weight)
    clean = (-0.1 * weight).view(1, *SHAPE)
    table = measured(model, clean, -clean, exact=True, radii=[0.001])
    expected = (1 - torch.sigmoid(-0.1 * weight @ weight)) * weight.norm()
    assert table["loss_curvature"] == pytest.approx([float(expected)] * 2, rel=1e-4)


def test_failures_are_null() -> None:
    """An image that the attack left as it was, one that keeps its class, and one that is attacked."""
    clean, perturbed = rays(3, 5.0)
    perturbed[0], perturbed[1] = clean[0], clean[1] + 0.1
    table = measured(cylinder(D, 2.0), clean, perturbed)
    assert table["converged"] == [False, False, True]
    assert table["other"] == [None, None, 1]
    for name in ("distance", "gap", "slope", "mean", "flat", "nodes", "weights", "loss_curvature", "nonlinearity"):
        assert table[name][:2] == [None, None]
        assert table[name][2] is not None
    nothing = measured(cylinder(D, 2.0), clean, clean)
    assert nothing["nodes"] == [None] * 3
    no_slope = measured(Level(lambda x: (x[:, 0] > 0.5).double() - 0.5 + 0 * x[:, 0]), clean, perturbed + 1)
    assert no_slope["converged"] == [False] * 3
    assert not any(isinstance(v, float) and math.isnan(v) for column in no_slope.values() for v in column)


@pytest.mark.parametrize("full_below", [256, 0])
def test_batches_and_order_do_not_matter(full_below: int) -> None:
    model, clean = network(SHAPE, 3), grey_images(7, SHAPE, 0.4)
    options: dict[str, Any] = {"full_below": full_below, "draws": 2, "radii": [0.2], "iterations": 3}
    whole = measured(model, clean, 1 - clean, **options)
    assert sum(whole["converged"]) >= 3
    for batch_size in (1, 3):
        part = measured(model, clean, 1 - clean, batch_size, **options)
        for name in ("largest", "smallest", "mean", "asymmetry", "loss_curvature"):
            kept = [value for value in whole[name] if value is not None]
            assert [value for value in part[name] if value is not None] == pytest.approx(kept, rel=1e-6, abs=1e-9)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    mixed = curvature(
        model=model,
        images=clean[order],
        labels=predictions(model, clean)[order],
        seeds=torch.arange(100, 107)[order],
        views=[View("df", "attack", None, 1 - clean[order], {})],
        batch_size=4,
        **options,
    )
    for name in ("largest", "mean", "loss_curvature"):
        expected = [whole[name][row] for row in order.tolist()]
        pairs = zip(mixed[name], expected, strict=True)
        assert all(a == pytest.approx(b, rel=1e-6) if b is not None else a is None for a, b in pairs)
    first = measured(model, clean, 1 - clean, samples=3, **options)
    assert first["row"] == [0, 1, 2]
    assert first["converged"] == whole["converged"][:3]


def test_crossings_lie_on_the_boundary_of_the_first_class_met() -> None:
    """Bands of classes 0, 1, 2 along an axis: the segment from 0 to 2 leaves class 0 for class 1."""

    class Bands(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            place = images.flatten(1)[:, :1]
            return -(place - torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)).abs()

    clean, perturbed = torch.zeros(2, *SHAPE).double(), torch.zeros(2, *SHAPE).double()
    perturbed[0, 0, 0, 0], perturbed[1, 0, 0, 0] = 0.9, 0.49  # the second falls short by 2 %
    found = find_crossings(Bands().eval(), clean, perturbed, 256)
    assert found.found.all()
    assert found.other.tolist() == [1, 1]
    assert found.distance.tolist() == pytest.approx([0.5, 0.5])


def test_tangents_are_orthonormal() -> None:
    normals = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    normals[0], normals[1] = torch.eye(7).double()[0], -torch.eye(7).double()[0]
    normals /= normals.norm(dim=1, keepdim=True)
    basis = tangents(normals)
    assert torch.allclose(basis @ basis.mT, torch.eye(6).double().expand(5, -1, -1), atol=1e-12)
    assert (basis @ normals[:, :, None]).abs().max() < 1e-12


def test_options_are_those_of_the_registry() -> None:
    bound = registry.bind("measurement", "curvature", {"radii": ["1/10"]}, "config.yaml: measurements.curvature")
    assert bound["radii"] == [0.1]
    assert registry.constant("measurement", "curvature", "ACCEPTS") == ("attack",)
