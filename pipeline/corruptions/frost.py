from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.corruptions._frost_panes import SIDE, panes
from pipeline.corruptions._grey import grey
from pipeline.corruptions._severity import constant
from pipeline.numerics.randomness import per_sample

FAMILY = "weather"


def frost(
    *, images: Tensor, seeds: Tensor, severity: int, constants: Literal["auto", "cifar", "imagenet"] = "auto"
) -> Tensor:
    """Look through a frozen pane: a share of the image plus a share of a random piece of a sheet of ice.

    Source: Hendrycks & Dietterich, ICLR 2019. They take the piece from one of five photographs of frost, by equal
    chance (a sixth is never used). Those are not free to pass on, so five drawn panes stand in: turquoise foil, white
    needles twice (two of their photographs show the same), slate rosettes, feathers on dark glass. Each is drawn by a
    program, from a fixed seed, and brought to its photograph's colours, quantiles of grey and spectrum, measured on
    the photographs in imagecorruptions 1.1.2; `_frost_panes` holds these figures. The mean grey, the deviation of grey
    within a piece of 224 pixels and the deviation of the pieces' means are, in photographs / panes:

        turquoise  .50 .063 .040 / .50 .067 .027        slate  .61 .104 .024 / .61 .105 .021
        white      .79 .078 .022 / .79 .079 .017        night  .43 .140 .043 / .43 .145 .037

    The spectra agree to a third of an octave from 4 to 64 cycles per 224 pixels. The crystals' shapes differ, yet two
    small classifiers of CIFAR-10 (JPEG 75) lose as much on either: accuracies at severities 1 to 5 on 3000 images were
    71.2 66.5 61.0 60.4 53.8 % on the photographs and 71.1 66.5 59.2 58.2 51.9 % on the panes for standard training,
    68.4 67.4 64.7 64.7 61.7 and 69.0 67.0 64.0 63.9 61.2 % for training with PRIME.

    Further differences: the panes join on to themselves, so every piece is as likely and no image too large. For
    CIFAR-C the original shrinks the photographs to a fifth in a way that shows every fifth pixel; here every fifth
    pixel is taken, from any first one. Images of other sizes have the scale of their list of constants. On greyscale
    images the ice is grey (as in Michaelis et al.'s imagecorruptions, 2019).

    The published shares do not always change the image more as the severity grows: severity 4 adds as much ice as 3.

    Args:
        images: (n, c, h, w) float32 in [0, 1].
        seeds: (n,) int64, one pane and place per image.
        severity: 1 to 5.
        constants: `cifar` (ice .2-.45 of its brightness), `imagenet` (.4-.75), or `auto`: CIFAR-C's up to 64 pixels.

    Returns:
        (n, c, h, w) float32 in [0, 1].
    """
    share, ice, step = constant(
        images,
        severity,
        constants,
        cifar=((1.0, 0.2, 5), (1.0, 0.3, 5), (0.9, 0.4, 5), (0.85, 0.4, 5), (0.75, 0.45, 5)),
        imagenet=((1.0, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
    )
    height, width = images.shape[-2:]
    sheets = panes()
    draws = per_sample(lambda _, generator: torch.randint(len(sheets) * SIDE * SIDE, (1,), generator=generator), seeds)
    pane, top, left = draws // (SIDE * SIDE), draws // SIDE % SIDE, draws % SIDE  # (n, 1)
    rows, columns = ((first + step * torch.arange(size)) % SIDE for first, size in ((top, height), (left, width)))
    pixels = ((pane * SIDE + rows) * SIDE)[:, :, None] + columns[:, None, :]  # (n, h, w)
    pieces = sheets.view(torch.int32).take(pixels).to(images.device).view(torch.uint8)  # (n, h, 4 w)
    pieces = pieces.view(*pixels.shape, 4)[..., :3].permute(0, 3, 1, 2).to(images.dtype)  # (n, 3, h, w)
    if images.shape[1] == 1:
        pieces = grey(pieces)
    return (share * images).add_(pieces, alpha=ice / 255).clamp_(0, 1)
