"""Signs that a classifier hides its gradients, so that attacks on it prove little.

Carlini et al., "On evaluating adversarial robustness" (2019); Pintor et al., "Indicators of attack failure" (NeurIPS
2022); the flags of AutoAttack's reference code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.numerics.gradients import loss_gradient
from pipeline.numerics.norms import linf

PROBED = 64  # images of the probes that need no more
ROUNDING = 1e-4  # of the largest logit; kernels that are not deterministic differ by less


def zero_gradients(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Whether the cross-entropy's gradient at each image is zero or not finite in every entry, (n,) bool.

    Args:
        model: images to logits.
        images: (n, c, h, w).
        labels: (n,) int64.
        batch_size: images at a time.
    """
    found = []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        size = linf(loss_gradient(model, images[rows], labels[rows])[2])
        found.append((size == 0) | ~size.isfinite())
    return torch.cat(found)


@torch.no_grad()
def random_forward(model: nn.Module, images: Tensor) -> bool:
    """Whether two forward passes of the same images differ by more than rounding; the first 64 images are used."""
    first, second = (model(images[:PROBED]) for _ in range(2))
    return bool(((first - second).abs() > ROUNDING * first.abs().amax()).any())


@torch.no_grad()
def softmax_output(model: nn.Module, images: Tensor) -> bool:
    """Whether the outputs are probabilities, not logits: none negative, each row sums to one."""
    outputs = model(images[:PROBED])
    return bool((outputs >= 0).all() and ((outputs.sum(dim=1) - 1).abs() < ROUNDING).all())
