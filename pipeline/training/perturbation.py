"""What the adversarial trainings share: perturbations sought in eval mode, where they start, and small helpers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.attacks.ascent import Objective, cross_entropy, projected_ascent
from pipeline.numerics.box import Box
from pipeline.numerics.norms import uniform_in_ball

SMALL = 0.001  # deviation of a Gaussian start, TRADES' and MART's


@contextlib.contextmanager
def in_eval_mode(classifier: nn.Module) -> Iterator[None]:
    """Eval mode, so that BatchNorm keeps its statistics; each module's own mode is restored, whatever happens."""
    training = [module for module in classifier.modules() if module.training]
    classifier.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def perturb(
    *,
    classifier: nn.Module,
    images: Tensor,
    target: Tensor,
    start: Tensor,
    norm: str,
    epsilon: float,
    steps: int,
    step_size: float | None,
    box: Box,
    objective: Objective = cross_entropy,
) -> Tensor:
    """Images that raise the objective, by projected gradient ascent in eval mode; parameters get no gradient.

    Args:
        classifier: images to logits, in any mode, which is restored.
        images: (n, c, h, w) in the box.
        target: labels (n,), or whatever the objective compares the logits with.
        start: (n, c, h, w), brought into ball and box before the first step.
        norm: `l1`, `l2` or `linf`.
        epsilon: radius of the ball.
        steps: gradient steps.
        step_size: length of a step; None: 2.5 epsilon / steps, enough to cross the ball and come back.
        box: of valid images.
        objective: what to raise.

    Returns:
        (n, c, h, w) detached, inside ball and box.
    """
    with in_eval_mode(classifier):
        return projected_ascent(
            model=classifier,
            images=images,
            labels=target,
            start=start,
            norm=norm,
            epsilon=epsilon,
            step_size=2.5 * epsilon / steps if step_size is None else step_size,
            steps=steps,
            box=box,
            objective=objective,
        )


def predictions(classifier: nn.Module, images: Tensor) -> Tensor:
    """Logits in eval mode, detached.

    The pass records gradients although nobody asks for them: in older releases of torch, autocast hands the weights
    that a pass without them has cast to the later passes, which then give the parameters none.
    """
    with in_eval_mode(classifier), torch.enable_grad():
        logits: Tensor = classifier(images)
    return logits.detach()


def uniform_start(images: Tensor, generator: torch.Generator, norm: str, radius: float) -> Tensor:
    """Images plus a uniform draw of the ball of that radius, from a CPU generator."""
    return images + radius * uniform_in_ball(images.shape, norm, generator).to(images)


def gaussian_start(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images plus a little Gaussian noise: enough to leave the point at which a divergence has no gradient."""
    return images + SMALL * torch.randn(images.shape, generator=generator).to(images)


def kl_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """KL(reference || logits) of the predictions in nats: (n, classes) twice to (n,)."""
    log_p, log_q = wide(reference).log_softmax(1), wide(logits).log_softmax(1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the samples whose largest logit is their label's: ()."""
    return (logits.detach().argmax(1) == labels).float().mean()


def wide(logits: Tensor) -> Tensor:
    """In float32 at least: a loss of half-precision logits would lose digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
