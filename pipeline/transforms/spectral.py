"""Random filtering: PRIME's spectral primitive."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.contracts import NonNegative, UserError
from pipeline.transforms._blocks import Transform, transformed


def spectral(
    *,
    images: Tensor,
    generator: torch.Generator,
    mode: Literal["default", "official"] = "default",
    kernel_size: Literal[1, 3, 5, 7] = 3,
    sigma_max: NonNegative = 4.0,
) -> Tensor:
    """Filter each image with a random kernel: the unit impulse plus sigma times standard normal weights.

    One kernel serves all channels of an image; outside the image stand zeros; the result is clipped to [0, 1].
    Source: Modas et al., "PRIME: a few primitives can boost robustness to common corruptions", ECCV 2022. Differences
    to the released code, of which mode `official` removes the first two: sigma is drawn per image, there once for the
    whole batch; the impulse stands in the kernel's centre, there one place further along both axes (a corner of a
    3 x 3 kernel), which shifts the image by one pixel and fills the last row and column with zeros; and it replaces
    NaN, which cannot arise here, by 1.

    Args:
        images: (n, c, h, w) in [0, 1].
        generator: CPU generator of all draws.
        mode: `official` follows the released code: one sigma a batch and the impulse off the centre.
        kernel_size: pixels a side, odd; at least 3 in mode `official`.
        sigma_max: sigma ~ U(0, sigma_max) for each image; 0 is exactly the identity, and exactly the shift by one pixel
            in mode `official`. A share of erfc(1 / (sqrt(18) sigma)) of mid-grey is clipped: half at 0.5, 93 % at 4.

    Returns:
        (n, c, h, w) in [0, 1].

    Raises:
        UserError: even kernel size; size 1 in mode `official`.
    """
    transform = random_filters(
        len(images), generator=generator, mode=mode, kernel_size=kernel_size, sigma_max=sigma_max
    )
    return transformed(images, transform, generator=generator)


def random_filters(
    n: int, *, generator: torch.Generator, mode: Literal["default", "official"], kernel_size: int, sigma_max: float
) -> Transform:
    """The draws of `spectral` for n images, as a transform."""
    kernels = random_kernels(n, generator=generator, mode=mode, kernel_size=kernel_size, sigma_max=sigma_max)
    return lambda images, draws: filtered(images, kernels[draws].to(images)).clamp_(0, 1)


def random_kernels(
    n: int, *, generator: torch.Generator, mode: Literal["default", "official"], kernel_size: int, sigma_max: float
) -> Tensor:
    """Kernels of `spectral`: (n, kernel_size, kernel_size) float32 on the CPU."""
    if kernel_size % 2 == 0:
        raise UserError(f"kernel_size: given {kernel_size}, expected an odd number, so that the kernel has a centre")
    if mode == "official" and kernel_size == 1:
        raise UserError("kernel_size: given 1, expected 3, 5 or 7 in mode 'official', whose impulse is off the centre")
    sigma = sigma_max * torch.rand(1 if mode == "official" else n, 1, 1, generator=generator)
    kernels = sigma * torch.randn(n, kernel_size, kernel_size, generator=generator)
    impulse = kernel_size // 2 + (mode == "official")
    kernels[:, impulse, impulse] += 1
    return kernels


def filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Correlate image i with kernel i, every channel alike, zeros outside: (n, c, h, w), (n, k, k) -> (n, c, h, w)."""
    n, c, height, width = images.shape
    size = kernels.shape[-1]
    # One depthwise convolution, in which every channel of every image is a channel.
    weights = kernels[:, None].expand(n, c, size, size).reshape(n * c, 1, size, size)
    stacked = images.reshape(1, n * c, height, width)
    return torch.nn.functional.conv2d(stacked, weights, padding=size // 2, groups=n * c).reshape(images.shape)
