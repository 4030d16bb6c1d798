"""PGD adversarial training."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.attacks.ascent import projected_ascent
from pipeline.contracts import Count, NonNegative, Positive
from pipeline.numerics.norms import unit


def adversarial(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    epsilon: NonNegative,
    norm: Literal["l2", "linf"] = "linf",
    steps: Count = 7,
    step_size: Positive | None = None,
    random_start: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on PGD perturbations (Madry et al., "Towards deep learning models resistant to ...", ICLR 2018).

    The perturbation is sought in eval mode, so that BatchNorm's running statistics see the final images only (as in
    TRADES' code; the choice is left open in the paper), and stays in the ball and in [0, 1].

    Args:
        classifier: maps [0, 1] images to logits; its mode is restored.
        images: (n, c, h, w) in [0, 1].
        labels: (n,).
        generator: CPU generator of the random starts.
        epsilon: radius, in units of [0, 1] images.
        norm: of the ball.
        steps: gradient steps.
        step_size: length of a step; None: 2.5 epsilon / steps.
        random_start: start uniformly in the ball, else at the image.

    Returns:
        The mean loss on the perturbed images; `accuracy` on the clean ones and `robust_accuracy` on the perturbed.
    """
    training = classifier.training
    classifier.eval()
    start = images + _uniform_in_ball(images, generator, norm, epsilon) if random_start else images
    perturbed = projected_ascent(
        model=classifier,
        images=images,
        labels=labels,
        start=start.clamp(0, 1),
        norm=norm,
        epsilon=epsilon,
        step_size=step_size if step_size is not None else 2.5 * epsilon / steps,
        steps=steps,
    )
    with torch.no_grad():
        clean = classifier(images)
    classifier.train(training)
    logits = classifier(perturbed)
    metrics = {
        "accuracy": (clean.argmax(1) == labels).float().mean(),
        "robust_accuracy": (logits.detach().argmax(1) == labels).float().mean(),
    }
    return F.cross_entropy(logits, labels), metrics


def _uniform_in_ball(images: Tensor, generator: torch.Generator, norm: str, epsilon: float) -> Tensor:
    """Uniform draws from the ball, of the images' shape and on their device."""
    if norm == "linf":
        shift = 2 * torch.rand(images.shape, generator=generator) - 1
    else:
        radius = torch.rand(len(images), 1, 1, 1, generator=generator) ** (1 / images[0].numel())
        shift = unit(torch.randn(images.shape, generator=generator)) * radius
    return epsilon * shift.to(images)
