"""Second derivatives of logit differences, and of the loss, with respect to the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.numerics.boundary import gaps
from pipeline.numerics.norms import per_sample

Values = Callable[[Tensor, Tensor], Tensor]  # points (m, c, h, w) and the samples they belong to, (m,): values (m,)


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions of float32 images in float32: by default a GPU rounds them to 10 bits, too much for differences."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def hessian_products(
    model: nn.Module,
    points: Tensor,
    source: Tensor,
    other: Tensor,
    directions: Tensor,
    radius: float | None = None,
) -> Tensor:
    """Products H v of the Hessian of F = logit[other] - logit[source] with directions, sample by sample.

    With a radius h they are central differences of the gradient, (grad F(x + h v) - grad F(x - h v)) / 2h for |v| = 1,
    which see bends of the classifier within h: the only kind that says something about rectifier networks, whose
    Hessian is zero wherever it exists. Without, they are exact second derivatives, for smooth networks; attention then
    runs in the mathematical backend, the only one that can be differentiated twice. Samples must not interact in the
    forward pass (batch normalisation in eval mode).

    Args:
        model: images to logits.
        points: (n, c, h, w).
        source: (n,) int64.
        other: (n,) int64.
        directions: (n, k, c, h, w) of any length. A zero gives zero. Exact products are linear in them; differences
            scale with their length, but see bends only on the way that each direction takes.
        radius: of the differences, in units of the data; None: exact.

    Returns:
        (n, k, c, h, w), in the dtype of the points.
    """
    return _products(logit_gap(model, source, other), points, directions, radius)


def loss_hessian_products(
    model: nn.Module, points: Tensor, labels: Tensor, directions: Tensor, radius: float | None = None
) -> Tensor:
    """As `hessian_products`, of the cross-entropy with the labels (n,) int64."""
    return _products(cross_entropy(model, labels), points, directions, radius)


def logit_gap(model: nn.Module, source: Tensor, other: Tensor) -> Values:
    """F = logit[other] - logit[source]; zero on the boundary between the two classes, negative in `source`."""

    def values(points: Tensor, sample: Tensor) -> Tensor:
        return gaps(model(points), other[sample, None], source[sample]).squeeze(1)

    return values


def cross_entropy(model: nn.Module, labels: Tensor) -> Values:
    """The cross-entropy of each image with its label."""
    return lambda points, sample: functional.cross_entropy(model(points), labels[sample], reduction="none")


@full_precision()
def value_and_gradient(values: Values, points: Tensor, sample: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Values (m,) and their gradients (m, c, h, w), detached; by default each point is a sample of its own."""
    sample = torch.arange(len(points), device=points.device) if sample is None else sample
    with torch.enable_grad():
        inputs = points.detach().requires_grad_(True)
        found = values(inputs, sample)
        (gradient,) = torch.autograd.grad(found.sum(), inputs)
    return found.detach(), gradient


def _products(values: Values, points: Tensor, directions: Tensor, radius: float | None) -> Tensor:
    if radius is None:
        return _exact(values, points, directions)
    flat = directions.flatten(0, 1)
    length = torch.linalg.vector_norm(flat.flatten(1), dim=1)
    step = flat * per_sample(torch.where(length > 0, radius / length, 0), flat)
    sample = torch.arange(len(points), device=points.device).repeat_interleave(directions.shape[1])
    ahead, behind = (value_and_gradient(values, points[sample] + way * step, sample)[1] for way in (1, -1))
    return ((ahead - behind) * per_sample(length / (2 * radius), ahead)).view_as(directions)


@full_precision()
def _exact(values: Values, points: Tensor, directions: Tensor) -> Tensor:
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        inputs = points.detach().requires_grad_(True)
        found = values(inputs, torch.arange(len(points), device=points.device))
        (gradient,) = torch.autograd.grad(found.sum(), inputs, create_graph=True)
        if not gradient.requires_grad:  # affine
            return torch.zeros_like(directions)
        products = [
            torch.autograd.grad(gradient, inputs, direction, retain_graph=True, allow_unused=True)[0]
            for direction in directions.unbind(dim=1)
        ]
    return torch.stack([torch.zeros_like(points) if p is None else p for p in products], dim=1).detach()
