"""Free adversarial training: one backward pass for the weights and for the perturbation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.attacks.ascent import move, restrict
from pipeline.contracts import Count, NonNegative, Positive, Share
from pipeline.numerics.box import UNIT, Box
from pipeline.training.perturbation import accuracy, wide


def free(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    state: dict[str, Tensor],
    box: Box = UNIT,
    epsilon: NonNegative,
    norm: Literal["l1", "l2", "linf"] = "linf",
    step_size: Positive | None = None,
    replays: Count = 8,
    label_smoothing: Share = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy on perturbations that climb by the weights' own passes (Shafahi et al., NeurIPS 2019).

    Each batch is used `replays` times in a row. The loss's backward pass, which the training loop makes for the
    weights, hands its gradient at the perturbed images to a hook that moves the perturbation one step uphill. It is
    kept for the next batch too, whose images it meets by their place in the batch, as in the paper. The gradient is
    that of train mode and of the loss itself, label smoothing included.
    Departures: the perturbation is brought into the box of the images that it is added to, as in Wong et al.'s code,
    while the authors' clips the sum alone; l2 and l1 are ours.

    Args:
        classifier: maps images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,).
        generator: unused: nothing is drawn.
        state: keeps the `perturbation`, (largest n, c, h, w), zero at first.
        box: of valid images.
        epsilon: radius, in units of the images.
        norm: of the ball.
        step_size: length of a step; None: epsilon, as in the paper.
        replays: uses of each batch; the training loop reads it. Each is a step of the optimiser: divide the epochs by
            it to train as long as without.
        label_smoothing: share of the target spread over all classes.

    Returns:
        The mean loss on the perturbed images and `robust_accuracy` on them; on validation data, for which no
        perturbation is at hand, the loss on the clean images alone.
    """
    if not classifier.training:
        return F.cross_entropy(wide(classifier(images)), labels, label_smoothing=label_smoothing), {}
    n = len(images)
    kept = state.get("perturbation", images[:0])
    if n > len(kept):
        kept = torch.cat((kept, images.new_zeros(n - len(kept), *images.shape[1:])))
    points = restrict(images, images + kept[:n], norm=norm, epsilon=epsilon, box=box).detach().requires_grad_(True)
    length = epsilon if step_size is None else step_size

    def climb(gradient: Tensor) -> None:
        moved = move(images, points.detach(), gradient, norm=norm, epsilon=epsilon, step_size=length, box=box)
        state["perturbation"] = torch.cat((moved - images, kept[n:]))

    points.register_hook(climb)  # type: ignore[no-untyped-call]
    logits = wide(classifier(points))
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return loss, {"robust_accuracy": accuracy(logits, labels)}
