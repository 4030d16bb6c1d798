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
from pipeline.numerics.passes import CountedModel
from pipeline.numerics.subspaces import DiagonalBlocks, dct_matrix, diagonal_frequencies
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
    context: dict[str, Any] = {"size": 2, "step": 2, "batch_size": 16, **options}
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
    assert len(diagonal_frequencies(extent, extent, size, step)) == count


def test_blocks_are_windows_of_the_coefficient_plane() -> None:
    blocks = DiagonalBlocks(IMAGES, 3, range(0, 4))
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
    count = len(diagonal_frequencies(6, 6, size, step))
    exact = torch.stack([subspace_margins(model, IMAGES, basis(b, count, size, step)) for b in range(count)], dim=1)
    for mode, factor in (("bisected", 1.0), ("official", 1.05)):
        table = measure(model, size=size, step=step, mode=mode, overshoot=0.05)
        assert all(table["converged"])
        # 20 halvings of a segment that is 1.05 times the margin: 1.001e-6 of it at most
        measured = torch.tensor(table["margin"], dtype=torch.float64).view(9, count)
        torch.testing.assert_close(measured, factor * exact, rtol=1.1e-6, atol=0)
        assert table["iterations"] == [1] * (9 * count)
    assert table["block"] == list(range(count)) * 9
    assert table["frequency"] == [step * b for b in range(count)] * 9
    assert table["row"] == [row for row in range(9) for _ in range(count)]
    assert table["prediction"] == predictions(model, IMAGES).repeat_interleave(count).tolist()
    assert table["correct"] == (predictions(model, IMAGES) == LABELS).repeat_interleave(count).tolist()


def test_margins_are_additive_over_an_orthogonal_split() -> None:
    # the gradient lives on the diagonal blocks alone, so 1 / m^2 of the blocks add up to that of the whole space
    random = affine(SHAPE, 2).weight.view(2, *SHAPE)
    blocks = DiagonalBlocks(random, 2, (0, 2, 4))
    parts = [torch.full((2,), index) for index in range(3)]
    weight = torch.stack([blocks.synthesise(blocks.analyse(random, part), part) for part in parts]).sum(dim=0)
    weight = weight.flatten(1)
    model = Affine(weight, -weight.sum(dim=1) / 2)
    margin = torch.tensor(measure(model)["margin"], dtype=torch.float64).view(9, 3)
    torch.testing.assert_close((margin**-2).sum(dim=1), margins(model, IMAGES) ** -2, rtol=4e-6, atol=0)


def test_curved_margins_lie_on_the_boundary_and_bisection_only_shortens() -> None:
    model = network(SHAPE, 5)
    fine, official = measure(model), measure(model, mode="official")
    assert fine["converged"] == official["converged"] and sum(fine["converged"]) > 20
    assert any(count > 1 for count in fine["iterations"])
    for one, other in zip(fine["margin"], official["margin"], strict=True):
        assert one is other is None or one <= other


def test_batch_size_and_order_do_not_matter() -> None:
    model = network(SHAPE, 5)
    tables = [measure(model, size=3, step=1, batch_size=size) for size in (1, 7, 64)]
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    shuffled = measure(model, IMAGES[order], LABELS[order], size=3, step=1)
    margin = np.array(tables[0]["margin"], dtype=float).reshape(9, 4)
    np.testing.assert_allclose(np.array(shuffled["margin"], dtype=float).reshape(9, 4), margin[order], rtol=1e-9)
    for table in tables[1:]:
        np.testing.assert_allclose(np.array(table["margin"], dtype=float).reshape(9, 4), margin, rtol=1e-9)
        for name in set(table) - {"margin"}:
            assert table[name] == tables[0][name]


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
