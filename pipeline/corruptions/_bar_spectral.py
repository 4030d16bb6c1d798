"""Coloured noise by random phases, as CIFAR-10-C-bar and ImageNet-C-bar draw it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.numerics.randomness import per_sample


def coloured(seeds: Tensor, channels: int, height: int, width: int, amplitude: Callable[[Tensor], Tensor]) -> Tensor:
    """Real part of the inverse Fourier transform of amplitude(|f|) exp(i phase), scaled to deviation one.

    Channels are independent. The phase is uniform, but equal at the frequencies f and -1 - f (in cycles per image, on
    both axes), as in the code of Mintun et al. (NeurIPS 2021); -f is what a mirrored phase would need to give real
    noise of the exact amplitude. So the amplitude at f is random, |cos| of a uniform angle times the nominal one, and a
    pixel x is correlated with -x. We keep that law. Their code takes square images only, and is inconsistent for odd
    sizes (it mirrors phases about another place than amplitudes, never used); ours is one rule for every size.

    Each image's transform is a call of its own on the CPU, in float64, so it is equal bit for bit in any batch and on
    any device, and may be compared with a threshold.

    Args:
        seeds: (n,) int64, one stream of phases per image.
        channels: planes per image.
        height: pixels.
        width: pixels.
        amplitude: of the frequency's length, in cycles per sqrt(h w) pixels, (h, w // 2 + 1) float64; any common scale.

    Returns:
        (n, channels, h, w) float32 on the CPU: deviation one per plane; its mean is that of the zero frequency.
    """
    half, size = width // 2 + 1, math.sqrt(height * width)
    rows = torch.fft.fftfreq(height, dtype=torch.float64) * size
    columns = torch.fft.rfftfreq(width, dtype=torch.float64) * size
    nominal = amplitude(torch.hypot(rows[:, None], columns))
    drawn = (height * width + 1) // 2

    def draw(_: int, generator: torch.Generator) -> Tensor:
        phase = 2 * math.pi * torch.rand((channels, drawn), generator=generator).double()
        unit = torch.complex(phase.cos(), phase.sin())
        # In the transform's order the place of -1 - f, counted from the end, is that of f counted from the start.
        mirrored = unit.flip(-1)[:, 2 * drawn - height * width :]
        unit = torch.cat((unit, mirrored), -1).view(channels, height, width)
        # A real part in space keeps (F(f) + conj F(-f)) / 2 of a spectrum F; the phase of -f stands at f - 1.
        opposite = torch.cat((unit[..., -1:], unit[..., : half - 1]), -1).roll(1, -2).conj()
        plane: Tensor = torch.fft.irfft2(nominal * (unit[..., :half] + opposite), s=(height, width))
        return (plane / plane.std((-2, -1), correction=0, keepdim=True)).float()

    return per_sample(draw, seeds)
