from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor, nn

from pipeline.contracts import UserError
from pipeline.measurements.dct_margin import dct_margin
from pipeline.numerics import boundary
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.crossing import first_beyond
from pipeline.numerics.frequency import flip
from pipeline.numerics.passes import CountedModel
from pipeline.numerics.subspaces import Blocks, dct_matrix, diagonal_starts, grid_starts
from tests.oracles import (
    Affine,
    Constant,
    NanBeyond,
    affine,
    grey_images,
    margins,
    network,
    predictions,
    subspace_margins,
)

SHAPE = (2, 6, 6)
IMAGES = grey_images(9, SHAPE)
LABELS = torch.arange(9) % 3


def measure(model: nn.Module, images: Tensor = IMAGES, labels: Tensor = LABELS, **options: Any) -> dict[str, Any]:
    context: dict[str, Any] = {"size": 2, "step": 2, "batch_size": 16, "mode": "deepfool", **options}
    return dct_margin(model=model, images=images, labels=labels, seeds=torch.arange(len(images)), views=(), **context)


def basis(block: int, blocks: int, size: int, step: int) -> Tensor:
    """Columns of the block's subspace as flattened images, built from scipy's inverse transform of unit vectors."""
    columns = []
    for channel in range(SHAPE[0]):
        for row in range(size):
            for column in range(size):
                plane = np.zeros(SHAPE)
                plane[channel, block * step + row, block * step + column] = 1
                columns.append(scipy.fft.idctn(plane, axes=(-2, -1), norm="ortho").ravel())
    return torch.from_numpy(np.stack(columns, axis=1))


def test_dct_matrix_is_scipys_and_orthonormal() -> None:
    expected = scipy.fft.dct(np.eye(9), axis=0, norm="ortho")
    torch.testing.assert_close(dct_matrix(9), torch.from_numpy(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(dct_matrix(9) @ dct_matrix(9).T, torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-12)
    assert dct_matrix(9, torch.zeros(1)).dtype == torch.float32


@pytest.mark.parametrize(
    ("extent", "size", "step", "count"), [(28, 8, 1, 21), (32, 8, 2, 13), (224, 16, 16, 14), (8, 8, 8, 1), (7, 8, 1, 0)]
)
def test_number_of_blocks(extent: int, size: int, step: int, count: int) -> None:
    assert len(diagonal_starts(extent, extent, size, step)) == count


def test_blocks_are_windows_of_the_coefficient_plane() -> None:
    blocks = Blocks(IMAGES, 3, diagonal_starts(6, 6, 3, 1))
    assert len(blocks) == 4
    block = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 2])
    coefficients = blocks.analyse(IMAGES, block)
    plane = torch.from_numpy(scipy.fft.dctn(IMAGES.numpy(), axes=(-2, -1), norm="ortho"))
    masked = torch.zeros_like(plane)
    for row, t in enumerate(block.tolist()):
        torch.testing.assert_close(coefficients[row], plane[row, :, t : t + 3, t : t + 3], rtol=0, atol=1e-12)
        masked[row, :, t : t + 3, t : t + 3] = plane[row, :, t : t + 3, t : t + 3]
    projected = blocks.synthesise(coefficients, block)
    inverse = torch.from_numpy(scipy.fft.idctn(masked.numpy(), axes=(-2, -1), norm="ortho"))
    torch.testing.assert_close(projected, inverse, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        blocks.synthesise(blocks.analyse(projected, block), block), projected, rtol=0, atol=1e-12
    )
    torch.testing.assert_close(projected.flatten(1).norm(dim=1), coefficients.flatten(1).norm(dim=1))
    stacked = blocks.analyse(torch.stack([IMAGES, 2 * IMAGES], dim=1), block)
    torch.testing.assert_close(stacked[:, 1], 2 * coefficients)


