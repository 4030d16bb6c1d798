"""Connectivity of classification regions: paths inside a class between pairs of its points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, Natural, NonNegative, View
from pipeline.measurements import _paths
from pipeline.measurements.inference import logits_of, nullable
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import l2
from pipeline.numerics.paths import Entered, Paths, enter, find_paths, sample_counts, segments_inside

ACCEPTS: tuple[str, ...] = ("clean", "attack")
COLUMNS: Mapping[str, Column] = {
    "view": Column("string", "`clean`, or the id of the attack that perturbed the partner"),
    "kind": Column(
        "string",
        "`image`: two images; `perturbed`: an image, and one of another class perturbed into its class; `noise`: two "
        "images of noise perturbed into the class of the sample",
    ),
    "class": Column("int32", "class of the pair: what the classifier predicts for the sample"),
    "partner": Column("string", "id of the second image; null for noise"),
    "entered": Column("bool", "both ends lie in the class; false if one could not be pushed into it"),
    "converged": Column("bool", "a path inside the class was found"),
    "straight": Column("bool", "that path is the straight segment; null if not entered"),
    "verified": Column(
        "bool",
        "a path holds at ten times as many samples: that found first, or else one found at that density; null if not "
        "converged",
    ),
    "anchors": Column("int32", "points of the path between its ends; null if not converged"),
    "depth": Column("int16", "halvings down to the path's shortest segment; null if not converged"),
    "distance": Column("float64", "l2 distance of the ends, units of the data; null if not entered"),
    "length": Column("float64", "l2 length of the path, units of the data; null if not converged"),
    "ratio": Column("float64", "length / distance; null if not converged, or if the ends are the same point"),
    "forward_passes": Column("int64", "forward passes of the search for the path; null if not entered"),
    "backward_passes": Column("int64", "backward passes of the search for the path; null if not entered"),
}
DENSER = 10  # samples of the verification for one of the search
FARTHER = 3.0  # overshoot of the second search for one of the first


class _Ends(NamedTuple):
    """Pairs of one kind: rows of the samples and of the partners (-1: noise), and what is to be joined, in what class.

    `start_given` and `end_given` say whether the ends lie in the class as they are.
    """

    view: str
    kind: str
    rows: Tensor
    partners: Tensor
    start: Tensor
    end: Tensor
    target: Tensor
    start_given: bool
    end_given: bool


def regions(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    ids: Sequence[str],
    box: Box = UNIT,
    kinds: Sequence[Literal["image", "perturbed", "noise"]] = ("image", "perturbed", "noise"),
    pairs: Count | None = 100,
    depth: Natural = 12,
    resolution: Count = 51,
    steps: Count = 50,
    overshoot: NonNegative = 1.0,
    boxed: bool = True,
) -> dict[str, Sequence[Any]]:
    """Paths inside a class between pairs of its points, one row per pair.

    Fawzi, Moosavi-Dezfooli, Frossard, Soatto, "Empirical study of the topology and geometry of deep networks", CVPR
    2018: FIND_PATH (`numerics.paths.find_paths`) between two images of one predicted class, an image and one perturbed
    into its class, two images of noise perturbed into it. The clean view gives pairs of all kinds; there the partner
    is pushed into the class by steps of DeepFool towards it (`numerics.paths.enter`). An attack gives pairs of the kind
    `perturbed`, of each sample and an image that the attack perturbed into the sample's class.

    Departures from the paper, which gives neither depth nor sampling: halvings end at `depth`; steps into the class go
    beyond the boundary by the share `overshoot` of their length; paths stay in the box; each path found is sampled
    again ten times as densely; where none is found or it fails, there is a second search, at that density and with
    three times the overshoot; a point counts as inside only if its class leads by more than rounding. Pairs of images
    are disjoint, so that they can be counted as independent. Who is paired with whom follows from the seeds.

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: not used, the classes are those predicted.
        seeds: (n,) int64, of the pairs and the noise.
        views: clean, attacks or both.
        batch_size: images per pass, and pairs at a time.
        ids: of the samples.
        box: of valid images.
        kinds: of pairs that the clean view gives.
        pairs: largest number of pairs of a kind, those of the first samples; null: all.
        depth: largest number of halvings of the segment.
        resolution: samples of the straight segment; parts are sampled as densely, with three samples at least.
        steps: largest number of steps that push a point into a class.
        overshoot: share added to each of those steps.
        boxed: whether paths keep to the box.

    Returns:
        Columns as in `COLUMNS`, and `row`. A sample without a partner has no row.
    """
    space = _paths.space_of(model, box)
    points = space.put(images)
    predictions = logits_of(model, images, batch_size).argmax(dim=1)
    search = {"steps": steps, "overshoot": overshoot, "box": _paths.walls(space.box, boxed), "batch_size": batch_size}
    columns: dict[str, list[Any]] = {name: [] for name in ("row", *COLUMNS)}
    for ends in _pairs(space, points, predictions, seeds, views, batch_size, kinds, pairs):
        for part in torch.split(torch.arange(len(ends.rows), device=images.device), batch_size):
            for name, values in _join(space.model, ends, part, search, depth, resolution).items():
                columns[name] += values
            columns["partner"] += [ids[row] if row >= 0 else None for row in ends.partners[part].tolist()]
    return dict(columns)


def _pairs(
    space: _paths.Space,
    points: Tensor,
    predictions: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    kinds: Sequence[str],
    limit: int | None,
) -> Iterator[_Ends]:
    """Pairs of all kinds, view by view."""
    heads = min(len(points), limit or len(points))
    first = torch.arange(heads, device=points.device)
    for view in views:
        if view.kind == "attack":
            moved = space.put(view.images)
            now = logits_of(space.model, moved, batch_size).argmax(dim=1)
            yield _perturbed(view.name, points, moved, predictions, seeds, heads, now)
            continue
        for kind in kinds:
            if kind == "image":
                rows, partners = _paths.groups(predictions, seeds, 2)[:limit].unbind(dim=1)
                ends = (points[rows], points[partners], predictions[rows])
                yield _Ends(view.name, kind, rows, partners, *ends, start_given=True, end_given=True)
            elif kind == "perturbed":
                yield _perturbed(view.name, points, points, predictions, seeds, heads, None)
            else:
                drawn = _paths.noise(seeds[:heads], 2, points, space.box)
                partners = torch.full_like(first, -1)
                ends = (drawn[:, 0], drawn[:, 1], predictions[:heads])
                yield _Ends(view.name, kind, first, partners, *ends, start_given=False, end_given=False)


def _perturbed(
    view: str,
    points: Tensor,
    moved: Tensor,
    predictions: Tensor,
    seeds: Tensor,
    heads: int,
    now: Tensor | None,
) -> _Ends:
    """Pairs of a sample and an image of another class, which is in the sample's class `now` or is yet to be pushed."""

    def allowed(head: int) -> Tensor:
        other = predictions != predictions[head]
        return other if now is None else other & (now == predictions[head])

    partners = _paths.following(seeds, heads, allowed).to(points.device)
    rows = (partners >= 0).nonzero().squeeze(1)
    partners = partners[rows]
    ends = (points[rows], moved[partners], predictions[rows])
    return _Ends(view, "perturbed", rows, partners, *ends, start_given=True, end_given=now is not None)


