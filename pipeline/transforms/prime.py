"""PRIME: random chains of three primitives, mixed with the clean image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor

from pipeline.contracts import Count, NonNegative, Range
from pipeline.transforms._blocks import Transform, block_size, transform_rows
from pipeline.transforms.colour import random_curves
from pipeline.transforms.spatial import random_deformations
from pipeline.transforms.spectral import random_filters

PRIMITIVES = 3


@torch.no_grad()
def prime(
    *,
    images: Tensor,
    generator: torch.Generator,
    mode: Literal["default", "official"] = "default",
    width: Count = 3,
    depth: Count = 3,
    mixing: Literal["dirichlet", "beta"] | None = None,
    kernel_size: Literal[1, 3, 5, 7] = 3,
    sigma_max: NonNegative = 4.0,
    cut_max: Annotated[int, Range(low=3)] | None = None,
    alpha: NonNegative = 1.0,
    displacement: NonNegative = 1.0,
    frequencies: Count = 100,
    t_max: NonNegative = 0.01,
    bandwidth: Count | None = None,
) -> Tensor:
    """Augment a batch: each image becomes a random convex combination of itself and `width` transformed copies.

    A chain draws `depth` times, uniformly, from {identity, spectral, spatial, colour} and applies what it drew; the
    primitives are documented with their functions. Source: Modas et al., "PRIME: a few primitives can boost robustness
    to common corruptions", ECCV 2022. The released code is another augmentation; mode `official` follows it:

    | | `default`, the paper | `official`, the released code |
    |---|---|---|
    | chain | Binomial(depth, 3/4) primitives: 1.6 % of the chains of depth 3 stay clean | U{1, ..., depth} primitives |
    | mixing | `dirichlet`: the clean weight has mean 1/4 and is above 1/2 in 12 % (width 3) | `beta`: mean 1/2, 50 % |
    | strengths | drawn for each image | one a step for all images and chains, with one spatial field |
    | spectral kernel | impulse in the centre | impulse in the corner: also a shift by a pixel |
    | largest spatial cut | one less than the image's side | 100 up to 64 pixels, 500 above |

    What mode `official` does not copy: every primitive is computed only on the images that drew it, there on all; the
    order of the draws; the colour primitive reads a table; images need not be square.

    The released settings; all others are the same everywhere, and the defaults here:

    | | CIFAR | ImageNet-100 | ImageNet |
    |---|---|---|---|
    | frequencies | 100 | 500 | 500 |
    | t_max | 0.01 | 0.05 | 0.05 |
    | bandwidth | none | 20 | 20 |
    | cut_max | 100 | 500 | 500 |

    Args:
        images: (n, c, h, w) in [0, 1].
        generator: CPU generator of all draws, whatever the images' device.
        mode: `default` or `official`, as in the table.
        width: number of chains.
        depth: draws per chain, or the largest number of primitives in mode `official`.
        mixing: `dirichlet`: the weights of the clean image and of the chains ~ Dirichlet(1, ..., 1), all alike;
            `beta`: the clean image has a weight ~ U(0, 1), the chains share the rest by Dirichlet(1, ..., 1); None: the
            mode's own.
        kernel_size: of `spectral`.
        sigma_max: of `spectral`.
        cut_max: of `spatial`; None: by the mode and the image's size.
        alpha: of `spatial`.
        displacement: of `spatial`.
        frequencies: of `colour`.
        t_max: of `colour`.
        bandwidth: of `colour`.

    Returns:
        (n, c, h, w) in [0, 1], without gradient.

    Raises:
        UserError: see `spectral` and `spatial`.
    """
    n, channels, height, breadth = images.shape

    def filters(rows: int) -> Transform:
        return random_filters(rows, generator=generator, mode=mode, kernel_size=kernel_size, sigma_max=sigma_max)

    def deformations(rows: int) -> Transform:
        return random_deformations(
            rows, height, breadth, generator=generator, mode=mode, cut_max=cut_max, alpha=alpha,
            displacement=displacement,
        )  # fmt: skip

    def curves(rows: int) -> Transform:
        return random_curves(
            rows, channels, generator=generator, mode=mode, frequencies=frequencies, t_max=t_max, bandwidth=bandwidth
        )

    primitives: tuple[Callable[[int], Transform], ...] = (filters, deformations, curves)
    idle = (sigma_max == 0 and mode == "default", displacement == 0, t_max == 0)
    weights = mixing_weights(n, width, mixing or ("dirichlet" if mode == "default" else "beta"), generator=generator)
    drawn = random_chains(width * n, depth, mode, generator=generator)
    # A primitive of strength zero is drawn, and is the identity.
    drawn[torch.tensor([*idle, True])[drawn]] = PRIMITIVES
    chains = images.repeat(width, 1, 1, 1)
    for step in drawn:
        order = torch.randperm(len(step), generator=generator)  # the draws of a primitive come sorted
        for number, primitive in enumerate(primitives):
            rows = order[step[order] == number]
            if len(rows):
                transform_rows(chains, rows, primitive(len(rows)))
    changed = (drawn != PRIMITIVES).any(0).view(width, n)
    return mixed(images, chains.view(width, *images.shape), (weights[:, 1:] * changed.T).to(images))


def random_chains(
    chains: int, depth: int, mode: Literal["default", "official"], *, generator: torch.Generator
) -> Tensor:
    """Primitive of each step and chain, 0 to 2, or 3 for the identity: (depth, chains)."""
    if mode == "default":
        return torch.randint(PRIMITIVES + 1, (depth, chains), generator=generator)
    drawn = torch.randint(PRIMITIVES, (depth, chains), generator=generator)
    length = torch.randint(1, depth + 1, (chains,), generator=generator)
    return drawn.where(torch.arange(depth)[:, None] < length, PRIMITIVES)


def mixing_weights(n: int, width: int, mixing: Literal["dirichlet", "beta"], *, generator: torch.Generator) -> Tensor:
    """Weights of the clean image (first) and of the chains: (n, width + 1), each row sums to 1."""
    # Normalised exponential draws follow Dirichlet(1, ..., 1).
    shares = torch.empty(n, width + 1).exponential_(generator=generator)
    if mixing == "beta":
        clean = torch.rand(n, 1, generator=generator)
        chains = (1 - clean) * shares[:, 1:] / shares[:, 1:].sum(1, keepdim=True)
        return torch.cat((clean, chains), dim=1)
    return shares / shares.sum(1, keepdim=True)


def mixed(images: Tensor, chains: Tensor, weights: Tensor) -> Tensor:
    """Combine each image with its chains: (n, c, h, w), (width, n, c, h, w), (n, width) -> (n, c, h, w) in [0, 1].

    The clean image takes what the chains leave of 1, so it stays exactly as it is where all weights are zero.
    """
    out = torch.empty_like(images)
    parts = (out, images, chains.transpose(0, 1), weights[..., None, None, None])
    blocks = (torch.split(part, block_size(images)) for part in parts)
    for block, clean, changed, own in zip(*blocks, strict=True):
        torch.mul(clean, 1 - own.sum(1), out=block)
        for chain, weight in zip(changed.unbind(1), own.unbind(1), strict=True):
            block.addcmul_(chain, weight)
        block.clamp_(0, 1)
    return out
