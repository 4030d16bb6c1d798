"""Cross-entropy on clean images and consistency of the predictions on their augmented views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_PROBABILITY = 1e-7  # of the mean prediction, inside the logarithm


def consistency_loss(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    views: Sequence[Tensor],
    weight: float,
    label_smoothing: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """CE(clean) + weight * mean_i KL(p_i || p), over the predictions p_i on the clean images and on each view.

    p is the mean of the p_i: the Jensen-Shannon divergence of AugMix (Hendrycks et al., ICLR 2020). All images take one
    forward pass, so BatchNorm sees them together.

    Args:
        classifier: maps images to logits.
        images: (n, c, h, w), clean.
        labels: (n,).
        views: augmented images, each (n, c, h, w) in the order of `images`. With none there is nothing to be consistent
            with: the loss is CE(clean), for validation.
        weight: factor on the divergence.
        label_smoothing: share of the cross-entropy's target spread over all classes.

    Returns:
        The loss, and `accuracy` on the clean images and, if there are views, the `divergence` in nats.
    """
    logits = classifier(torch.cat((images, *views))).float()
    clean = logits[: len(images)]
    loss = F.cross_entropy(clean, labels, label_smoothing=label_smoothing)
    metrics = {"accuracy": accuracy(clean, labels)}
    if not views:
        return loss, metrics
    divergence = jensen_shannon(logits.view(1 + len(views), len(images), -1))
    return loss + weight * divergence, {**metrics, "divergence": divergence.detach()}


def jensen_shannon(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the views' predictions in nats, mean over samples: (views, n, classes) -> ()."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    log_mean = p.mean(0).clamp(min=SMALLEST_PROBABILITY).log()
    return (p * (log_p - log_mean)).sum(-1).mean()


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the samples whose largest logit is their label's: ()."""
    return (logits.detach().argmax(1) == labels).float().mean()