def _join(
    model: nn.Module, ends: _Ends, part: Tensor, search: Mapping[str, Any], depth: int, resolution: int
) -> dict[str, list[Any]]:
    """Push the ends of some pairs into their class and join them: all columns but `partner`."""
    target = ends.target[part]
    start = _entered(model, ends.start[part], target, ends.start_given, search)
    end = _entered(model, ends.end[part], target, ends.end_given, search)
    entered = start.found & end.found
    here = entered.nonzero().squeeze(1)
    distance = l2(end.points.double() - start.points.double())
    spacing = distance[here] / resolution
    found = _search(model, start.points[here], end.points[here], target[here], spacing, depth, search)

    def spread(name: str) -> Tensor:
        """Of all pairs, from those whose ends lie in the class; 0 or false elsewhere."""
        return found[name].new_zeros(len(part)).index_copy(0, here, found[name])

    converged, length = spread("connected"), spread("length")
    return {
        "row": ends.rows[part].tolist(),
        "view": [ends.view] * len(part),
        "kind": [ends.kind] * len(part),
        "class": target.tolist(),
        "entered": entered.tolist(),
        "converged": converged.tolist(),
        "straight": nullable(spread("straight"), entered),
        "verified": nullable(spread("verified"), converged),
        "anchors": nullable(spread("anchors"), converged),
        "depth": nullable(spread("depth"), converged),
        "distance": nullable(distance, entered),
        "length": nullable(length, converged),
        "ratio": nullable(length / distance, converged & (distance > 0)),
        "forward_passes": nullable(spread("forward"), entered),
        "backward_passes": nullable(spread("backward"), entered),
    }


def _entered(model: nn.Module, points: Tensor, target: Tensor, given: bool, search: Mapping[str, Any]) -> Entered:
    if given:
        none = torch.zeros_like(target)
        return Entered(points, torch.ones_like(target, dtype=torch.bool), none, none)
    return enter(model, points, target, **search)


def _search(
    model: nn.Module,
    start: Tensor,
    end: Tensor,
    target: Tensor,
    spacing: Tensor,
    depth: int,
    search: Mapping[str, Any],
) -> dict[str, Tensor]:
    """What is known of the path of each pair, (p,) each; where none holds at a higher density, from a second search."""
    paths = find_paths(model, start, end, target, spacing, depth=depth, **search)
    found = _summary(paths)
    dense = spacing / DENSER
    found["verified"] = paths.connected & _holds(model, paths, target, dense, search["batch_size"])
    left = (~found["verified"]).nonzero().squeeze(1)
    if len(left):
        farther = {**search, "overshoot": FARTHER * search["overshoot"]}
        again = _summary(find_paths(model, start[left], end[left], target[left], dense[left], depth=depth, **farther))
        for name in ("forward", "backward"):
            found[name].index_add_(0, left, again.pop(name))
        found["straight"][left] = False
        better = again["connected"]
        found["verified"][left] = better
        for name, values in again.items():
            found[name][left[better]] = values[better]
    return found


def _summary(paths: Paths) -> dict[str, Tensor]:
    return {
        "connected": paths.connected,
        "straight": paths.straight,
        "depth": paths.depth,
        "length": paths.lengths(),
        "anchors": paths.anchors(),
        "forward": paths.forward,
        "backward": paths.backward,
    }


def _holds(model: nn.Module, paths: Paths, target: Tensor, spacing: Tensor, batch_size: int) -> Tensor:
    """Whether samples at that spacing lie in the class on all segments of each path, (p,) bool."""
    counts = sample_counts(l2(paths.end.double() - paths.start.double()), spacing[paths.pair])
    held, _ = segments_inside(model, paths.start, paths.end, target[paths.pair], counts, batch_size)
    holds = torch.ones_like(paths.connected)
    holds[paths.pair[~held]] = False
    return holds
