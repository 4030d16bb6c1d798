"""PGD adversarial training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.contracts import Count, NonNegative, Positive, Share
from pipeline.numerics.box import UNIT, Box
from pipeline.training.perturbation import accuracy, perturb, uniform_start, wide
from pipeline.training.weight_perturbation import Forward, Measured, at_worst_weights


def adversarial(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    box: Box = UNIT,
    epsilon: NonNegative,
    norm: Literal["l1", "l2", "linf"] = "linf",
    steps: Count = 7,
    step_size: Positive | None = None,
    random_start: bool = True,
    label_smoothing: Share = 0.0,
    weight_perturbation: NonNegative = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on PGD perturbations (Madry et al., "Towards deep learning models resistant to ...", ICLR 2018).

    The perturbation is sought in eval mode, so that BatchNorm's running statistics see the final images only (as in
    TRADES' code; the choice is left open in the paper), and stays in the ball and in the box.

    Args:
        classifier: maps images to logits; its mode is restored.
        images: (n, c, h, w) in the box.
        labels: (n,).
        generator: CPU generator of the random starts.
        box: of valid images.
        epsilon: radius, in units of the images.
        norm: of the ball; `l1` takes sparse steps, see `pipeline.numerics.norms.steepest`.
        steps: gradient steps.
        step_size: length of a step; None: 2.5 epsilon / steps.
        random_start: start uniformly in the ball, else at the image.
        label_smoothing: share of the target spread over all classes, in the loss; the perturbation raises the plain
            one.
        weight_perturbation: gamma of adversarial weight perturbation, 0.005 in its paper; 0 turns it off.

    Returns:
        The mean loss on the perturbed images, and `robust_accuracy` on them (at the perturbed weights, if they are).
    """
    perturbed = perturb(
        classifier=classifier,
        images=images,
        target=labels,
        start=uniform_start(images, generator, norm, epsilon) if random_start else images,
        norm=norm,
        epsilon=epsilon,
        steps=steps,
        step_size=step_size,
        box=box,
    )

    def measure(forward: Forward) -> Measured:
        logits = wide(forward(perturbed))
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        return loss, {"robust_accuracy": accuracy(logits, labels)}

    return at_worst_weights(classifier, measure, weight_perturbation)
