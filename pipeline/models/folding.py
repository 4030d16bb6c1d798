"""The same classifier with fewer operations: batch normalisation folded into the convolutions before it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # by which logits may differ from the original's, relative to the largest; rounding makes about 1e-6


def folded(model: nn.Module, probe: Tensor) -> nn.Module:
    """A copy of a classifier for many passes: normalisation folded into convolutions, channels last on a CPU.

    In eval mode batch normalisation is an affine map of each channel, which the weights of the convolution before it
    can take in. The network is traced for that, and what cannot be traced, is not in eval mode throughout, or does not
    give the same logits on the probe to rounding (a random layer, say) comes back as it is. Logits of the copy differ
    from the original's by rounding, so decide on the original whether an image close to the boundary is across.
    Measured on one CPU thread, ResNet-20 at 32 pixels: 1.3 times as many forward and 1.4 times as many backward passes.

    Args:
        model: images to logits, in eval mode; it is left alone.
        probe: (n, c, h, w) a few images.

    Returns:
        The copy, in eval mode and frozen, or the model itself.
    """
    modules = list(model.modules())
    if not any(type(module) is nn.BatchNorm2d for module in modules) or any(module.training for module in modules):
        return model
    from torch.fx.experimental.optimization import fuse  # here, as it is only needed for some networks

    try:
        copied: nn.Module = fuse(copy.deepcopy(model))
        copied.eval().requires_grad_(False)
        if probe.device.type == "cpu":
            copied.to(memory_format=torch.channels_last)
        with torch.no_grad():
            given, got = model(probe), copied(probe)
    except Exception:  # a network that cannot be traced raises whatever its own code makes of a traced value
        return model
    slack = TOLERANCE * given.abs().amax().clamp_min(1)
    return copied if got.shape == given.shape and bool(((got - given).abs() <= slack).all()) else model
