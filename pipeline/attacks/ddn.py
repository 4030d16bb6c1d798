"""DDN: minimal l2 perturbations with direction and length decoupled."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.attacks import _foolbox
from pipeline.contracts import Count, Positive, Share
from pipeline.numerics.box import UNIT, Box

NORM = "l2"


def ddn(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    box: Box = UNIT,
    steps: Count = 100,
    initial_epsilon: Positive = 1.0,
    gamma: Share = 0.05,
) -> Tensor:
    """Decoupled direction and norm (Rony et al., CVPR 2019), by foolbox.

    Each step goes along the gradient of the cross-entropy, with a step size that falls from 1 to 0.01 along a cosine;
    the perturbation is then given a length that shrinks where the image is misclassified and grows where it is not.
    The shortest misclassified iterate is kept.

    Departures: images are rescaled to [0, 1] first, so lengths are in units of the box's width, and what does not fool
    the classifier is left as it was. Only where a gradient is zero does the library draw a direction at random; the
    draw is the same for every sample, so that it does not depend on the batch.

    Args:
        model: images to logits.
        images: (n, c, h, w) in the box.
        labels: (n,) int64.
        seeds: not used.
        box: of valid images, bounded and not flipped.
        steps: gradient steps.
        initial_epsilon: first length, in l2, in units of the box's width.
        gamma: share by which the length changes in a step.

    Returns:
        (n, c, h, w) perturbed images; the clean image where none was found.

    Raises:
        UserError: the box is flipped or unbounded.
    """
    attack = _foolbox.DDNAttack(init_epsilon=initial_epsilon, steps=steps, gamma=gamma)
    return _foolbox.run(attack, model=model, images=images, labels=labels, box=box)
