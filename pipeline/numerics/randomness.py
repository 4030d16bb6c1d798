"""Random draws that belong to a sample, not to a batch: any batch size, shard or device gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def per_sample(draw: Callable[[int, torch.Generator], Tensor], seeds: Tensor) -> Tensor:
    """Stack one draw per sample, each from a generator seeded by the sample's own seed.

    Args:
        draw: called with the row's index and a seeded CPU generator; returns a CPU tensor of one fixed shape.
        seeds: (n,) int64, one seed per sample.

    Returns:
        (n, ...) CPU tensor. Draws are made on the CPU so that every device sees the same numbers.
    """
    generator = torch.Generator()
    rows = []
    for row, seed in enumerate(seeds.tolist()):
        generator.manual_seed(seed)
        rows.append(draw(row, generator))
    return torch.stack(rows)


def normal(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal draws, (n, *shape) float32 on the CPU, one stream per sample."""
    return per_sample(lambda _, generator: torch.randn(shape, generator=generator), seeds)


def uniform(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform draws on [0, 1), (n, *shape) float32 on the CPU, one stream per sample."""
    return per_sample(lambda _, generator: torch.rand(shape, generator=generator), seeds)
