"""Training on PRIME's augmented images."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.contracts import Count, NonNegative, Range
from pipeline.transforms.prime import prime as augment

SMALLEST_PROBABILITY = 1e-7  # of the mean prediction, inside the logarithm


def prime(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    jsd_weight: NonNegative = 12.0,
    width: Count = 3,
    depth: Count = 3,
    mixing: Literal["dirichlet", "beta"] = "dirichlet",
    kernel_size: Literal[1, 3, 5, 7] = 3,
    sigma_max: NonNegative = 4.0,
    cut_max: Annotated[int, Range(low=3)] | None = None,
    alpha: NonNegative = 1.0,
    displacement: NonNegative = 1.0,
    frequencies: Count = 100,
    t_max: NonNegative = 0.01,
    bandwidth: Count | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on the clean images and consistency with two PRIME views (Modas et al., ECCV 2022).

    The loss is CE(clean) + jsd_weight * mean_i KL(p_i || p) over the predictions p_i on the clean view and two
    augmented ones, p their mean: the Jensen-Shannon divergence of AugMix (Hendrycks et al., ICLR 2020). The three views
    take one forward pass, so BatchNorm sees them together. With `jsd_weight` 0 it is CE on one augmented view.
    The defaults are PRIME's for CIFAR; departures of the augmentation from the released code stand in
    `pipeline.transforms.prime`, of which the options after `jsd_weight` are the arguments.

    Args:
        classifier: maps [0, 1] images to logits.
        images: (n, c, h, w) in [0, 1].
        labels: (n,).
        generator: CPU generator of the augmentation.
        jsd_weight: weight of the divergence; 0 turns it off.
        width: chains per view.
        depth: draws per chain.
        mixing: law of the mixing weights, the paper's `dirichlet` or the released code's `beta`.
        kernel_size: pixels a side of the spectral primitive's kernel, odd.
        sigma_max: largest deviation of its weights.
        cut_max: largest frequency of the spatial primitive; None follows the image size.
        alpha: scales the spatial primitive's largest temperature.
        displacement: factor on its displacements; 0 turns it off.
        frequencies: largest frequency of the colour primitive.
        t_max: largest variance of its coefficients.
        bandwidth: frequencies that it keeps; None keeps all.

    Returns:
        The loss, and `accuracy` on the clean view and the `divergence` in nats; without the divergence,
        `augmented_accuracy` alone: the clean images are not seen.
    """
    n = len(images)
    views = augment(
        images.repeat(2 if jsd_weight else 1, 1, 1, 1),
        generator=generator,
        width=width,
        depth=depth,
        mixing=mixing,
        kernel_size=kernel_size,
        sigma_max=sigma_max,
        cut_max=cut_max,
        alpha=alpha,
        displacement=displacement,
        frequencies=frequencies,
        t_max=t_max,
        bandwidth=bandwidth,
    )
    if not jsd_weight:
        logits = classifier(views)
        return F.cross_entropy(logits, labels), {"augmented_accuracy": _accuracy(logits, labels)}
    logits = classifier(torch.cat((images, views)))
    divergence = jensen_shannon(logits.float().view(3, n, -1))
    metrics = {"accuracy": _accuracy(logits[:n], labels), "divergence": divergence.detach()}
    return F.cross_entropy(logits[:n], labels) + jsd_weight * divergence, metrics


def jensen_shannon(logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the views' predictions in nats, mean over samples: (views, n, classes) -> ()."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    log_mean = p.mean(0).clamp(min=SMALLEST_PROBABILITY).log()
    return (p * (log_p - log_mean)).sum(-1).mean()


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(1) == labels).float().mean()
