"""CURE: curvature regularisation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.contracts import NonNegative, Positive, Share, UserError
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import l2, unit
from pipeline.training.perturbation import accuracy, in_eval_mode, wide

DEFAULT_WEIGHTS = {"paper": 0.16, "official": 0.8}


def curvature(
    *,
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    progress: float,
    box: Box = UNIT,
    weight: NonNegative | None = None,
    h: Positive = 0.6,
    ramp: Share = 0.3,
    mode: Literal["paper", "official"] = "paper",
    label_smoothing: Share = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy and the change of its input gradient over a step uphill (CURE: Moosavi-Dezfooli et al., CVPR 2019).

    With g the gradient of a sample's cross-entropy in the image and z = sign(g) / |sign(g)|, the penalty is the batch
    mean of |g(x + h z) - g(x)|^2 (`paper`; the factor 1 / h^2 is left to the weight), for small h h^2 |H z|^2 with
    the Hessian H. `official` is what the released code computes instead: the norm is not squared, and each gradient is
    that of the batch's mean loss, thus divided by the number of images in the batch. In both, z is held fixed and the
    penalty is computed in eval mode, as in that code, so BatchNorm's statistics see the clean images once. The points
    x + h z are not clipped to the box.
    Departures: h rises linearly with the share of the training that is done, where the code's notebook takes 0.1, 0.4,
    0.8, 1.8 in the first epochs and 3 from then on. The code's values are in units of images of deviation 1, here in
    those of the images: the defaults are the code's for images of deviation 0.2, about CIFAR-10's, by which a length
    (3) is multiplied, as is the weight of a gradient (4), once in `official` and twice, for its square, in `paper`. The
    code's 1e-7 beside the signs is left out: a zero gradient has no direction and no penalty. The penalty is computed
    without autocast and with plain attention: half precision leaves nothing of a difference of gradients, and fused
    kernels have no second derivative.

    Args:
        classifier: maps images to logits; its mode is restored.
        images: (n, c, h, w) in the box.
        labels: (n,).
        generator: unused: nothing is drawn.
        progress: share of the training that is done.
        box: unused but for its meaning: images come in the data's own space, and there the gradient is taken.
        weight: of the penalty, gamma in the paper, lambda in the code; None: 0.16 for `paper`, 0.8 for `official`. Too
            large a one makes the first steps of a training diverge.
        h: length of the step at the end of the ramp.
        ramp: share of the training in which h rises linearly from 0; 0: none.
        mode: `paper` or `official`.
        label_smoothing: share of the target spread over all classes, in the clean loss.

    Returns:
        The loss; `accuracy`, and the penalty without its weight as `curvature`.

    Raises:
        UserError: the network is compiled.
    """
    if any(hasattr(module, "_orig_mod") for module in classifier.modules()):
        raise UserError(
            "compile: given true, expected false: a compiled network has no second derivatives, which curvature needs"
        )
    logits = wide(classifier(images))
    length = h * min(1.0, progress / ramp) if ramp else h
    change = l2(gradient_change(classifier, images, labels, length))
    penalty = (change**2).mean() if mode == "paper" else change.mean() / len(images)
    factor = DEFAULT_WEIGHTS[mode] if weight is None else weight
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing) + factor * penalty
    return loss, {"accuracy": accuracy(logits, labels), "curvature": penalty.detach()}


def gradient_change(classifier: nn.Module, images: Tensor, labels: Tensor, length: float) -> Tensor:
    """How each sample's input gradient changes over a step along its own signs, in eval mode: (n, c, h, w).

    Differentiable in the parameters if the classifier is in train mode.
    """
    differentiable = classifier.training
    with (
        in_eval_mode(classifier),
        torch.autocast(images.device.type, enabled=False),
        sdpa_kernel(SDPBackend.MATH),
        torch.enable_grad(),
    ):

        def gradient(at: Tensor) -> Tensor:
            points = at.detach().requires_grad_(True)
            loss = F.cross_entropy(classifier(points), labels, reduction="sum")
            (found,) = torch.autograd.grad(loss, points, create_graph=differentiable)
            return found

        here = gradient(images)
        return gradient(images + length * unit(here.detach().sign())) - here
