"""Count the forward and backward passes of a method from outside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class CountedModel(nn.Module):
    """A model that counts the passes made through it, each weighted by its batch size.

    Dividing by the number of samples gives passes per sample, whatever the batching of the method under test. A
    backward pass is counted when a gradient flows back through the logits, so k class gradients count as k passes.
    Gradients batched by `vmap` (`is_grads_batched=True`) arrive as one and count once.

    Attributes:
        forward_passes: samples sent forward so far.
        backward_passes: samples sent backward so far.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward_passes = 0
        self.backward_passes = 0
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the wrapped model, unchanged."""
        self.forward_passes += len(images)
        logits: Tensor = _Tap.apply(self.model(images), self)
        return logits


class _Tap(torch.autograd.Function):
    """Identity that reports when a gradient comes back."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, counter: CountedModel) -> Tensor:
        ctx.counter = counter
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        ctx.counter.backward_passes += len(gradient)
        return gradient, None
