"""HybridAugment++: low frequencies, with a foreign amplitude spectrum, under the high frequencies of another image."""

from __future__ import annotations

import functools
from typing import Annotated, Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from pipeline.contracts import Positive, Range, Share
from pipeline.transforms._operations import random_operations

OWN_SWAP_PROBABILITY = 0.5  # of the swap inside one image; fixed in the released code


def hybrid_augment(
    *,
    images: Tensor,
    generator: torch.Generator,
    variant: Literal["PS", "P", "S"] = "PS",
    swap_amplitude: bool = True,
    pair_probability: Share = 0.6,
    swap_probability: Share = 0.6,
    single_probability: Share = 0.5,
    severity: Annotated[float, Range(low=0, high=10)] = 3.0,
    kernel_size: Literal[1, 3, 5, 7, 9] = 3,
    sigma: Positive = 0.5,
    mode: Literal["per_image", "official"] = "per_image",
) -> Tensor:
    """Augment a batch so that only low frequencies and phases tell the label, which stays the low frequencies' own.

    LF is a Gaussian blur and HF = 1 - LF. `single` (S) makes a hybrid of two randomly altered copies of one image, then
    `paired` (P) one of different images of the batch; PS is both, one after the other. Both are described with their
    functions. Source: Yucel, Cinbis, Duygulu, "HybridAugment++: unified frequency spectra perturbations for model
    robustness", ICCV 2023; the swap of amplitudes is Chen et al., "Amplitude-phase recombination", ICCV 2021.

    As the released code, which here departs from the paper: the foreign amplitudes are those of a blurred image and are
    swapped in with a probability (the paper: always, of the image as it is); of two altered copies one is altered again
    from the other (the paper: each from the image); S alters each image at least once, whatever the coin says. As its
    CIFAR code, that is: for ImageNet `swap_probability` is 0.5 and in P `sigma` 1 (the paper: 0.5 throughout).
    Departures from the released code: `mode` below; S follows the loop's crop and flip, there it precedes them;
    between its operations S does not round to 8 bits; the result is clipped to [0, 1], there P's is not.

    Args:
        images: (n, c, h, w) in [0, 1].
        generator: CPU generator of all draws.
        variant: `PS`, `P` or `S`.
        swap_amplitude: False is HybridAugment without `++`: no swap of amplitudes in either part.
        pair_probability: of P's hybrid.
        swap_probability: of P's swap of amplitudes, given its hybrid.
        single_probability: of S's hybrid.
        severity: of S's operations, those of AugMix, of 10.
        kernel_size: pixels a side of the blur, at most twice the shorter side minus 1.
        sigma: standard deviation of the blur in pixels.
        mode: `per_image`: P's coins are tossed for each image, and S clips to [0, 1]. `official`: P's coins are tossed
            once for the batch, and where S leaves [0, 1] its 8-bit values are cut and wrap around modulo 256, so
            that some overshooting pixels turn dark or bright.

    Returns:
        (n, c, h, w) in [0, 1], without gradient.
    """
    out = images
    if variant != "P":
        out = single(
            out,
            generator=generator,
            probability=single_probability,
            swap_amplitude=swap_amplitude,
            severity=severity,
            kernel_size=kernel_size,
            sigma=sigma,
            mode=mode,
        )
    if variant != "S":
        out = paired(
            out,
            generator=generator,
            probability=pair_probability,
            swap_probability=swap_probability if swap_amplitude else 0.0,
            kernel_size=kernel_size,
            sigma=sigma,
            mode=mode,
        )
    return out.clamp(0, 1)


