"""Logits in batches, and what they say about labels; shared by the measurements."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Logits (n, classes) of images (n, c, h, w), `batch_size` images at a time."""
    return torch.cat([model(images[start : start + batch_size]) for start in range(0, len(images), batch_size)])


def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the prediction is another class than the label, (n,) bool; never where a logit is NaN."""
    return (logits.argmax(dim=1) != labels) & ~logits.isnan().any(dim=1)


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the prediction is the label, (n,) bool; never where a logit is NaN."""
    return (logits.argmax(dim=1) == labels) & ~logits.isnan().any(dim=1)


def nullable(values: Tensor, known: Tensor) -> list[int | float | None]:
    """Values as a column, null where they are not known."""
    return [value if keep else None for value, keep in zip(values.tolist(), known.tolist(), strict=True)]
