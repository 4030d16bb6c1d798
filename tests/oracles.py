"""Classifiers with known geometry, in float64, and a few that misbehave."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """Logits W x + b on flattened images; weight (classes, entries), bias (classes,)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T + self.bias


class Rescaled(nn.Module):
    """Another model's logits, scaled and shifted: the same decisions."""

    def __init__(self, model: nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.model, self.scale, self.shift = model, scale, shift
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.model(images) + self.shift


class Constant(nn.Module):
    """The same logits everywhere, with gradients that are zero."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits, dtype=torch.float64)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.to(images) + 0 * images.flatten(1).sum(dim=1, keepdim=True)


class NanBeyond(nn.Module):
    """Another model's logits inside a radius around an image, NaN outside."""

    def __init__(self, model: nn.Module, centre: Tensor, radius: float) -> None:
        super().__init__()
        self.model, self.centre, self.radius = model, centre, radius
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        far = (images - self.centre).flatten(1).norm(dim=1, keepdim=True) > self.radius
        logits: Tensor = self.model(images)
        return logits.masked_fill(far, torch.nan)


def affine(shape: tuple[int, ...], classes: int, seed: int = 0) -> Affine:
    """Random affine classifier for images of a shape."""
    generator = torch.Generator().manual_seed(seed)
    entries = torch.Size(shape).numel()
    weight = torch.randn(classes, entries, generator=generator, dtype=torch.float64)
    bias = -weight.sum(dim=1) / 2  # the logits of the grey image are equal, so every class is predicted somewhere
    return Affine(weight, bias)


def network(shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
    """Small smooth network with random weights, float64, eval mode, frozen."""
    generator = torch.Generator().manual_seed(seed)
    entries = torch.Size(shape).numel()
    model = nn.Sequential(nn.Flatten(), nn.Linear(entries, 24), nn.Softplus(4), nn.Linear(24, classes)).double()
    for parameter in model.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.data = 3 * scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.requires_grad_(False)
    return model.eval()


def grey_images(count: int, shape: tuple[int, ...], spread: float = 0.1, seed: int = 1) -> Tensor:
    """Images near the middle of the box, (count, *shape) float64."""
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + spread * (2 * torch.rand(count, *shape, generator=generator, dtype=torch.float64) - 1)


def predictions(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        labels: Tensor = model(images).argmax(dim=1)
    return labels


def margins(model: Affine, images: Tensor, order: float = 2) -> Tensor:
    """Distance to the boundary of an affine classifier, min |f_k - f_0| / |w_k - w_0|_dual, (n,); order 2 or inf."""
    logits = model(images)
    source = logits.argmax(dim=1)
    gap = logits.gather(1, source[:, None]) - logits
    normals = model.weight[None] - model.weight[source][:, None]  # (n, classes, entries)
    lengths = normals.norm(dim=2) if order == 2 else normals.abs().sum(dim=2)
    return (gap / lengths).scatter(1, source[:, None], torch.inf).amin(dim=1)


def subspace_margins(model: Affine, images: Tensor, basis: Tensor) -> Tensor:
    """Distance to the boundary inside the span of the columns of an orthonormal basis (entries, d), (n,)."""
    logits = model(images)
    source = logits.argmax(dim=1)
    gap = logits.gather(1, source[:, None]) - logits
    normals = (model.weight[None] - model.weight[source][:, None]) @ basis
    return (gap / normals.norm(dim=2)).scatter(1, source[:, None], torch.inf).amin(dim=1)