@torch.no_grad()
def paired(
    images: Tensor,
    *,
    generator: torch.Generator,
    probability: float,
    swap_probability: float,
    kernel_size: int,
    sigma: float,
    mode: str,
) -> Tensor:
    """LF(x_i) + HF(x_j), and with `swap_probability` LF(x_i) with the amplitudes of LF(x_k): not clipped.

    j and k are two random permutations of the batch, which may leave an image to itself.

    Args:
        images: (n, c, h, w).
        generator: CPU generator of all draws.
        probability: of the hybrid; else the image stays exactly as it is.
        swap_probability: of the swap, given the hybrid.
        kernel_size: of the blur, odd.
        sigma: of the blur.
        mode: `official`: one coin for all images.
    """
    n = len(images)
    tosses = 1 if mode == "official" else n
    chosen, swapped = ((torch.rand(tosses, generator=generator) < p).expand(n) for p in (probability, swap_probability))
    partners, donors = (torch.randperm(n, generator=generator).to(images.device) for _ in range(2))
    low, high = bands(images, kernel_size, sigma)
    rows = (chosen & swapped).nonzero()[:, 0].to(images.device)
    if len(rows):
        low[rows] = recombined(amplitude=low[donors[rows]], phase=low[rows])
    return torch.where(chosen.view(-1, 1, 1, 1).to(images.device), low + high[partners], images)


@torch.no_grad()
def single(
    images: Tensor,
    *,
    generator: torch.Generator,
    probability: float,
    swap_amplitude: bool,
    severity: float,
    kernel_size: int,
    sigma: float,
    mode: str,
) -> Tensor:
    """LF(x') + HF(x'') or LF(x'') + HF(x'): x' is the image after a random operation, x'' is x' after another one.

    With `swap_amplitude` the low part is altered once more and, by a coin, recombined from the amplitudes and phases of
    that and of a further altered copy.

    Args:
        images: (n, c, h, w) in [0, 1].
        generator: CPU generator of all draws, which are made for each image.
        probability: of the hybrid; else x'.
        swap_amplitude: the difference between HybridAugment++ and HybridAugment.
        severity: of the operations.
        kernel_size: of the blur, odd.
        sigma: of the blur.
        mode: `official` wraps where `per_image` clips.
    """
    alter = functools.partial(random_operations, generator=generator, severity=severity)
    confine = _wrap if mode == "official" else _clip
    out = alter(images)
    rows = _draw_rows(len(images), probability, generator).to(images.device)
    if len(rows):
        one, other = _shuffled(out[rows], alter(out[rows]), generator)
        low, _ = bands(one, kernel_size, sigma)
        _, high = bands(other, kernel_size, sigma)
        if swap_amplitude:
            low = alter(low)
            swapped = _draw_rows(len(low), OWN_SWAP_PROBABILITY, generator).to(images.device)
            if len(swapped):
                amplitude, phase = _shuffled(low[swapped], alter(low[swapped]), generator)
                low[swapped] = confine(recombined(amplitude=amplitude, phase=phase))
        out[rows] = confine(low + high)
    return out


def bands(images: Tensor, kernel_size: int, sigma: float) -> tuple[Tensor, Tensor]:
    """Low and high frequencies: a Gaussian blur, mirrored at the border, and the rest; their sum is the image."""
    with torch.autocast(images.device.type, enabled=False):  # which would round the convolution
        low: Tensor = vision.gaussian_blur(images, [kernel_size] * 2, [sigma] * 2)
    return low, images - low


def recombined(*, amplitude: Tensor, phase: Tensor) -> Tensor:
    """Image with the amplitudes of one and the phases of the other (n, c, h, w), not clipped.

    The Fourier transform runs over channels, height and width, as in the released code.
    """
    axes = (1, 2, 3)
    sizes, angles = (torch.fft.rfftn(part, dim=axes) for part in (amplitude, phase))
    out: Tensor = torch.fft.irfftn(torch.polar(sizes.abs(), angles.angle()), s=phase.shape[1:], dim=axes)
    return out


def _draw_rows(n: int, probability: float, generator: torch.Generator) -> Tensor:
    """Numbers of the images whose coin says yes."""
    return (torch.rand(n, generator=generator) < probability).nonzero()[:, 0]


def _shuffled(one: Tensor, other: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The two, exchanged for each image by a fair coin."""
    coin = (torch.rand(len(one), 1, 1, 1, generator=generator) < 0.5).to(one.device)
    return torch.where(coin, one, other), torch.where(coin, other, one)


def _clip(images: Tensor) -> Tensor:
    return images.clamp(0, 1)


def _wrap(images: Tensor) -> Tensor:
    """Cut to whole 255ths and wrap around modulo 256, as a cast to 8 bits does on common machines."""
    return (255 * images).trunc().remainder(256) / 255
