"""A small network for the self-test, and the same network behind defences that only hide its gradients.

Each is a model factory as a config's `module:function` names one. Parameters have the same names in all of them, so
one set of weights fits; the defences are hooks, which see normalised images. They stand for those of Athalye et al.,
"Obfuscated gradients give a false sense of security" (ICML 2018), and for what AutoAttack's reference code warns of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LEVELS = 2  # per standard deviation of the images, of quantised inputs
COLD = 1e3  # inverse temperature
NOISE = 0.5  # standard deviations of the images


def plain(*, width: int = 8) -> nn.Sequential:
    """Two convolutions with batch normalisation and a linear layer, for grey images of 8 x 8 pixels, 10 classes.

    Args:
        width: channels of the first convolution; the second has twice as many.
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 16, 10),
    )


def quantised() -> nn.Module:
    """Inputs in coarse steps: the gradient is zero wherever there is one."""
    return _behind(_quantise)


def straight_through() -> nn.Module:
    """Inputs in the same steps, with the gradient passed on as if there were none."""
    return _behind(lambda images: images + (_quantise(images) - images).detach())


def killed() -> nn.Module:
    """An operation without a gradient between the images and the network."""
    return _behind(lambda images: images.detach() + 0 * images)


def reversed_gradient() -> nn.Module:
    """A layer that changes nothing but the sign of the gradient."""
    return _behind(lambda images: 2 * images.detach() - images)


def noisy() -> nn.Module:
    """Fresh noise at every forward pass."""
    return _behind(lambda images: images + NOISE * torch.randn_like(images))


def saturated() -> nn.Module:
    """Logits at so low a temperature that the cross-entropy's gradient is lost in float32."""
    return _before(lambda logits: COLD * logits)


def softmax() -> nn.Module:
    """Probabilities in place of logits."""
    return _before(lambda logits: logits.softmax(dim=1))


def train_mode() -> nn.Module:
    """Batch normalisation that stays in train mode, whatever it is told."""
    net = plain()
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = _Stubborn
    return net.train()


class _Stubborn(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> _Stubborn:
        return super().train(True)


def _quantise(images: Tensor) -> Tensor:
    return (LEVELS * images).round() / LEVELS


def _behind(change: Callable[[Tensor], Tensor]) -> nn.Module:
    """The plain network behind a change of its images."""

    def hook(module: nn.Module, given: tuple[Any, ...]) -> Tensor:
        return change(given[0])

    net = plain()
    net.register_forward_pre_hook(hook)
    return net


def _before(change: Callable[[Tensor], Tensor]) -> nn.Module:
    """The plain network before a change of its logits."""

    def hook(module: nn.Module, given: tuple[Any, ...], logits: Tensor) -> Tensor:
        return change(logits)

    net = plain()
    net.register_forward_hook(hook)
    return net
