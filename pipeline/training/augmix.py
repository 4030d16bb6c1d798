"""Training on AugMix's images."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from pipeline.contracts import Count, NonNegative, Positive, Range, Share
from pipeline.training.consistency import consistency_loss
from pipeline.transforms.augmix import augmix as augment


def augmix(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    jsd_weight: NonNegative = 12.0,
    severity: Annotated[float, Range(low=0, high=10)] = 3.0,
    width: Count = 3,
    depth: Count | None = None,
    alpha: Positive = 1.0,
    all_operations: bool = False,
    blended: bool = False,
    label_smoothing: Share = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on the clean images and consistency with two AugMix views (Hendrycks et al., ICLR 2020).

    The loss is CE(clean) + jsd_weight * JSD over the predictions on the clean view and the two augmented ones, all in
    one forward pass. With `jsd_weight` 0 it is CE on one augmented view. The defaults are the paper's for CIFAR; for
    ImageNet `severity` is 1. Departures of the augmentation from the released code stand in
    `pipeline.transforms.augmix`, of which the options between `jsd_weight` and `label_smoothing` are the arguments.
    Images are augmented one by one on the CPU.

    Args:
        classifier: maps [0, 1] images to logits.
        images: (n, c, h, w) in [0, 1], with 1 channel or 3.
        labels: (n,).
        generator: CPU generator of the augmentation.
        jsd_weight: weight of the divergence; 0 turns it off.
        severity: largest strength of an operation, of 10.
        width: chains per view.
        depth: operations per chain; None draws 1, 2 or 3.
        alpha: of the mixing weights.
        all_operations: also the operations that overlap with ImageNet-C's corruptions.
        blended: timm's quicker mixing.
        label_smoothing: share of the cross-entropy's target spread over all classes.

    Returns:
        The loss, and `accuracy` on the clean view and the `divergence` in nats; without the divergence,
        `augmented_accuracy` alone: the clean images are not seen. In eval mode the cross-entropy on the clean images
        and their `accuracy`.

    Raises:
        UserError: neither 1 channel nor 3.
    """

    def loss(clean: Tensor, *views: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return consistency_loss(
            classifier=classifier,
            images=clean,
            labels=labels,
            views=views,
            weight=jsd_weight,
            label_smoothing=label_smoothing,
        )

    if not classifier.training:
        return loss(images)
    augmented = augment(
        images=images.repeat(2 if jsd_weight else 1, 1, 1, 1),
        generator=generator,
        severity=severity,
        width=width,
        depth=depth,
        alpha=alpha,
        all_operations=all_operations,
        blended=blended,
    )
    if jsd_weight:
        return loss(images, *augmented.chunk(2))
    value, metrics = loss(augmented)
    return value, {"augmented_accuracy": metrics["accuracy"]}
