"""Standard training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.contracts import Share


def standard(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    label_smoothing: Share = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on the images as they are.

    Args:
        classifier: maps [0, 1] images to logits.
        images: (n, c, h, w) in [0, 1].
        labels: (n,).
        generator: unused: nothing is drawn.
        label_smoothing: share of the target spread over all classes.

    Returns:
        The mean loss, and `accuracy` on the batch.
    """
    logits = classifier(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return loss, {"accuracy": (logits.detach().argmax(1) == labels).float().mean()}
