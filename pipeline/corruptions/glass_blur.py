from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._filters import blur, per_piece
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import per_sample

FAMILY = "blur"


def glass_blur(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Look through frosted glass: blur, let each pixel show one of its neighbours, blur again.

    A sweep visits the places from the bottom right to the top left, row by row, and copies into each the pixel that
    stands `down` rows and `right` columns away, both uniform in -reach, ..., reach - 1. What an earlier copy of the
    sweep changed is copied as changed. The first reach + 1 rows and columns and the last reach - 1 are not visited.

    The outcome is exactly that of visiting one place after the other, without doing so: a place shows either what its
    neighbour held before the sweep or, if that one was visited earlier, what it holds after the sweep. Such chains of
    references always lead forward in the image, so all are followed at once, each step twice as far as the last.

    Source: Hendrycks & Dietterich, ICLR 2019. The lopsided range and frame are their code's. Differences to it:
        - None in this: it means to swap the two pixels but exchanges two views of one array, so the second assignment
          writes back what the first has just stored, and the sweep copies. The published archives were made that way,
          so we copy too. Swaps would change photographs of 32 pixels 1.2-1.7 times as much (mean square).
        - It cuts the blurred image to whole grey levels before the sweeps, which darkens it by half a level on average;
          we do not, so that no result hangs on how a float is rounded.
        - It visits 32 or 224 pixels a side, whatever the image; we follow the image's size. One of at most 2 reach
          pixels a side is only blurred.

    More severe is not always more changed: CIFAR-C's severities 1 to 3 differ in the blur alone, which evens out what
    the sweep has torn apart, and so do 4 and 5; ImageNet-C's 2 has one sweep where 1 has two.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one stream of displacements per image.
        severity: 1 to 5.
        constants: `cifar` (sigma .05-.4, reach 1, 1-2 sweeps), `imagenet` (.7-1.5, 1-4, 1-3), or `auto`: CIFAR-C's up
            to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    sigma, reach, sweeps = constant(
        images,
        severity,
        constants,
        cifar=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        imagenet=((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    )
    height, width = images.shape[-2:]
    visited = (sweeps, max(0, height - 2 * reach), max(0, width - 2 * reach))
    blurred = blur(images, sigma)
    count = per_piece(height * width, images)
    for start in range(0, len(images), count):
        rows = slice(start, start + count)
        choices = per_sample(
            lambda _, generator: torch.randint((2 * reach) ** 2, visited, generator=generator, dtype=torch.uint8),
            seeds[rows],
        )
        origins = shuffle(choices.to(images.device), reach, height, width)
        pixels = blurred[rows].flatten(2)
        blurred[rows] = pixels.gather(2, origins[:, None].expand_as(pixels)).view_as(blurred[rows])
    return blur(blurred, sigma).clamp_(0, 1)


def shuffle(choices: Tensor, reach: int, height: int, width: int) -> Tensor:
    """Where the pixel that each place shows after all sweeps came from.

    Args:
        choices: (n, sweeps, height - 2 reach, width - 2 reach) whole numbers: the neighbour that each visited place
            copies, as (down + reach) * 2 reach + right + reach.
        reach: largest displacement, pixels.
        height: of the image.
        width: of the image.

    Returns:
        (n, height * width) int64: index into an image's pixels.
    """
    device, number = choices.device, len(choices) * height * width
    line = torch.arange(-reach, reach, device=device)
    displacement = (line[:, None] * width + line).flatten()
    # A link below the number of pixels says "what that place shows after the sweep", one above it "what that place held
    # before"; so do those of the places that no sweep visits, which hold on to their own.
    link = displacement + number * (displacement <= 0)
    pixels = torch.arange(number, device=device)
    origins = pixels
    for chosen in choices.unbind(1):
        links = pixels + number
        inner = links.view(-1, height, width)[:, reach + 1 : height - reach + 1, reach + 1 : width - reach + 1]
        inner += link.index_select(0, chosen.flatten().int()).view(chosen.shape) - number
        open_ends = (links < number).nonzero().flatten()
        while len(open_ends):
            ahead = links.index_select(0, links.index_select(0, open_ends))
            links.index_copy_(0, open_ends, ahead)
            open_ends = open_ends[ahead < number]
        origins = origins.index_select(0, links - number)
    return origins.view(len(choices), -1) - pixels.view(len(choices), -1)[:, :1]
