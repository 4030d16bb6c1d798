"""Adversarial weight perturbation: the loss at the worst nearby weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.numerics.norms import unit

Forward = Callable[[Tensor], Tensor]  # images to logits
Measured = tuple[Tensor, dict[str, Tensor]]  # loss and metrics


def at_worst_weights(classifier: nn.Module, measure: Callable[[Forward], Measured], gamma: float) -> Measured:
    """Loss and metrics at weights moved uphill (AWP: Wu, Xia, Wang, NeurIPS 2020).

    Each weight tensor w becomes w + gamma |w| g / |g|, g the gradient of the same loss; the shift is constant, so the
    loss's gradient is that at the moved weights, taken as if it were at w, as in AWP. Moved are, as in the authors'
    code, parameters of two dimensions or more named `weight`: neither biases nor normalisation layers.
    Departures: one direct step, there an SGD step of a copy of the network, rescaled to the same length; nothing is
    moved back, since the moved weights are passed to the network instead of stored in it; no epochs without
    perturbation at the start (the authors' TRADES has 10); the pass that finds g leaves BatchNorm's running statistics
    alone, there it updates the copy's.

    Args:
        classifier: images to logits; perturbed in train mode alone, so that validation is of the weights kept.
        measure: maps a forward pass (images to logits) to the loss and its metrics.
        gamma: length of the shift relative to the weights', 0.005 in the paper; 0 turns it off.

    Returns:
        What `measure` returns.
    """
    if not gamma or not classifier.training:
        return measure(classifier)
    weights = {
        name: parameter
        for name, parameter in classifier.named_parameters()
        if parameter.requires_grad and parameter.ndim > 1 and name.rpartition(".")[2] == "weight"
    }
    copies = {name: buffer.clone() for name, buffer in classifier.named_buffers()}
    loss, _ = measure(lambda images: _logits(classifier, copies, images))
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    moved = {
        name: weight + gamma * weight.detach().norm() * unit(gradient[None])[0]
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }
    return measure(lambda images: _logits(classifier, moved, images))


def _logits(classifier: nn.Module, tensors: dict[str, Tensor], images: Tensor) -> Tensor:
    found: Tensor = functional_call(classifier, tensors, (images,))
    return found
