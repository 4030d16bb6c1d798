"""PRIME: random chains of three primitives, mixed with the clean image."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

from pipeline.transforms.colour import colour
from pipeline.transforms.spatial import spatial
from pipeline.transforms.spectral import spectral


def prime(
    images: Tensor,
    *,
    generator: torch.Generator,
    width: int = 3,
    depth: int = 3,
    mixing: Literal["dirichlet", "beta"] = "dirichlet",
    kernel_size: int = 3,
    sigma_max: float = 4.0,
    cut_max: int | None = None,
    alpha: float = 1.0,
    displacement: float = 1.0,
    frequencies: int = 100,
    t_max: float = 0.01,
    bandwidth: int | None = None,
) -> Tensor:
    """Augment a batch: each image becomes a random convex combination of itself and `width` transformed copies.

    A chain draws `depth` times, uniformly, from {identity, spectral, spatial, colour} and applies what it drew; the
    primitives are documented with their functions. Source: Modas et al., "PRIME: a few primitives can boost robustness
    to common corruptions", ECCV 2022. Differences to the released code: it has no identity but a depth drawn from
    {1, ..., depth}, draws the strengths once for the whole batch, and mixes as `beta` does. Every primitive is computed
    only on the images that drew it. Where a strength is zero its primitive becomes the identity, and is still drawn.

    Args:
        images: (n, c, h, w) in [0, 1].
        generator: CPU generator of all draws, whatever the images' device.
        width: number of chains.
        depth: draws per chain.
        mixing: `dirichlet`: the weights of the clean image and of the chains ~ Dirichlet(1, ..., 1), all alike (the
            paper); `beta`: the clean image has a weight ~ U(0, 1), the chains share the rest by Dirichlet(1, ..., 1).
        kernel_size: of `spectral`.
        sigma_max: of `spectral`.
        cut_max: of `spatial`.
        alpha: of `spatial`.
        displacement: of `spatial`.
        frequencies: of `colour`.
        t_max: of `colour`.
        bandwidth: of `colour`.

    Returns:
        (n, c, h, w) in [0, 1], without gradient.
    """
    primitives = (
        functools.partial(spectral, generator=generator, kernel_size=kernel_size, sigma_max=sigma_max),
        functools.partial(spatial, generator=generator, cut_max=cut_max, alpha=alpha, displacement=displacement),
        functools.partial(colour, generator=generator, frequencies=frequencies, t_max=t_max, bandwidth=bandwidth),
    )
    n = len(images)
    weights = mixing_weights(n, width, mixing, generator=generator).to(images)
    drawn = torch.randint(len(primitives) + 1, (depth, width * n), generator=generator)  # the last is the identity
    with torch.no_grad():
        chains = images.detach().repeat(width, 1, 1, 1)
        for step in drawn:
            for number, primitive in enumerate(primitives):
                rows = (step == number).nonzero()[:, 0].to(images.device)
                if len(rows):
                    chains[rows] = primitive(chains[rows])
        # Adding weighted differences keeps an image whose chains are all the identity exactly as it is.
        change = chains.view(width, *images.shape) - images
        mixed = images + torch.einsum("nk,knchw->nchw", weights[:, 1:], change)
        return mixed.clamp(0, 1)


def mixing_weights(n: int, width: int, mixing: Literal["dirichlet", "beta"], *, generator: torch.Generator) -> Tensor:
    """Weights of the clean image (first) and of the chains: (n, width + 1), each row sums to 1."""
    # Normalised exponential draws follow Dirichlet(1, ..., 1).
    shares = torch.empty(n, width + 1).exponential_(generator=generator)
    if mixing == "beta":
        clean = torch.rand(n, 1, generator=generator)
        chains = (1 - clean) * shares[:, 1:] / shares[:, 1:].sum(1, keepdim=True)
        return torch.cat((clean, chains), dim=1)
    return shares / shares.sum(1, keepdim=True)
