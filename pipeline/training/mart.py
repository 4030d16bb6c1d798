"""MART: misclassification-aware adversarial training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.contracts import Count, NonNegative, Positive
from pipeline.numerics.box import UNIT, Box
from pipeline.training.perturbation import accuracy, gaussian_start, kl_divergence, perturb, uniform_start, wide
from pipeline.training.weight_perturbation import Forward, Measured, at_worst_weights


def mart(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    box: Box = UNIT,
    epsilon: NonNegative,
    norm: Literal["l1", "l2", "linf"] = "linf",
    beta: NonNegative = 5.0,
    steps: Count = 10,
    step_size: Positive | None = None,
    random_start: Literal["gaussian", "uniform"] = "gaussian",
    weight_perturbation: NonNegative = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Boosted cross-entropy on PGD perturbations, and a divergence that counts more for unsure images.

    The loss is the mean of -log q_y - log(1 - max_{k != y} q_k) + beta (1 - p_y) KL(p || q), p the predictions on the
    clean images and q on the perturbed ones, which raise the cross-entropy and are sought in eval mode (Wang et al.,
    "Improving adversarial robustness requires revisiting misclassified examples", ICLR 2020). As in the authors' code
    the gradient goes through all of it, the factor 1 - p_y included.
    Departures from that code: logarithms are taken of the logits, so its small constants inside them are not needed; l2
    and l1 are ours. Their `beta` is 5 in the training script and 6 in the loss's own default.

    Args:
        classifier: maps images to logits; its mode is restored.
        images: (n, c, h, w) in the box.
        labels: (n,).
        generator: CPU generator of the starts.
        box: of valid images.
        epsilon: radius, in units of the images.
        norm: of the ball.
        beta: weight of the divergence, lambda in the paper.
        steps: gradient steps.
        step_size: length of a step; None: 2.5 epsilon / steps.
        random_start: `gaussian`, of deviation 0.001 as in the authors' code, or `uniform` in the ball.
        weight_perturbation: gamma of adversarial weight perturbation, 0.005 in its paper; 0 turns it off.

    Returns:
        The loss; `accuracy` on the clean images, `robust_accuracy` on the perturbed (both at the perturbed weights, if
        they are), and the weighted `divergence` in nats.
    """
    gaussian = random_start == "gaussian"
    perturbed = perturb(
        classifier=classifier,
        images=images,
        target=labels,
        start=gaussian_start(images, generator) if gaussian else uniform_start(images, generator, norm, epsilon),
        norm=norm,
        epsilon=epsilon,
        steps=steps,
        step_size=step_size,
        box=box,
    )

    def measure(forward: Forward) -> Measured:
        clean, robust = wide(forward(images)), wide(forward(perturbed))
        unsure = 1 - clean.softmax(1).gather(1, labels[:, None]).squeeze(1)
        divergence = (unsure * kl_divergence(robust, clean)).mean()
        metrics = {
            "accuracy": accuracy(clean, labels),
            "robust_accuracy": accuracy(robust, labels),
            "divergence": divergence.detach(),
        }
        return boosted_cross_entropy(robust, labels).mean() + beta * divergence, metrics

    return at_worst_weights(classifier, measure, weight_perturbation)


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log q_y - log(1 - q_k) with k the largest class besides y: (n, classes) and (n,) to (n,)."""
    rival = logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
    others = logits.scatter(1, rival[:, None], -torch.inf).logsumexp(1)  # of 1 - q_k, exact where q_k is near 1
    return F.cross_entropy(logits, labels, reduction="none") + logits.logsumexp(1) - others
