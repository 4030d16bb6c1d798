"""Training on PRIME's augmented images."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.contracts import Count, NonNegative, Range, Share
from pipeline.training.consistency import accuracy, consistency_loss
from pipeline.transforms.prime import prime as augment


def prime(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    jsd_weight: NonNegative = 12.0,
    label_smoothing: Share = 0.0,
    mode: Literal["default", "official"] = "default",
    width: Count = 3,
    depth: Count = 3,
    mixing: Literal["dirichlet", "beta"] | None = None,
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
    take one forward pass, so BatchNorm sees them together. With `jsd_weight` 0, the released code's setting for
    ImageNet, it is CE on one augmented view. In eval mode, for validation, nothing is augmented: the loss is CE(clean).
    The defaults are PRIME's for CIFAR; its settings for ImageNet and how mode `official` differs from the default stand
    in `pipeline.transforms.prime`, whose arguments the options from `mode` on are. Departure from the released code:
    `label_smoothing`.

    Args:
        classifier: maps [0, 1] images to logits.
        images: (n, c, h, w) in [0, 1].
        labels: (n,).
        generator: CPU generator of the augmentation.
        jsd_weight: weight of the divergence; 0 turns it off.
        label_smoothing: share of the cross-entropy's target spread over all classes.
        mode: `default` augments as the paper says, `official` as the released code does.
        width: chains per view.
        depth: draws per chain.
        mixing: law of the mixing weights, `dirichlet` or `beta`; None: the mode's own, in this order.
        kernel_size: pixels a side of the spectral primitive's kernel, odd.
        sigma_max: largest deviation of its weights.
        cut_max: largest frequency of the spatial primitive; None: by the mode and the image size.
        alpha: scales the spatial primitive's largest temperature.
        displacement: factor on its displacements; 0 turns it off.
        frequencies: largest frequency of the colour primitive.
        t_max: largest variance of its coefficients.
        bandwidth: frequencies that it keeps; None keeps all.

    Returns:
        The loss, and `accuracy` on the clean view and the `divergence` in nats; without the divergence,
        `augmented_accuracy` alone: the clean images are not seen. In eval mode `accuracy`.

    Raises:
        UserError: `kernel_size` 1 in mode `official`.
    """

    def view() -> Tensor:
        return augment(
            images=images,
            generator=generator,
            mode=mode,
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

    if classifier.training and not jsd_weight:
        logits = classifier(view())
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        return loss, {"augmented_accuracy": accuracy(logits, labels)}
    return consistency_loss(
        classifier=classifier,
        images=images,
        labels=labels,
        views=[view(), view()] if classifier.training else [],
        weight=jsd_weight,
        label_smoothing=label_smoothing,
    )
