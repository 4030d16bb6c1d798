"""Features of images, and of random augmentations of each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pipeline.contracts import UserError, derive_seed

Augmentation = Callable[..., Tensor]  # called with `images` (n, c, h, w) and `generator`: the same shape


@torch.no_grad()
def features_of(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """What the last linear or convolutional layer that a pass calls is given: (n, features).

    For networks that end in a linear layer, as nearly all do, these are the penultimate features; of timm's that is
    `forward_head(pre_logits=True)`. Where that layer works at many positions, the mean over these.

    Args:
        model: images to logits.
        images: (n, c, h, w).
        batch_size: images per pass.

    Raises:
        UserError: the model calls no such layer.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    last: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        last.clear()
        last[layer] = given[0]

    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    parts = []
    try:
        for part in torch.split(images, batch_size):
            model(part)
            parts += [_pooled(layer, given) for layer, given in last.items()]
    finally:
        for handle in handles:
            handle.remove()
    if not parts:
        raise UserError(
            "augmentation_distance: the classifier has no linear layer at its end; leave it out for this one"
        )
    return torch.cat(parts)


def _pooled(layer: nn.Module, given: Tensor) -> Tensor:
    """Mean over positions: (n, d, h, w) of a convolution, (n, ..., d) of a linear layer -> (n, d)."""
    if isinstance(layer, nn.Conv2d):
        return given.flatten(2).mean(dim=2)
    return given if given.ndim == 2 else given.flatten(1, -2).mean(dim=1)


def drawn_features(
    model: nn.Module,
    pixels: Tensor,
    seeds: Tensor,
    name: str,
    augment: Augmentation,
    into: Callable[[Tensor], Tensor],
    *,
    draws: int,
    together: int,
    batch_size: int,
) -> Iterator[Tensor]:
    """Features of `draws` augmentations of each image, some images at a time: (images, draws, features).

    Each image has a generator of its own, so neither the batch nor the order of the images matters, and equal seeds
    give equal draws.

    Args:
        model: images to logits.
        pixels: (n, c, h, w) in [0, 1].
        seeds: (n,) int64.
        name: of the augmentation, which parts its draws from those of others.
        augment: the augmentation, on pixels.
        into: maps pixels to what the model sees.
        draws: augmentations of each image.
        together: copies of an image that are augmented in one call.
        batch_size: images per pass.
    """
    generator = torch.Generator()
    sizes = [min(together, draws - start) for start in range(0, draws, together)]
    block = max(1, batch_size // draws)
    for images, own in zip(torch.split(pixels, block), torch.split(seeds, block), strict=True):
        copies = []
        for image, seed in zip(images, own.tolist(), strict=True):
            generator.manual_seed(derive_seed(seed, name))
            copies += [augment(images=image.repeat(size, 1, 1, 1), generator=generator) for size in sizes]
        features = features_of(model, into(torch.cat(copies).to(pixels.dtype)), batch_size)
        yield features.view(len(images), draws, -1)
