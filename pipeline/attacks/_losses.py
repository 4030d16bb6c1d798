"""What an attack in a ball may raise: losses of the logits, each larger the nearer the classifier is to an error."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.attacks.ascent import Objective, cross_entropy
from pipeline.contracts import UserError

TINY = 1e-12  # keeps the ratio finite where three logits are equal, as in the reference code


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest other logit less the label's, positive on an error: (n, classes) and (n,) int64 to (n,)."""
    return logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - logits.gather(1, labels[:, None]).squeeze(1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (Croce and Hein, ICML 2020): the margin over the first less the third largest logit.

    Neither a scale nor a shift of the logits changes it, so it does not vanish where the cross-entropy does.

    Raises:
        UserError: fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise UserError(
            f"loss: dlr needs at least 3 classes, the classifier has {logits.shape[1]}; choose ce or another loss"
        )
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + TINY)


LOSSES: Mapping[str, Objective] = {"ce": cross_entropy, "dlr": dlr, "margin": margin}


def loss_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, objective: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, losses and their gradient: one forward and one backward pass.

    Args:
        model: images to logits; its parameters may ask for gradients, they get none.
        images: (n, c, h, w).
        labels: (n,) int64.
        objective: the loss.

    Returns:
        Logits (n, classes), losses (n,) and gradients (n, c, h, w), all detached.
    """
    with torch.enable_grad():
        points = images.detach().requires_grad_(True)
        logits = model(points)
        losses = objective(logits, labels)
        (gradient,) = torch.autograd.grad(losses.sum(), points)
    return logits.detach(), losses.detach(), gradient
