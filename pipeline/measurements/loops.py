"""Simple connectedness of classification regions: loops inside a class, filled by surfaces inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, Natural, NonNegative, View
from pipeline.measurements import _paths
from pipeline.measurements.inference import logits_of, nullable
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import l2
from pipeline.numerics.paths import Paths, find_paths
from pipeline.numerics.quads import SIDES, fill

ACCEPTS: tuple[str, ...] = ("clean",)
COLUMNS: Mapping[str, Column] = {
    "class": Column("int32", "class that the classifier predicts for the four images"),
    "second": Column("string", "id of the second image; the sample itself is the first"),
    "third": Column("string", "id of the third image"),
    "fourth": Column("string", "id of the fourth image"),
    "loop_connected": Column("bool", "paths inside the class join the four images to a loop"),
    "converged": Column("bool", "a surface inside the class that the loop bounds was found"),
    "patch": Column("bool", "that surface is the Coons patch of the loop itself; null without a loop"),
    "quads": Column("int32", "quads of the surface; null if not converged"),
    "levels": Column("int16", "halvings down to its smallest quad; null if not converged"),
    "length": Column("float64", "l2 length of the loop, units of the data; null without a loop"),
    "deviation": Column(
        "float64",
        "mean distance of the surface from the loop's Coons patch at equal parameters, over a quarter of the loop's "
        "length; null if not converged",
    ),
    "forward_passes": Column("int64", "forward passes of the search for paths and surface"),
    "backward_passes": Column("int64", "backward passes of the search for paths and surface"),
}
FARTHER = 3.0  # overshoot of the second search for one of the first


def loops(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    ids: Sequence[str],
    box: Box = UNIT,
    loops: Count | None = 50,
    levels: Natural = 5,
    depth: Natural = 12,
    resolution: Count = 21,
    steps: Count = 50,
    overshoot: NonNegative = 3.0,
    boxed: bool = True,
) -> dict[str, Sequence[Any]]:
    """Loops through four images of one predicted class, and surfaces that fill them, one row per loop.

    After Swaminathan and Akgün, "Empirical evidence for simply connected decision regions in image classifiers", 2026
    (arXiv 2605.06380), of which we know the abstract and summaries only: there as here four images of one predicted
    class are joined by paths to a loop, a mesh of quads is refined and repaired by steps of DeepFool until all of it
    gets the label, and is compared with the Coons patch of the loop. Whatever goes beyond that is our own: a quad is
    the Coons patch of its four sides; one that leaves the class is cut into four by paths inside the class from its
    middle, pushed into the class, to the middles of its sides (`numerics.quads.fill`); the paths are those of
    `regions`; a loop that is not filled is looked at again with three times the overshoot. One that is not filled then
    may still be one that can be: the search has an end. A filled one is filled as far as samples at `resolution` tell.

    The groups of four are disjoint, so that loops can be counted as independent; who comes together follows from the
    seeds.

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: not used, the classes are those predicted.
        seeds: (n,) int64, of the groups.
        views: not used.
        batch_size: images per pass, and loops at a time.
        ids: of the samples.
        box: of valid images.
        loops: largest number of loops; null: as many as there are groups of four.
        levels: largest number of halvings of a quad.
        depth: largest number of halvings of a path's segment.
        resolution: samples along a quarter of the loop's length, and in either direction of a surface of that side;
            each segment and quad has three per direction at least.
        steps: largest number of steps that push a point into the class.
        overshoot: share added to each of those steps. On a small ResNet for CIFAR-10 (JPEG 75) surfaces filled 8 of 8
            loops with 3, but 3 of 8 with 1, where quads near a side kept leaving the class down to the last halving.
        boxed: whether paths and surfaces keep to the box.

    Returns:
        Columns as in `COLUMNS`, and `row`.
    """
    space = _paths.space_of(model, box)
    points = space.put(images)
    predictions = logits_of(model, images, batch_size).argmax(dim=1)
    search = {"steps": steps, "overshoot": overshoot, "box": _paths.walls(space.box, boxed), "batch_size": batch_size}
    columns: dict[str, list[Any]] = {name: [] for name in ("row", *COLUMNS)}
    for part in torch.split(_paths.groups(predictions, seeds, SIDES)[:loops], batch_size):
        first, second, third, fourth = part.unbind(dim=1)
        columns["row"] += first.tolist()
        for name, members in (("second", second), ("third", third), ("fourth", fourth)):
            columns[name] += [ids[member] for member in members.tolist()]
        filled = _fill(space.model, points, part, predictions[first], levels, depth, resolution, search)
        left = [place for place, done in enumerate(filled["converged"]) if not done]
        if left:
            farther = {**search, "overshoot": FARTHER * overshoot}
            target = predictions[first[left]]
            again = _fill(space.model, points, part[left], target, levels, depth, resolution, farther)
            _merge(filled, left, again)
        for name, values in filled.items():
            columns[name] += values
    return dict(columns)


def _merge(filled: dict[str, list[Any]], left: Sequence[int], again: Mapping[str, Sequence[Any]]) -> None:
    """Put what a second search filled in the place of what the first did not; passes add up."""
    for index, place in enumerate(left):
        passes = {name: filled[name][place] + again[name][index] for name in ("forward_passes", "backward_passes")}
        if again["converged"][index]:
            for name, values in again.items():
                filled[name][place] = values[index]
        for name, total in passes.items():
            filled[name][place] = total


def _fill(
    model: nn.Module,
    points: Tensor,
    corners: Tensor,
    target: Tensor,
    levels: int,
    depth: int,
    resolution: int,
    search: Mapping[str, Any],
) -> dict[str, list[Any]]:
    """Join and fill the loops through points with the numbers `corners` (k, 4): all columns but the images."""
    count = len(target)
    first, second, third, fourth = corners.unbind(dim=1)
    # bottom, top, left, right of a quad with the corners in turn
    start = points[torch.cat([first, fourth, first, second])]
    end = points[torch.cat([second, third, fourth, third])]
    spacing = l2(end.double() - start.double()).view(SIDES, count).mean(dim=0) / resolution
    paths = find_paths(model, start, end, target.repeat(SIDES), spacing.repeat(SIDES), depth=depth, **search)
    connected = paths.connected.view(SIDES, count).all(dim=0)
    here = connected.nonzero().squeeze(1)
    found = fill(
        model, _only(paths, connected.repeat(SIDES)), target[here], spacing[here], levels=levels, depth=depth, **search
    )

    def spread(values: Tensor) -> Tensor:
        """Of all loops, from those that are connected; 0 or false elsewhere."""
        return values.new_zeros(count).index_copy(0, here, values)

    converged, length = spread(found.filled), paths.lengths().view(SIDES, count).sum(dim=0)
    relative = spread(found.deviation) / (length / SIDES)
    return {
        "class": target.tolist(),
        "loop_connected": connected.tolist(),
        "converged": converged.tolist(),
        "patch": nullable(spread(found.patch), connected),
        "quads": nullable(spread(found.quads), converged),
        "levels": nullable(spread(found.levels), converged),
        "length": nullable(length, connected),
        "deviation": nullable(torch.where(length > 0, relative, 0), converged),
        "forward_passes": (paths.forward.view(SIDES, count).sum(dim=0) + spread(found.forward)).tolist(),
        "backward_passes": (paths.backward.view(SIDES, count).sum(dim=0) + spread(found.backward)).tolist(),
    }


def _only(paths: Paths, kept: Tensor) -> Paths:
    """The paths of some pairs (p,) bool, numbered anew in their order."""
    own = kept[paths.pair]
    return Paths(
        connected=paths.connected[kept],
        straight=paths.straight[kept],
        depth=paths.depth[kept],
        pair=(kept.cumsum(0) - 1)[paths.pair[own]],
        position=paths.position[own],
        width=paths.width[own],
        start=paths.start[own],
        end=paths.end[own],
        forward=paths.forward[kept],
        backward=paths.backward[kept],
    )
