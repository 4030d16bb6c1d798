"""Random transforms of some images of a batch, applied in blocks that fit a processor's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Takes images (b, c, h, w) and which of the draws are theirs; returns (b, c, h, w). All draws are made before.
Transform = Callable[[Tensor, slice], Tensor]
BLOCK_VALUES = 2**17  # of images, on the CPU: a block and its temporaries stay in the cache
BLOCK_IMAGES = 4  # at least, since a convolution of fewer channels is slower


def block_size(images: Tensor) -> int:
    """How many images to work on at a time: few on the CPU, all elsewhere."""
    if images.device.type != "cpu":
        return max(1, len(images))
    return max(BLOCK_IMAGES, BLOCK_VALUES // images.shape[1:].numel())


@torch.no_grad()
def transform_rows(images: Tensor, rows: Tensor, transform: Transform) -> None:
    """Transform images[rows] in place; draw i goes to image rows[i].

    Draws may come sorted, so that a block holds similar ones, which is faster: then `rows` is a random permutation.
    Mixed precision is switched off: it would round the pixels.
    """
    rows = rows.to(images.device)
    with torch.autocast(images.device.type, enabled=False):
        start = 0
        for block in torch.split(rows, block_size(images)):
            draws = slice(start, start + len(block))
            images.index_copy_(0, block, transform(images.index_select(0, block), draws))
            start = draws.stop


def transformed(images: Tensor, transform: Transform, *, generator: torch.Generator) -> Tensor:
    """Transform every image, with the draws in random order: (n, c, h, w), without gradient."""
    out = images.detach().clone(memory_format=torch.contiguous_format)
    transform_rows(out, torch.randperm(len(out), generator=generator), transform)
    return out
