"""Random filtering: PRIME's spectral primitive."""

from __future__ import annotations

import torch
from torch import Tensor


def spectral(images: Tensor, *, generator: torch.Generator, kernel_size: int = 3, sigma_max: float = 4.0) -> Tensor:
    """Filter each image with a random kernel: the unit impulse plus sigma times standard normal weights.

    One kernel serves all channels of an image; outside the image stand zeros; the result is clipped to [0, 1].
    Source: Modas et al., "PRIME: a few primitives can boost robustness to common corruptions", ECCV 2022. Differences
    to the released code: sigma is drawn per image, there once for the whole batch; and the impulse stands in the
    kernel's centre, there one place further along both axes (a corner of a 3 x 3 kernel), which shifts the image.

    Args:
        images: (n, c, h, w) in [0, 1].
        generator: CPU generator of all draws.
        kernel_size: odd.
        sigma_max: sigma ~ U(0, sigma_max) for each image; 0 is exactly the identity.

    Returns:
        (n, c, h, w) in [0, 1].

    Raises:
        ValueError: even kernel size.
    """
    kernels = random_kernels(len(images), generator=generator, kernel_size=kernel_size, sigma_max=sigma_max)
    return filtered(images, kernels.to(images)).clamp(0, 1)


def random_kernels(n: int, *, generator: torch.Generator, kernel_size: int, sigma_max: float) -> Tensor:
    """Kernels of `spectral`: (n, kernel_size, kernel_size) float32 on the CPU."""
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size {kernel_size}: expected an odd number, since the impulse stands in the centre")
    sigma = sigma_max * torch.rand(n, 1, 1, generator=generator)
    kernels = sigma * torch.randn(n, kernel_size, kernel_size, generator=generator)
    kernels[:, kernel_size // 2, kernel_size // 2] += 1
    return kernels


def filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Correlate image i with kernel i, every channel alike, zeros outside: (n, c, h, w), (n, k, k) -> (n, c, h, w)."""
    stacked = images.transpose(0, 1)  # (c, n, h, w): the images become groups of one convolution
    out = torch.nn.functional.conv2d(stacked, kernels[:, None], padding=kernels.shape[-1] // 2, groups=len(images))
    return out.transpose(0, 1)
