"""Lanczos's method against dense eigenvalues and moments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.numerics.lanczos import lanczos


def matrices(count: int, entries: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random symmetric matrices and starts, float64."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(count, entries, entries, dtype=torch.float64, generator=generator)
    return half + half.mT, torch.randn(count, entries, dtype=torch.float64, generator=generator)


def times(matrix: Tensor, vectors: Tensor) -> Tensor:
    return torch.einsum("nij,nj->ni", matrix, vectors)


def test_as_many_steps_as_entries_give_all_eigenvalues() -> None:
    matrix, start = matrices(3, 12)
    found = lanczos(lambda v: times(matrix, v), start, 50)
    assert torch.allclose(found.values, torch.linalg.eigvalsh(matrix))
    residual = torch.einsum("nij,nmj->nmi", matrix, found.vectors) - found.values[:, :, None] * found.vectors
    assert residual.abs().max() < 1e-10
    assert torch.allclose(found.vectors @ found.vectors.mT, torch.eye(12, dtype=torch.float64).expand(3, -1, -1))
    assert found.asymmetry.max() < 1e-12


def test_ends_come_first_and_moments_are_exact() -> None:
    matrix, start = matrices(2, 200)
    found = lanczos(lambda v: times(matrix, v), start, 40)
    dense = torch.linalg.eigvalsh(matrix)
    spread = dense[:, -1] - dense[:, 0]
    assert ((found.values[:, 0] - dense[:, 0]).abs() / spread).max() < 0.01
    assert ((found.values[:, -1] - dense[:, -1]).abs() / spread).max() < 0.01
    assert torch.allclose(found.weights.sum(dim=1), torch.ones(2, dtype=torch.float64))
    unit = start / start.norm(dim=1, keepdim=True)
    power = unit
    for degree in range(1, 8):
        power = times(matrix, power)
        moment = (found.weights * found.values**degree).sum(dim=1)
        assert torch.allclose(moment, (unit * power).sum(dim=1), rtol=1e-9, atol=1e-9 * float(spread.max() ** degree))


def test_a_space_that_is_exhausted_early_adds_nothing() -> None:
    """The identity on one row, zero on the next, rank two on the third."""
    diagonal = torch.zeros(3, 10, dtype=torch.float64)
    diagonal[0], diagonal[2, :2] = 1, torch.tensor([5.0, -3.0])
    start = torch.ones(3, 10, dtype=torch.float64)
    found = lanczos(lambda v: diagonal * v, start, 6)
    assert torch.allclose(found.values[0], torch.ones(6, dtype=torch.float64))
    assert not found.values[1].any()
    assert (float(found.values[2, 0]), float(found.values[2, -1])) == pytest.approx((-3, 5))
    assert torch.allclose((found.weights * found.values).sum(dim=1), torch.tensor([1, 0, 0.2], dtype=torch.float64))


def test_rows_do_not_depend_on_each_other() -> None:
    matrix, start = matrices(4, 20)
    together = lanczos(lambda v: times(matrix, v), start, 7)
    alone = [lanczos(lambda v, row=row: times(matrix[row : row + 1], v), start[row : row + 1], 7) for row in range(4)]
    assert torch.allclose(together.values, torch.cat([one.values for one in alone]))


def test_the_symmetric_part_counts_and_the_rest_is_told() -> None:
    matrix, start = matrices(1, 9)
    twist = torch.randn(1, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    twist = 0.1 * (twist - twist.mT)
    found = lanczos(lambda v: times(matrix + twist, v), start, 9)
    assert torch.allclose(found.values, torch.linalg.eigvalsh(matrix))
    expected = (2 * twist).norm() / (matrix + twist).norm()
    assert float(found.asymmetry) == pytest.approx(float(expected))


def test_what_is_not_finite_is_nan() -> None:
    found = lanczos(lambda v: v * torch.tensor([[1.0], [torch.nan]]), torch.ones(2, 4), 3)
    assert found.values.isnan().tolist() == [[False] * 3, [True] * 3]