@pytest.mark.parametrize(("size", "step"), [(2, 2), (3, 1)])
def test_margins_of_an_affine_classifier(size: int, step: int) -> None:
    model = affine(SHAPE, 4)
    count = len(diagonal_starts(6, 6, size, step))
    exact = torch.stack([subspace_margins(model, IMAGES, basis(b, count, size, step)) for b in range(count)], dim=1)
    for mode, factor in (("deepfool", 1.0), ("official", 1.05)):
        table = measure(model, size=size, step=step, mode=mode, overshoot=0.05)
        assert all(table["converged"])
        # 20 halvings of a segment that is 1.05 times the margin: 1.001e-6 of it at most
        measured = torch.tensor(table["margin"], dtype=torch.float64).view(9, count)
        torch.testing.assert_close(measured, factor * exact, rtol=1.1e-6, atol=0)
        assert table["iterations"] == [1] * (9 * count)
    assert table["block"] == list(range(count)) * 9
    assert table["frequency"] == table["column"] == [step * b for b in range(count)] * 9
    assert table["row"] == [row for row in range(9) for _ in range(count)]
    assert table["prediction"] == predictions(model, IMAGES).repeat_interleave(count).tolist()
    assert table["correct"] == (predictions(model, IMAGES) == LABELS).repeat_interleave(count).tolist()


def test_margins_are_additive_over_an_orthogonal_split() -> None:
    # the gradient lives on the diagonal blocks alone, so 1 / m^2 of the blocks add up to that of the whole space
    random = affine(SHAPE, 2).weight.view(2, *SHAPE)
    blocks = Blocks(random, 2, [(0, 0), (2, 2), (4, 4)])
    parts = [torch.full((2,), index) for index in range(3)]
    weight = torch.stack([blocks.synthesise(blocks.analyse(random, part), part) for part in parts]).sum(dim=0)
    weight = weight.flatten(1)
    model = Affine(weight, -weight.sum(dim=1) / 2)
    margin = torch.tensor(measure(model)["margin"], dtype=torch.float64).view(9, 3)
    torch.testing.assert_close((margin**-2).sum(dim=1), margins(model, IMAGES) ** -2, rtol=4e-6, atol=0)


def test_curved_margins_lie_on_the_boundary_and_bisection_only_shortens() -> None:
    model = network(SHAPE, 5)
    finest, fine, official = (measure(model, mode=mode) for mode in ("superdeepfool", "deepfool", "official"))
    assert finest["converged"] == fine["converged"] == official["converged"] and sum(fine["converged"]) > 20
    assert any(count > 1 for count in fine["iterations"])
    for best, one, other in zip(finest["margin"], fine["margin"], official["margin"], strict=True):
        assert best is one is other is None or best <= one <= other
    both = [pair for pair in zip(finest["margin"], fine["margin"], strict=True) if None not in pair]
    assert any(best < 0.99 * one for best, one in both)


@pytest.mark.parametrize(
    "options", [{}, {"mode": "superdeepfool"}, {"boxed": True}, {"mode": "superdeepfool", "boxed": True}]
)
def test_batch_size_and_order_do_not_matter(options: dict[str, Any]) -> None:
    model = network(SHAPE, 5)
    tables = [measure(model, size=3, step=1, batch_size=size, **options) for size in (1, 7, 64)]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    shuffled = measure(model, IMAGES[order], LABELS[order], size=3, step=1, **options)
    margin = np.array(tables[0]["margin"], dtype=float).reshape(9, 4)
    np.testing.assert_allclose(np.array(shuffled["margin"], dtype=float).reshape(9, 4), margin[order], rtol=1e-9)
    for table in tables[1:]:
        np.testing.assert_allclose(np.array(table["margin"], dtype=float).reshape(9, 4), margin, rtol=1e-9)
        for name in set(table) - {"margin"}:
            assert table[name] == (pytest.approx(tables[0][name]) if name == "energy" else tables[0][name])


@pytest.mark.parametrize("logits", [[1.0, 0.0, 0.5], [1.0, 1.0, 1.0], [torch.nan] * 3])
def test_models_without_a_boundary_have_no_margin(logits: list[float]) -> None:
    table = measure(Constant(logits))
    assert table["margin"] == [None] * 27 and table["converged"] == [False] * 27


def test_a_block_that_the_classifier_cannot_see_has_no_margin() -> None:
    # logits depend on the mean alone: rounding of the cosines must not pass for a gradient in the other blocks
    weight = torch.stack([torch.ones(72), -torch.ones(72)]).double()
    model = Affine(weight, torch.tensor([-30.0, 30.0]).double())
    assert measure(model)["converged"] == [True, False, False] * 9
    assert measure(model.float(), IMAGES.float())["converged"] == [True, False, False] * 9


