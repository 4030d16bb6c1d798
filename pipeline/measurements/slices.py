"""Planes through a few images: the class and its lead at every point of a grid, for figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, View
from pipeline.measurements import _paths
from pipeline.measurements.inference import logits_of
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import l2, per_sample, unit

ACCEPTS: tuple[str, ...] = ("clean", "attack")
COLUMNS: Mapping[str, Column] = {
    "view": Column("string", "`clean`, or the id of the attack that perturbed the second point"),
    "label": Column("int32", "true class of the sample"),
    "second": Column(
        "string",
        "id of the image whose place, perturbed if attacked, is the second point: on the positive horizontal axis",
    ),
    "third": Column("string", "id of the image that is the third point: in the upper half of the plane"),
    "anchors_x": Column("list<float64>", "horizontal coordinates of the three points, units of the data, l2"),
    "anchors_y": Column("list<float64>", "vertical coordinates of the three points"),
    "anchor_classes": Column("list<int32>", "classes that the classifier predicts at the three points"),
    "left": Column("float64", "horizontal coordinate of the grid's first column"),
    "bottom": Column("float64", "vertical coordinate of the grid's first row"),
    "side": Column("float64", "distance from the first to the last row, and to the last column"),
    "points": Column("int16", "rows of the grid, as many as columns"),
    "classes": Column(
        "binary", "predicted class at each point: int16, little-endian, (points, points), bottom row first"
    ),
    "margins": Column(
        "binary", "lead of that class's logit over the next: float32, little-endian, likewise; 0 where a logit is NaN"
    ),
    "inside": Column("binary", "whether the point lies in the box: uint8, likewise"),
}
MARGIN = 0.35  # by which the grid reaches beyond the three points, in their largest extent
ZOOM = 3.0  # half of the grid's side around an attacked image, in lengths of its perturbation
IN_BOX = 1e-5  # by which a point may leave the box for rounding


class _Planes(NamedTuple):
    """Planes through (m, c, h, w) images, spanned by two orthonormal directions each; corners and sides (m,)."""

    origin: Tensor
    right: Tensor
    up: Tensor
    left: Tensor
    bottom: Tensor
    side: Tensor

    def points(self, plane: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Images (k, c, h, w) at shares u and v (k,) of the grids of some planes (k,)."""
        x, y = self.left[plane] + u * self.side[plane], self.bottom[plane] + v * self.side[plane]
        across = per_sample(x, self.origin) * self.right[plane]
        return self.origin[plane] + across + per_sample(y, self.origin) * self.up[plane]


def slices(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    ids: Sequence[str],
    box: Box = UNIT,
    samples: Count = 3,
    points: Count = 64,
) -> dict[str, Sequence[Any]]:
    """Predictions on planes of the input space, one row per view and sample.

    The origin is the sample. The clean view's plane goes through another image of the class predicted for it and an
    image of another class, and the grid holds all three. An attack's goes through the perturbed image and an image of
    another class, and the grid reaches three lengths of the perturbation around the sample, where the other image
    seldom lies. Axes have the same scale, in l2. Points outside the box are classified like any others. A plane shows
    two of many dimensions: regions that seem apart in it may be connected (`regions`).

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: (n,) int64.
        seeds: (n,) int64, of the choice of the other images.
        views: clean, attacks or both.
        batch_size: images per pass.
        ids: of the samples.
        box: of valid images.
        samples: number of samples, the first of the evaluation set. A sample for which there are no other images, or
            that the attack left as it was, has no row.
        points: rows and columns of the grid.

    Returns:
        Columns as in `COLUMNS`, and `row`.
    """
    predictions = logits_of(model, images, batch_size).argmax(dim=1)
    heads = min(samples, len(images))

    def like(head: int) -> Tensor:
        same = predictions == predictions[head]
        same[head] = False
        return same

    alike = _paths.following(seeds, heads, like).to(images.device)
    unlike = _paths.following(seeds, heads, lambda head: predictions != predictions[head]).to(images.device)
    columns: dict[str, list[Any]] = {name: [] for name in ("row", *COLUMNS)}
    for view in views:
        rows = torch.arange(heads, device=images.device)
        attacked = view.kind == "attack"
        second = rows if attacked else alike
        moved = l2(view.images[:heads] - images[:heads]) > 0
        kept = rows[(second >= 0) & (unlike >= 0) & (moved | (not attacked))]
        if not len(kept):
            continue
        second, third = second[kept], unlike[kept]
        found = _slice(model, (images[kept], view.images[second], images[third]), attacked, box, points, batch_size)
        columns["row"] += kept.tolist()
        columns["view"] += [view.name] * len(kept)
        columns["label"] += labels[kept].tolist()
        columns["second"] += [ids[row] for row in second.tolist()]
        columns["third"] += [ids[row] for row in third.tolist()]
        for name, values in found.items():
            columns[name] += values
    return dict(columns)


def _slice(
    model: nn.Module, anchors: tuple[Tensor, Tensor, Tensor], zoomed: bool, box: Box, points: int, batch_size: int
) -> dict[str, list[Any]]:
    """Classify the grids of planes through three images each (m, c, h, w): all columns but ids and labels."""
    origin, second, third = (image.double() for image in anchors)
    right = unit(second - origin)
    along = ((third - origin) * right).flatten(1).sum(dim=1)
    up = unit(third - origin - per_sample(along, right) * right)
    height = ((third - origin) * up).flatten(1).sum(dim=1)
    length, zero = l2(second - origin), torch.zeros_like(along)
    x, y = torch.stack([zero, length, along], dim=1), torch.stack([zero, zero, height], dim=1)
    if zoomed:
        left = bottom = -ZOOM * length
        side = 2 * ZOOM * length
    else:
        extent = torch.maximum(x.amax(dim=1) - x.amin(dim=1), height)
        side = (1 + 2 * MARGIN) * extent
        left, bottom = ((values.amax(dim=1) + values.amin(dim=1) - side) / 2 for values in (x, y))
    planes = _Planes(origin, right, up, left, bottom, side)
    number = torch.arange(len(origin) * points**2, device=origin.device)
    classes, margins, inside = [], [], []
    for part in torch.split(number, batch_size):
        plane, place = part // points**2, part % points**2
        shares = ((steps / max(points - 1, 1)).double() for steps in (place % points, place // points))
        at = planes.points(plane, *shares)
        logits = logits_of(model, at.to(anchors[0]), batch_size)
        best = logits.topk(2, dim=1).values
        classes.append(logits.argmax(dim=1))
        margins.append((best[:, 0] - best[:, 1]).nan_to_num(0.0))
        inside.append(box.excess(at) <= IN_BOX)
    shape = (len(origin), points, points)

    def packed(parts: list[Tensor], kind: str) -> list[bytes]:
        return [grid.tobytes() for grid in torch.cat(parts).view(shape).cpu().numpy().astype(kind)]

    own = torch.stack([logits_of(model, image, batch_size).argmax(dim=1) for image in anchors], dim=1)
    return {
        "anchors_x": x.tolist(),
        "anchors_y": y.tolist(),
        "anchor_classes": own.tolist(),
        "left": left.tolist(),
        "bottom": bottom.tolist(),
        "side": side.tolist(),
        "points": [points] * len(x),
        "classes": packed(classes, "<i2"),
        "margins": packed(margins, "<f4"),
        "inside": packed(inside, "u1"),
    }
