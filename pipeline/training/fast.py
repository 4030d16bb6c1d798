"""Single-step adversarial training with a guard against catastrophic overfitting."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.contracts import Count, Natural, NonNegative, Positive, Share
from pipeline.numerics.box import UNIT, Box
from pipeline.training.perturbation import accuracy, perturb, predictions, uniform_start, wide

LONG_STEP = 1.25  # epsilons, of the step from a start in the ball
NOISE = 2.0  # epsilons, radius of the larger start
SMALLEST_GAP = 0.1  # of two accuracies; a smaller one may be chance on a few samples


def fast(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    state: dict[str, Tensor],
    box: Box = UNIT,
    epsilon: NonNegative,
    norm: Literal["l1", "l2", "linf"] = "linf",
    start: Literal["ball", "noise"] = "ball",
    step_size: Positive | None = None,
    guard_every: Natural = 100,
    guard_samples: Count = 64,
    guard_steps: Count = 7,
    guard_share: Share = 0.5,
    label_smoothing: Share = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on perturbations of one step: with `ball` of Wong et al., with `noise` of de Jorge et al.

    `ball` starts uniformly in the ball, steps 1.25 epsilon and comes back into the ball ("Fast is better than free",
    ICLR 2020). `noise`, N-FGSM, starts uniformly in a ball of 2 epsilon, steps epsilon and stays where it is, so that
    the perturbations trained on are larger than epsilon ("Make some noise", NeurIPS 2022); it overfits later.

    Catastrophic overfitting: the network comes to withstand the single step and nothing else (Andriushchenko and
    Flammarion, NeurIPS 2020). Every `guard_every` steps the guard attacks some images of the batch by the single step
    (`ball`) and by PGD. If the accuracy under PGD is below `guard_share` of that under the single step, and lower by
    more than 0.1, the training takes PGD perturbations until a later look finds otherwise. Wong et al. compare the PGD
    accuracy on one batch with the last epoch's, and stop; going on with PGD for a while is the remedy of "Towards
    understanding fast adversarial training" (Li et al., 2020).
    Other departures: perturbations are sought in eval mode, there in train mode; l2 and l1 are ours; N-FGSM's warm-up
    of epsilon for SVHN is left out. On validation data the perturbation is always PGD's, lest overfitting pass for
    robustness.

    Args:
        classifier: maps images to logits; its mode is restored.
        images: (n, c, h, w) in the box.
        labels: (n,).
        generator: CPU generator of the starts.
        state: keeps `steps`, the number of training steps so far, and `guard`, whether the guard is on.
        box: of valid images.
        epsilon: radius, in units of the images.
        norm: of the ball.
        start: `ball` or `noise`.
        step_size: length of the single step; None: 1.25 epsilon for `ball`, epsilon for `noise`.
        guard_every: steps between two looks; 0 turns the guard off.
        guard_samples: images of the batch that it looks at.
        guard_steps: steps of its PGD, of 2.5 epsilon / guard_steps each.
        guard_share: of the single step's accuracy, below which PGD's betrays overfitting.
        label_smoothing: share of the target spread over all classes, in the loss; perturbations raise the plain one.

    Returns:
        The mean loss on the perturbed images; `robust_accuracy` on them; in training `guard`, 1 where it is on, else 0.
    """

    def single(kind: str, some: Tensor, target: Tensor) -> Tensor:
        noise = NOISE * epsilon if kind == "noise" else epsilon
        length = step_size if step_size is not None else epsilon * (1 if kind == "noise" else LONG_STEP)
        return perturb(
            classifier=classifier,
            images=some,
            target=target,
            start=uniform_start(some, generator, norm, noise),
            norm=norm,
            epsilon=noise + length if kind == "noise" else epsilon,  # a ball that the noise and the step cannot leave
            steps=1,
            step_size=length,
            box=box,
        )

    def multiple(some: Tensor, target: Tensor) -> Tensor:
        return perturb(
            classifier=classifier,
            images=some,
            target=target,
            start=uniform_start(some, generator, norm, epsilon),
            norm=norm,
            epsilon=epsilon,
            steps=guard_steps,
            step_size=None,
            box=box,
        )

    def overfitted() -> bool:
        some, target = images[:guard_samples], labels[:guard_samples]
        weak, strong = (
            float(accuracy(predictions(classifier, points), target))
            for points in (single("ball", some, target), multiple(some, target))
        )
        return strong < guard_share * weak and weak - strong > SMALLEST_GAP

    metrics: dict[str, Tensor] = {}
    guarded = not classifier.training
    if classifier.training and guard_every:
        done, guarded = int(state.get("steps", 0)), bool(state.get("guard", False))
        if done % guard_every == 0:
            guarded = overfitted()
        state["steps"], state["guard"] = torch.tensor(done + 1), torch.tensor(guarded)
        metrics["guard"] = torch.tensor(float(guarded))
    perturbed = multiple(images, labels) if guarded else single(start, images, labels)
    logits = wide(classifier(perturbed))
    metrics["robust_accuracy"] = accuracy(logits, labels)
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing), metrics