def test_a_stationary_point_gives_no_step() -> None:
    class Saddle(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            shift = images.flatten(1) - 0.5
            value = 1 + shift[:, 0] ** 2 - shift[:, 1] ** 2
            return torch.stack([value, torch.zeros_like(value)], dim=1)

    table = measure(Saddle().eval(), torch.full((2, *SHAPE), 0.5).double(), torch.tensor([0, 0]))
    assert table["margin"] == [None] * 6 and table["iterations"] == [1] * 6


def test_nan_beyond_a_radius_is_no_success() -> None:
    model = affine(SHAPE, 3)
    near = margins(model, IMAGES[:1]).item()
    table = measure(NanBeyond(model, IMAGES[0], 0.5 * near), IMAGES[:1], LABELS[:1])
    assert table["margin"] == [None] * 3 and table["iterations"] == [2] * 3


def test_walks_end_after_their_steps() -> None:
    model = network(SHAPE, 5)
    full, short = measure(model), measure(model, steps=1)
    assert short["iterations"] == [1] * 27
    for margin, count, early in zip(full["margin"], full["iterations"], short["margin"], strict=True):
        assert early == (margin if count == 1 else None)
    assert any(short["converged"]) and not all(short["converged"])


def test_tiny_margins_are_exact_and_the_official_step_has_a_floor() -> None:
    model = affine(SHAPE, 2)
    normal = (model.weight[1] - model.weight[0]).view(1, *SHAPE)
    near = torch.full((1, *SHAPE), 0.5).double() + 1e-6 * normal / normal.norm()
    exact = torch.stack([subspace_margins(model, near, basis(b, 3, 2, 2)) for b in range(3)], dim=1)
    tiny = torch.tensor([measure(model, near)["margin"]], dtype=torch.float64)
    torch.testing.assert_close(tiny, exact, rtol=2e-6, atol=0)
    assert measure(model, near, mode="official")["margin"] == pytest.approx([1.02e-4] * 3)


def test_a_block_too_large_is_refused() -> None:
    with pytest.raises(UserError, match="8 x 8 frequencies does not fit images of 6 x 6"):
        measure(affine(SHAPE, 3), size=8)


def test_clean_gradients_are_shared_by_the_blocks() -> None:
    model = CountedModel(affine(SHAPE, 2))
    measure(model, size=3, step=1, mode="official")
    # two forward passes (verdict, gradients) and one backward pass a sample, one trial for each of the four blocks
    assert (model.forward_passes, model.backward_passes) == (9 * 2 + 9 * 4, 9)


class Ball(nn.Module):
    """Class 0 inside of a ball, class 1 outside."""

    def __init__(self, centre: Tensor, radius: float) -> None:
        super().__init__()
        self.centre, self.radius = centre, radius
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        value = (images - self.centre).flatten(1).square().sum(dim=1) - self.radius**2
        return torch.stack([torch.zeros_like(value), value], dim=1)


@pytest.mark.parametrize("mode", ["superdeepfool", "deepfool"])
def test_walks_find_the_nearest_point_of_a_sphere_in_each_block(mode: str) -> None:
    # x + S meets the sphere in a smaller one around the projection of the centre
    centre, radius = torch.full(SHAPE, 0.5).double(), 1.5
    offset = IMAGES - centre
    exact = []
    for b in range(3):
        inside = (offset.flatten(1) @ basis(b, 3, 2, 2)).norm(dim=1)
        outside = offset.flatten(1).square().sum(dim=1) - inside**2
        exact.append((radius**2 - outside).sqrt() - inside)
    expected = torch.stack(exact, dim=1)
    found = torch.tensor(measure(Ball(centre, radius), mode=mode)["margin"], dtype=torch.float64)
    torch.testing.assert_close(found.view(9, 3), expected, rtol=1e-5, atol=0)


def test_superdeepfool_meets_the_boundary_at_a_right_angle_where_deepfool_does_not() -> None:
    class Bowl(nn.Module):
        """A parabola in the first two entries: class 1 where the second one exceeds 1 + 4 (first - 0.7)^2."""

        def forward(self, images: Tensor) -> Tensor:
            flat = images.flatten(1)
            value = flat[:, 1] - 1 - 4 * (flat[:, 0] - 0.7) ** 2
            return torch.stack([torch.zeros_like(value), value], dim=1)

    images = torch.zeros(1, *SHAPE).double()
    first = torch.linspace(0, 1, 200001).double()
    exact = (first**2 + (1 + 4 * (first - 0.7) ** 2) ** 2).sqrt().min().item()
    fine, plain = (
        measure(Bowl(), images, size=6, step=6, mode=mode)["margin"][0] for mode in ("superdeepfool", "deepfool")
    )
    assert fine == pytest.approx(exact, rel=5e-3)
    assert plain > 1.02 * exact


def test_grid_holds_the_diagonal_and_its_energies_add_up() -> None:
    model = network(SHAPE, 5)
    grid, diagonal = measure(model, blocks="grid"), measure(model)
    assert grid_starts(6, 6, 2, 2) == [(r, c) for r in (0, 2, 4) for c in (0, 2, 4)]
    assert grid["frequency"] == [0, 0, 0, 2, 2, 2, 4, 4, 4] * 9 and grid["column"] == [0, 2, 4] * 27
    assert grid["block"] == list(range(9)) * 9
    starts = zip(grid["frequency"], grid["column"], strict=True)
    on = [row for row, (first, column) in enumerate(starts) if first == column]
    for name in set(diagonal) - {"block"}:
        assert [grid[name][row] for row in on] == pytest.approx(diagonal[name])
    energies = torch.tensor(grid["energy"], dtype=torch.float64).view(9, 9)
    torch.testing.assert_close(energies.sum(dim=1), IMAGES.flatten(1).square().sum(dim=1))


def test_the_first_samples_alone() -> None:
    model = network(SHAPE, 5)
    few, all_of_them = measure(model, samples=2, mode="superdeepfool"), measure(model, mode="superdeepfool")
    for name, column in all_of_them.items():
        assert column[:6] == pytest.approx(few[name])


class Watched(nn.Module):
    """A model that remembers how far outside of a box its images were."""

    def __init__(self, model: nn.Module, box: Box) -> None:
        super().__init__()
        self.model, self.box, self.excess = model, box, 0.0
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.excess = max(self.excess, float(self.box.excess(images.detach()).max()))
        logits: Tensor = self.model(images)
        return logits


def test_boxed_margins_of_an_affine_classifier_are_those_to_its_plane_in_the_box() -> None:
    model = affine(SHAPE, 2)
    images = grey_images(9, SHAPE, spread=1).clamp(0, 1)  # half of the entries are at a bound
    images[4] = model.weight.diff(dim=0).view(SHAPE).sign().clamp(min=0)  # a corner, far from the plane
    source = predictions(model, images)
    normal = (model.weight[1 - source] - model.weight[source]).view(images.shape)
    gap = (model(images)[torch.arange(9), 1 - source] - model(images)[torch.arange(9), source]).detach()
    through = images - normal * (gap / normal.flatten(1).square().sum(dim=1))[:, None, None, None]
    # a box so wide that the plane's nearest point is in reach, and one that cuts the way to it
    low, high = torch.minimum(images, through).min().item(), torch.maximum(images, through).max().item()
    wide = Box(low - 0.1, high + 0.1)
    nearest = boundary.foot(images, normal, through, 0.0, 1.0)
    exact = (nearest - images).flatten(1).norm(dim=1)
    assert (exact > 1.05 * margins(model, images)).any()
    for mode in ("superdeepfool", "deepfool"):
        free = measure(model, images, size=6, step=6, mode=mode)["margin"]
        assert measure(model, images, size=6, step=6, mode=mode, boxed=True, box=wide)["margin"] == pytest.approx(
            free, rel=2e-6
        )
    watched = Watched(model, UNIT)
    table = measure(watched, images, size=6, step=6, mode="superdeepfool", boxed=True)
    assert all(table["converged"]) and watched.excess == 0
    assert table["margin"] == pytest.approx(exact.tolist(), rel=3e-3)


def test_boxed_walks_of_a_curved_classifier_see_valid_images_alone() -> None:
    images = grey_images(5, SHAPE, spread=0.45)
    for box, points in ((UNIT, images), (Box(flipped=True), flip(images))):
        watched, options = Watched(network(SHAPE, 5), box), {"size": 3, "step": 3, "mode": "superdeepfool"}
        table = measure(watched, points, LABELS[:5], boxed=True, box=box, steps=20, **options)
        free = measure(network(SHAPE, 5), points, LABELS[:5], **options)
        assert watched.excess < 1e-12
        assert sum(table["converged"]) > 6
        assert all(margin <= UNIT.diameter(SHAPE, "l2") for margin in table["margin"] if margin is not None)
        both = [pair for pair in zip(table["margin"], free["margin"], strict=True) if None not in pair]
        assert any(bounded > unbounded for bounded, unbounded in both)


def test_a_subspace_without_room_in_the_box_has_no_margin() -> None:
    # a black image may only grow, and an image without constant part has no mean
    model = affine(SHAPE, 2)
    black = torch.zeros(1, *SHAPE).double()
    for mode in ("superdeepfool", "deepfool"):
        table = measure(model, black, LABELS[:1], boxed=True, mode=mode)
        assert table["converged"][1:] == [False, False] and table["margin"][1:] == [None, None]
    assert all(measure(model, black, LABELS[:1])["converged"])


def test_the_released_code_knows_no_box() -> None:
    with pytest.raises(UserError, match="boxed: true with mode official, expected false"):
        measure(affine(SHAPE, 3), mode="official", boxed=True)


def test_interpolation_finds_the_crossing_in_fewer_passes_than_halvings() -> None:
    crossing = torch.tensor([0.98, 0.5, 0.1, 1e-3, 1.0 - 1e-9], dtype=torch.float64)
    passes = 0

    def logits_at(rows: Tensor, scale: Tensor) -> Tensor:
        nonlocal passes
        passes += len(rows)
        value = (scale - crossing[rows]) * (1 + scale)
        return torch.stack([torch.zeros_like(value), value], dim=1)

    start = logits_at(torch.arange(5), torch.zeros(5).double())
    scale = first_beyond(logits_at, start, torch.zeros(5, dtype=torch.int64), 20)
    assert (scale >= crossing).all() and (scale - crossing <= 2.0**-20).all()
    assert passes < 60

    def broken(rows: Tensor, scale: Tensor) -> Tensor:  # a jump, and nothing but NaN before it
        value = torch.where(scale >= crossing[rows], 1.0, torch.nan)
        return torch.stack([torch.zeros_like(value), value], dim=1)

    scale = first_beyond(broken, start, torch.zeros(5, dtype=torch.int64), 20)
    assert (scale >= crossing).all() and (scale - crossing <= 2.0**-20).all()


def test_bisection_halves_down_to_the_crossing() -> None:
    crossing = torch.tensor([0.1, 0.5, 0.999, 1e-9], dtype=torch.float64)
    scale = boundary.bisect(lambda scale: scale >= crossing, crossing, 30)
    assert (scale >= crossing).all() and (scale - crossing <= 2.0**-30).all()


def test_crossed_needs_a_lead_beyond_rounding() -> None:
    logits = torch.tensor([[10.0, 10.0], [10.0, 10.000001], [10.0, 10.01], [0.0, torch.nan], [torch.nan, 1.0]])
    assert boundary.crossed(logits, torch.zeros(5, dtype=torch.int64)).tolist() == [False, False, True, False, False]


def test_nearest_hyperplane_passes_over_broken_ones() -> None:
    gaps = torch.tensor([[-1.0, -2.0, torch.nan], [-1.0, -1.0, -1.0]])
    gradients = torch.zeros(2, 3, 4)
    gradients[0, 1, 0] = 4.0
    gradients[0, 2] = 1.0
    gradients[1, 0] = torch.inf
    step, valid = boundary.nearest_hyperplane(gaps, gradients)
    assert valid.tolist() == [True, False]
    assert step.tolist() == [[0.5, 0, 0, 0], [0, 0, 0, 0]]
    assert boundary.nearest_hyperplane(gaps, gradients, floor=0.75)[0][0].tolist() == [0.75, 0, 0, 0]
