"""TRADES: clean cross-entropy and a divergence to the worst perturbation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.contracts import Count, NonNegative, Positive, Share
from pipeline.numerics.box import UNIT, Box
from pipeline.training.perturbation import (
    accuracy,
    gaussian_start,
    kl_divergence,
    perturb,
    predictions,
    uniform_start,
    wide,
)
from pipeline.training.weight_perturbation import Forward, Measured, at_worst_weights


def trades(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    box: Box = UNIT,
    epsilon: NonNegative,
    norm: Literal["l1", "l2", "linf"] = "linf",
    beta: NonNegative = 6.0,
    steps: Count = 10,
    step_size: Positive | None = None,
    random_start: Literal["gaussian", "uniform"] = "gaussian",
    label_smoothing: Share = 0.0,
    weight_perturbation: NonNegative = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """CE(clean) + beta KL(clean || perturbed), the perturbation one that raises the KL (Zhang et al., ICML 2019).

    The perturbation is sought by projected gradient ascent in eval mode against the clean predictions, held fixed; the
    gradient of the loss goes through both predictions, as in the authors' code. Their 10 steps of 2/255 for an epsilon
    of 8/255 are the rule for `step_size`.
    Departures from that code: l2 ascends along the normalised gradient, there by an SGD optimiser on the perturbation;
    l1 is ours; the clean images take one pass in the loss, there two, so BatchNorm's statistics see them once.

    Args:
        classifier: maps images to logits; its mode is restored.
        images: (n, c, h, w) in the box.
        labels: (n,).
        generator: CPU generator of the starts.
        box: of valid images.
        epsilon: radius, in units of the images.
        norm: of the ball.
        beta: weight of the divergence, 1 / lambda in the paper.
        steps: gradient steps.
        step_size: length of a step; None: 2.5 epsilon / steps.
        random_start: `gaussian`, of deviation 0.001 as in the authors' code, or `uniform` in the ball. There is no
            start at the image itself: the divergence has no gradient there.
        label_smoothing: share of the cross-entropy's target spread over all classes.
        weight_perturbation: gamma of adversarial weight perturbation, 0.005 in its paper; 0 turns it off.

    Returns:
        The loss; `accuracy` on the clean images, `robust_accuracy` on the perturbed (both at the perturbed weights, if
        they are), and the `divergence` in nats.
    """
    gaussian = random_start == "gaussian"
    perturbed = perturb(
        classifier=classifier,
        images=images,
        target=predictions(classifier, images),
        start=gaussian_start(images, generator) if gaussian else uniform_start(images, generator, norm, epsilon),
        norm=norm,
        epsilon=epsilon,
        steps=steps,
        step_size=step_size,
        box=box,
        objective=kl_divergence,
    )

    def measure(forward: Forward) -> Measured:
        clean, robust = wide(forward(images)), wide(forward(perturbed))
        divergence = kl_divergence(robust, clean).mean()
        metrics = {
            "accuracy": accuracy(clean, labels),
            "robust_accuracy": accuracy(robust, labels),
            "divergence": divergence.detach(),
        }
        return F.cross_entropy(clean, labels, label_smoothing=label_smoothing) + beta * divergence, metrics

    return at_worst_weights(classifier, measure, weight_perturbation)
