"""Margins along frequency subspaces: the distance to the decision boundary inside blocks of the DCT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, NonNegative, UserError, View
from pipeline.measurements._subspace_walks import FOUND, walk
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import l2
from pipeline.numerics.subspaces import Blocks, diagonal_starts, grid_starts

ACCEPTS: tuple[str, ...] = ("clean",)
INDEPENDENT: tuple[str, ...] = ()  # each row is of a sample alone, and all come in the order of the samples
COLUMNS: Mapping[str, Column] = {
    "block": Column("int16", "index of the block; on the diagonal from low to high frequency, else row by row"),
    "frequency": Column("int16", "first row of the block in the coefficient plane"),
    "column": Column("int16", "first column of the block in the coefficient plane; that of the row on the diagonal"),
    **FOUND,
    "energy": Column("float64", "squared l2 norm of the clean image's part in the subspace"),
}


def dct_margin(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    box: Box = UNIT,
    size: Count = 8,
    step: Count = 8,
    blocks: Literal["diagonal", "grid"] = "diagonal",
    mode: Literal["superdeepfool", "deepfool", "official"] = "superdeepfool",
    boxed: bool = False,
    steps: Count = 100,
    rounds: Count = 100,
    overshoot: NonNegative = 0.02,
    candidates: Count = 10,
    samples: Count | None = None,
) -> dict[str, Sequence[Any]]:
    """Subspace DeepFool of "Hold me tight!" (Ortiz-Jimenez, Modas, Moosavi-Dezfooli, Frossard, NeurIPS 2020).

    For each sample and each block S of frequencies. `deepfool` is the paper's subspace DeepFool: r walks, inside S, to
    the nearest linearised boundary |f| / |S^T w| until x + (1 + overshoot) r leaves the class of the clean image; the
    segment from x to that point is then shortened to the boundary. `superdeepfool` goes on from there with rounds of
    SuperDeepFool (Abdollahpourrostam, Abroshan, Moosavi-Dezfooli, NeurIPS 2024): r is replaced by its projection on
    the part in S of the boundary's normal at its end, from where DeepFool starts again, until that point is of another
    class, DeepFool fails or a round gains less than 0.1 %; the shortest crossing, shortened to the boundary, is the
    margin, which is never longer than that of `deepfool`. Departures there: a DeepFool that starts so near to the
    boundary oversteps by 0.1 % of |r| besides, and is given up farther out than the shortest crossing. `official` ends
    with the overshoot and steps by at least 1e-4, as the released code does, which overstates curved margins.

    None of them has bounds, so a margin can exceed what a valid image allows. With `boxed`, all points are valid
    images: a step goes to the nearest point of the box and x + S that lies beyond the linearised boundary, overshoot
    included, or, where there is none, as near to that boundary's nearest point in S as the box allows; and the
    projections of `superdeepfool` go to the point of the box and x + S beyond the tangent plane that is nearest to x.
    These points come from Dykstra's method: valid to rounding, and within 0.1 % of |r| of x + S. So what is measured is
    an upper bound of the distance to the boundary inside both, which `superdeepfool` meets where the boundary is a
    plane. A walk that the box leaves no room has no margin.

    Departures from the released code in all modes: a walk that finds no other class has no margin instead of the last
    iterate's length, and so has one whose gradients vanish in S (to rounding) or are not finite. All pairs of sample
    and block share one batch that is refilled as pairs finish; the blocks of a sample share their first gradients,
    those at the clean image. After its first step a pair looks at a rival only where its hyperplane might be the
    nearest if its gradient in S were eight times as long as the longest seen on the way. No bound proves this; it was
    measured: of 552 pairs on two ResNets, in both corrected modes, no margin changed, and a third of the backward
    passes went; with the factor 2 of `deepfool`, up to 4 % did. `grid` adds the blocks off the diagonal, which the
    paper does not probe.

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: (n,) int64.
        seeds: not used, the method is deterministic.
        views: not used.
        batch_size: pairs per pass.
        box: of valid images, for `boxed`.
        size: rows and columns of a block, K in the paper (8 for MNIST and CIFAR-10, 16 for ImageNet).
        step: frequencies from one block to the next (1 for MNIST, 2 for CIFAR-10, 16 for ImageNet).
        blocks: those that start on the `diagonal` of the coefficient plane, or at all pairs of a row and a column.
        mode: `superdeepfool`, `deepfool` or `official`.
        boxed: keep to valid images.
        steps: largest number of linearisations of a DeepFool.
        rounds: largest number of rounds after the first DeepFool, of `superdeepfool`.
        overshoot: share by which a step is lengthened to cross the boundary.
        candidates: rivals, those with the largest logits on the clean image; all other classes if there are fewer.
        samples: how many samples, the first ones; all if not given.

    Returns:
        Columns as in `COLUMNS`, and `row`.

    Raises:
        UserError: no block of this size fits the images, or `boxed` in mode `official`.
    """
    images, labels = images[:samples], labels[:samples]
    height, width = images.shape[-2:]
    starts = (diagonal_starts if blocks == "diagonal" else grid_starts)(height, width, size, step)
    if not starts:
        raise UserError(
            f"size: a block of {size} x {size} frequencies does not fit images of {height} x {width} pixels"
        )
    spaces = Blocks(images, size, starts)
    walked = walk(
        model,
        images,
        spaces,
        batch_size=batch_size,
        mode=mode,
        steps=steps,
        rounds=rounds,
        overshoot=overshoot,
        candidates=candidates,
        box=box if boxed else None,
    )
    count = len(images)
    return walked.columns(labels) | {
        "block": list(range(len(starts))) * count,
        "frequency": [row for row, _ in starts] * count,
        "column": [column for _, column in starts] * count,
        "energy": _energies(images, spaces, batch_size).flatten().tolist(),
    }


def _energies(images: Tensor, spaces: Blocks, batch_size: int) -> Tensor:
    """|S^T x|^2 of each image and block, (n, blocks) float64."""
    found = torch.empty(len(images), len(spaces), dtype=torch.float64)
    for rows in torch.split(torch.arange(len(images)), batch_size):
        part = images[rows]
        for space in range(len(spaces)):
            index = torch.full((len(part),), space, device=images.device)
            found[rows, space] = l2(spaces.analyse(part, index).double()).square().cpu()
    return found
