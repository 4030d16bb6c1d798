"""A few pairs of points of one class, looked at all along the segment and along the path that stays in the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, Natural, NonNegative, View
from pipeline.measurements import _paths
from pipeline.measurements.inference import logits_of, nullable
from pipeline.measurements.regions import DENSER, FARTHER
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import l2, per_sample
from pipeline.numerics.paths import Paths, enter, find_paths, sample_counts, segments_inside

ACCEPTS: tuple[str, ...] = ("clean", "attack")
COLUMNS: Mapping[str, Column] = {
    "view": Column("string", "`clean`, or the id of the attack that perturbed the partner"),
    "kind": Column(
        "string", "`image`: two images; `perturbed`: an image, and one of another class perturbed into its class"
    ),
    "path": Column("string", "`straight`: the segment between the two; `found`: the path looked for inside the class"),
    "pair": Column("int16", "number of the pair among those of its view and kind"),
    "class": Column("int32", "class of the pair: what the classifier predicts for the sample"),
    "partner": Column("string", "id of the second image"),
    "partner_class": Column("int32", "class predicted for the second image as it is, clean"),
    "converged": Column("bool", "there is such a path: always true of the segment"),
    "verified": Column(
        "bool", "it stays in the class at ten times as many samples as the search looks at; null if not converged"
    ),
    "anchors": Column("int32", "points of the path between its ends where it may bend; null if not converged"),
    "length": Column("float64", "l2 length of the path, units of the data; null if not converged"),
    "share": Column("list<float64>", "positions: share of the length that lies behind; null if not converged"),
    "margin": Column(
        "list<float64>",
        "logit of the class minus the largest other one, at each position; null where a logit is NaN, and if not "
        "converged",
    ),
    "prediction": Column("list<int32>", "class predicted at each position; null if not converged"),
    "pictured": Column("list<int32>", "places, in these lists, of the positions with an image; null if not converged"),
    "channels": Column("int16", "number of channels"),
    "height": Column("int16", "pixels"),
    "width": Column("int16", "pixels"),
    "images": Column(
        "binary",
        "images at those positions, units of the data: float32, little-endian, (images, channels, height, width); null "
        "if not converged",
    ),
}


class _Pairs(NamedTuple):
    """Rows (p,) of samples and partners, and the points (p, c, h, w) to be joined in the class `target` (p,)."""

    rows: Tensor
    partners: Tensor
    start: Tensor
    end: Tensor
    target: Tensor

    def part(self, chosen: Tensor) -> _Pairs:
        return _Pairs(*(values[chosen] for values in self))


class _Path(NamedTuple):
    """Vertices (k + 1, c, h, w) of a path, and whether it stays in the class at the higher density."""

    vertices: Tensor
    verified: bool


def path_examples(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    ids: Sequence[str],
    box: Box = UNIT,
    kinds: Sequence[Literal["image", "perturbed"]] = ("image", "perturbed"),
    pairs: Count = 3,
    candidates: Count = 64,
    points: Count = 43,
    pictures: Count = 7,
    depth: Natural = 12,
    resolution: Count = 51,
    steps: Count = 50,
    overshoot: NonNegative = 1.0,
    boxed: bool = True,
) -> dict[str, Sequence[Any]]:
    """Margin, predicted class and images along the segment and the path between a few pairs, one row per pair and path.

    Fawzi, Moosavi-Dezfooli, Frossard, Soatto, "Empirical study of the topology and geometry of deep networks", CVPR
    2018 ("Classification regions of deep neural networks", 2017), shows images along one such path. Pairs and paths are
    those of `regions`, with its departures from the paper; there is no noise, along whose paths nothing is to be seen.
    The rows are examples for figures and say nothing about how often segments leave a class: the pairs come in an
    order that follows from the seeds, and of the first ones those whose segment leaves the class are taken first. A
    partner that could not be pushed into the class is passed over.

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: not used, the classes are those predicted.
        seeds: (n,) int64, of the pairs.
        views: clean, attacks or both.
        batch_size: images per pass.
        ids: of the samples.
        box: of valid images.
        kinds: of pairs that the clean view gives; an attack gives pairs with an image that it perturbed into the class.
        pairs: number of pairs of each view and kind; fewer if there are not so many.
        candidates: pairs from which they are taken.
        points: positions along a path, at equal distances, both ends among them.
        pictures: images along a path, likewise, at the nearest of these positions.
        depth: as in `regions`.
        resolution: as in `regions`.
        steps: as in `regions`.
        overshoot: as in `regions`.
        boxed: as in `regions`.

    Returns:
        Columns as in `COLUMNS`, and `row`.
    """
    space = _paths.space_of(model, box)
    order = seeds.to(images.device).argsort(stable=True)
    own = space.put(images[order])
    predictions = logits_of(space.model, own, batch_size).argmax(dim=1)
    search = {"steps": steps, "overshoot": overshoot, "box": _paths.walls(space.box, boxed), "batch_size": batch_size}
    columns: dict[str, list[Any]] = {name: [] for name in ("row", *COLUMNS)}
    for view in views:
        for kind in kinds if view.kind == "clean" else ("perturbed",):
            moved = space.put(view.images[order]) if view.kind == "attack" else None
            known = _candidates(space.model, own, moved, predictions, kind, candidates, search)
            spacing = l2(known.end.double() - known.start.double()) / resolution
            chosen = _inside(space.model, known, spacing, batch_size).long().argsort(stable=True)[:pairs]
            shown, spacing = known.part(chosen), spacing[chosen]
            paths = _found(space.model, shown, spacing, depth, search)
            straight = _inside(space.model, shown, spacing / DENSER, batch_size).tolist()
            for number, (row, partner) in enumerate(zip(shown.rows.tolist(), shown.partners.tolist(), strict=True)):
                segment = _Path(torch.stack([shown.start[number], shown.end[number]]), straight[number])
                for name, path in (("straight", segment), ("found", paths[number])):
                    columns["row"].append(int(order[row]))
                    target = int(shown.target[number])
                    about: dict[str, Any] = {"view": view.name, "kind": kind, "path": name, "pair": number}
                    about |= {"class": target, "partner": ids[int(order[partner])]}
                    about["partner_class"] = int(predictions[partner])
                    about |= dict(zip(("channels", "height", "width"), images.shape[1:], strict=True))
                    about |= _looked_at(space, path, target, points, pictures, batch_size)
                    for column, value in about.items():
                        columns[column].append(value)
    return dict(columns)


def _candidates(
    model: nn.Module,
    points: Tensor,
    moved: Tensor | None,
    predictions: Tensor,
    kind: str,
    limit: int,
    search: Mapping[str, Any],
) -> _Pairs:
    """The first pairs of a kind whose ends lie in the class; points in the order of the seeds, `moved` if attacked."""
    rank = torch.arange(len(points), device=points.device)
    if kind == "image":
        rows, partners = _paths.groups(predictions, rank, 2)[:limit].unbind(dim=1)
        return _Pairs(rows, partners, points[rows], points[partners], predictions[rows])
    now = None if moved is None else logits_of(model, moved, search["batch_size"]).argmax(dim=1)

    def allowed(head: int) -> Tensor:
        other = predictions != predictions[head]
        return other if now is None else other & (now == predictions[head])

    partners = _paths.following(rank, min(limit, len(points)), allowed).to(points.device)
    rows = (partners >= 0).nonzero().squeeze(1)
    partners = partners[rows]
    if moved is not None:
        return _Pairs(rows, partners, points[rows], moved[partners], predictions[rows])
    entered = enter(model, points[partners], predictions[rows], **search)
    return _Pairs(rows, partners, points[rows], entered.points, predictions[rows]).part(entered.found)


def _inside(model: nn.Module, pairs: _Pairs, spacing: Tensor, batch_size: int) -> Tensor:
    """Whether the segments between the pairs lie in their class, (p,) bool."""
    counts = sample_counts(l2(pairs.end.double() - pairs.start.double()), spacing)
    return segments_inside(model, pairs.start, pairs.end, pairs.target, counts, batch_size)[0]


def _found(
    model: nn.Module, pairs: _Pairs, spacing: Tensor, depth: int, search: Mapping[str, Any]
) -> list[_Path | None]:
    """The path of each pair as `regions` looks for it: twice, if the first one does not hold at the higher density."""
    paths = find_paths(model, *pairs[2:], spacing, depth=depth, **search)
    dense = spacing / DENSER
    counts = sample_counts(l2(paths.end.double() - paths.start.double()), dense[paths.pair])
    target = pairs.target[paths.pair]
    held, _ = segments_inside(model, paths.start, paths.end, target, counts, search["batch_size"])
    bad = set(paths.pair[~held].tolist())
    found = [_path(paths, pair, pair not in bad) for pair in range(len(pairs.rows))]
    left = [pair for pair, path in enumerate(found) if path is None or not path.verified]
    if left:
        farther = {**search, "overshoot": FARTHER * search["overshoot"]}
        again = find_paths(model, *pairs.part(torch.tensor(left))[2:], dense[left], depth=depth, **farther)
        for place, pair in enumerate(left):
            found[pair] = _path(again, place, True) or found[pair]
    return found


def _path(paths: Paths, pair: int, verified: bool) -> _Path | None:
    if not paths.connected[pair]:
        return None
    own = paths.pair == pair
    return _Path(torch.cat([paths.start[own], paths.end[own][-1:]]), verified)


def _looked_at(
    space: _paths.Space, path: _Path | None, target: int, points: int, pictures: int, batch_size: int
) -> dict[str, Any]:
    """What is seen along a path: the columns that are null where there is none, and whether there is one."""
    names = ("verified", "anchors", "length", "share", "margin", "prediction", "pictured", "images")
    if path is None:
        return {"converged": False, **dict.fromkeys(names)}
    start, end = path.vertices[:-1], path.vertices[1:]
    lengths = l2(end.double() - start.double())
    behind = torch.cat([lengths.new_zeros(1), lengths.cumsum(dim=0)])
    share = torch.linspace(0, 1, points, dtype=torch.float64, device=lengths.device)
    at = share * behind[-1]
    segment = (torch.searchsorted(behind, at, right=True) - 1).clamp(max=len(lengths) - 1)
    part = ((at - behind[segment]) / lengths[segment]).nan_to_num(0.0).clamp(0, 1)
    seen = torch.lerp(start[segment], end[segment], per_sample(part.to(start), start))
    logits = logits_of(space.model, seen, batch_size)
    others = logits.clone()
    others[:, target] = -torch.inf
    margin = logits[:, target] - others.amax(dim=1)
    pictured = torch.linspace(0, points - 1, pictures, dtype=torch.float64).round().long().tolist()
    values = (
        path.verified,
        len(lengths) - 1,
        float(behind[-1]),
        share.tolist(),
        nullable(margin, ~margin.isnan()),
        logits.argmax(dim=1).tolist(),
        pictured,
        space.put(seen[pictured]).cpu().numpy().astype("<f4").tobytes(),
    )
    return {"converged": True, **dict(zip(names, values, strict=True))}
