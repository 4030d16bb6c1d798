"""Nearest points that are valid images and lie in a subspace."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.numerics.box import Box
from pipeline.numerics.norms import l2, per_sample
from pipeline.numerics.subspaces import Subspaces

ROUNDS = 200  # of Dykstra's method
LOOKS = 10  # rounds from one look at what has settled to the next
SETTLED = 1e-6  # share of its distance from the clean image that a settled point misses or moves by
TOLERANCE = 1e-3  # share of its distance from the clean image by which a valid image may miss the plane and subspace


def nearest_valid(
    clean: Tensor, spaces: Subspaces, space: Tensor, box: Box, start: Tensor, through: Tensor, normal: Tensor
) -> tuple[Tensor, Tensor]:
    """Valid images in x + S, on the far side of a plane, that are nearest in l2 to some points, as coefficients in S.

    Dykstra's alternating projection (see `dykstra`) between the part of x + S beyond the plane and the box, both of
    which have exact projections. A sample leaves the batch once it has settled, at the latest after 200 rounds.

    Args:
        clean: (n, c, h, w) x, in the box.
        spaces: the subspaces.
        space: (n,) int64, the index of each sample's own one S.
        box: of valid images.
        start: (n, *coefficients) of the points to be near to.
        through: as `start`, a point of the plane.
        normal: as `start`, of unit length, towards the side that is wanted; zero wants both.

    Returns:
        Coefficients (n, *coefficients), and whether they are those of such an image, (n,) bool: one that misses the
        plane and the subspace by no more than 0.1 % of its distance from x. Where no image of the subspace is valid
        beyond the plane, none is.
    """
    level = (normal * through).flatten(1).sum(dim=1)

    def beyond(rows: Tensor, points: Tensor) -> Tensor:
        shift = spaces.analyse(points - clean[rows], space[rows])
        missing = (level[rows] - (normal[rows] * shift).flatten(1).sum(dim=1)).clamp(min=0)
        shift = shift + per_sample(missing, shift) * normal[rows]
        return clean[rows] + spaces.synthesise(shift, space[rows])

    found = clean + spaces.synthesise(start, space)
    every = rows = torch.arange(len(clean), device=clean.device)
    taken = torch.zeros_like(found)  # by the last projection on the box; that on x + S beyond the plane is kept below
    lifted = torch.zeros_like(found)
    for round_ in range(ROUNDS):
        before = found[rows]
        middle = beyond(rows, before + lifted[rows])
        lifted[rows] += before - middle
        after = box.clip(middle + taken[rows])
        taken[rows] += middle - after
        found[rows] = after
        if round_ % LOOKS == 0:
            rest = torch.maximum(l2(after - before), l2(after - beyond(rows, after)))
            rows = rows[rest > SETTLED * l2(after - clean[rows])]
            if not len(rows):
                break
    there = l2(found - beyond(every, found)) <= TOLERANCE * l2(found - clean)
    return spaces.analyse(found - clean, space), there
