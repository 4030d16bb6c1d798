"""What the tests of the corruptions share."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from pipeline import registry

LEVEL = 1 / 255


def natural(n: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Random images whose power falls with frequency, spread over the middle of the range, at 8 bits."""
    draw = np.random.default_rng(seed).normal(size=(n, channels, height, width))
    smooth = ndimage.gaussian_filter(draw, (0, 0, 1.5, 1.5), mode="wrap") + 0.1 * draw
    spread = smooth / np.abs(smooth).max()
    return (torch.from_numpy(0.5 + 0.4 * spread).float() * 255).round() / 255


def corrupt(name: str, images: torch.Tensor, severity: int, **options: object) -> torch.Tensor:
    seeds = torch.arange(len(images)) * 7919 + severity
    return registry.load("corruption", name)(images=images, seeds=seeds, severity=severity, **options)
