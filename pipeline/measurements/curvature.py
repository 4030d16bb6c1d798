"""Curvature of the decision boundary, where an attack's perturbations cross it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, Natural, Positive, View
from pipeline.measurements.inference import logits_of
from pipeline.numerics import hessian
from pipeline.numerics.boundary import bisect
from pipeline.numerics.lanczos import lanczos
from pipeline.numerics.norms import l2, per_sample
from pipeline.numerics.randomness import normal
from pipeline.numerics.spectra import Effort, Spectrum, centres, operator, spectrum

ACCEPTS: tuple[str, ...] = ("attack",)
INDEPENDENT = ("view", "radius")  # columns by which the rows, each of a sample alone, come in groups
COLUMNS: Mapping[str, Column] = {
    "view": Column("string", "id of the attack in the config"),
    "radius": Column("float64", "of the differences of gradients, l2, units of the data; null: exact derivatives"),
    "exact": Column("bool", "exact second derivatives instead of differences of gradients"),
    "label": Column("int32", "true class"),
    "prediction": Column("int32", "class of the clean image, on whose region's boundary the point lies"),
    "other": Column("int32", "class across the boundary; null if the perturbed image is not beyond it"),
    "converged": Column("bool", "the boundary was found and all derivatives are finite"),
    "distance": Column("float64", "l2 distance from the clean image to the point of the boundary, units of the data"),
    "gap": Column("float64", "what is left of F = logit[other] - logit[prediction] there, relative to the clean image"),
    "slope": Column("float64", "length of the gradient of F there"),
    "smallest": Column("float64", "smallest principal curvature, 1 / units of the data; positive: convex region"),
    "largest": Column("float64", "largest principal curvature, likewise"),
    "mean": Column("float64", "mean of the principal curvatures"),
    "flat": Column("float64", "share of directions whose curvature is at most 5 % of the largest in magnitude"),
    "negative": Column("float64", "share of directions with a negative curvature beyond 10 % of the largest magnitude"),
    "positive": Column("float64", "share of directions with a positive curvature, likewise"),
    "nodes": Column("list<float64>", "principal curvatures, or nodes of a quadrature of their density"),
    "weights": Column("list<float64>", "their weights, of sum 1"),
    "asymmetry": Column("float64", "|H - H^T| / |H| of the Hessian as it was found: error of the differences"),
    "loss_curvature": Column(
        "float64", "eigenvalue of largest magnitude of the loss's Hessian at the clean image over its gradient's length"
    ),
    "nonlinearity": Column(
        "float64", "|F(x + r) - F(x) - <grad F(x), r>| / |F(x)| for the whole perturbation r of the clean image x"
    ),
}
FLAT, CURVED = 0.05, 0.1  # of the largest magnitude
HALVINGS = 40  # of the segment; float32 images can use about 25
BEYOND = 1.05  # length to which a segment is extended if another precision puts its end just short of the boundary
LOSS_ITERATIONS = 10  # of Lanczos, for one end of the loss's spectrum


def curvature(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    radii: Sequence[Positive] = (0.03, 0.1, 0.3),
    exact: bool = False,
    samples: Count | None = None,
    draws: Count = 2,
    full_below: Natural = 256,
    iterations: Count = 30,
    probes: Count = 4,
) -> dict[str, Sequence[Any]]:
    """Principal curvatures of the boundary near images, one row per attack, radius and sample.

    Fawzi, Moosavi-Dezfooli, Frossard, Soatto, "Empirical study of the topology and geometry of deep networks", CVPR
    2018. The point z is where the segment from an image to its perturbed version first is seen to leave the image's
    class; F = logit[other] - logit[prediction], so a positive curvature means that the region of the image is convex
    there. Departures: z is bisected onto the boundary; and the Hessian is symmetrised and averaged over random draws
    (see `numerics.spectra`), since a rectifier network has none: what is measured there is the Hessian averaged over a
    ball, and it depends on the ball's radius. The defaults were chosen on networks for 8 x 8 pixels, whose images lie
    0.3 to 0.8 from the boundary: differences of radius 0.1 agree with exact curvatures of a transformer within 3 %,
    those of 0.3 begin to smooth them, and a residual network's curvatures fall throughout from 0.01 to 0.3. There,
    too, float32 gradients give the Hessian within 1e-5 of float64 ones, so the model runs in its own precision.
    The loss curvature is that of Srinivas et al., "Efficient training of low-curvature neural networks", NeurIPS 2022,
    without the small constant that they add to the gradient's length.

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: (n,) int64.
        seeds: (n,) int64, of the random draws.
        views: attacks.
        batch_size: images per pass.
        radii: of the differences, in units of the data.
        exact: adds a row of exact derivatives per sample, for smooth networks.
        samples: the first of the evaluation set; None: all.
        draws: random bases, or centres, over which differences are averaged: the noise falls with the root.
        full_below: images of at most so many entries get all curvatures, larger ones a quadrature by Lanczos.
        iterations: of Lanczos; each takes a product per probe and draw.
        probes: random vectors from which Lanczos starts.

    Returns:
        Columns as in `COLUMNS`, and `row`.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("row", *COLUMNS)}
    images, labels, seeds = images[:samples], labels[:samples], seeds[:samples]
    effort = Effort(draws, full_below, iterations, probes, batch_size)
    for view in views:
        crossing = find_crossings(model, images, view.images[:samples], batch_size)
        found = crossing.found.nonzero().flatten()
        near = _near(model, images[found], view.images[:samples][found], crossing.only(found), batch_size)
        for radius in [*radii, *([None] if exact else [])]:
            facts = {**near, "distance": crossing.distance[found]}
            lists: dict[str, list[Any]] = {"nodes": [], "weights": []}
            if len(found):
                own = seeds[found.to(seeds.device)]
                shape = spectrum_at(model, crossing.only(found), near["gradient"], radius, own, effort)
                loss = _loss_curvature(model, images[found], labels[found], radius, own, effort)
                facts |= {**_summary(shape), "asymmetry": shape.asymmetry, "loss_curvature": loss}
                lists = {"nodes": shape.values.tolist(), "weights": shape.weights.tolist()}
            numbers = {name: values for name, values in facts.items() if name in COLUMNS}
            known = torch.stack([v.isfinite() for v in numbers.values()]).all(dim=0).tolist()
            place = {row: at for at, row in enumerate(found.tolist()) if known[at]}
            cells = {name: values.tolist() for name, values in numbers.items()} | lists
            count = len(images)
            columns["row"] += range(count)
            columns["view"] += [view.name] * count
            columns["radius"] += [radius] * count
            columns["exact"] += [radius is None] * count
            columns["label"] += labels.tolist()
            columns["prediction"] += crossing.source.tolist()
            columns["other"] += [
                o if f else None for o, f in zip(crossing.other.tolist(), crossing.found.tolist(), strict=True)
            ]
            columns["converged"] += [row in place for row in range(count)]
            for name in [name for name in COLUMNS if len(columns[name]) < len(columns["row"])]:
                columns[name] += [cells[name][place[row]] if row in place else None for row in range(count)]
    return dict(columns)


class Crossings(NamedTuple):
    """Where segments from clean to perturbed images leave the class of the clean image.

    Attributes:
        points: (n, c, h, w), just beyond the boundary.
        source: (n,) int64, class of the clean image.
        other: (n,) int64, class that leads at the point.
        found: (n,) bool; elsewhere the point is the perturbed image, and `other` says nothing.
        distance: (n,) float64, from the clean image to the point.
    """

    points: Tensor
    source: Tensor
    other: Tensor
    found: Tensor
    distance: Tensor

    def only(self, rows: Tensor) -> Crossings:
        """Some of them."""
        return Crossings(*(part[rows] for part in self))


@hessian.full_precision()
def find_crossings(model: nn.Module, clean: Tensor, perturbed: Tensor, batch_size: int) -> Crossings:
    """Bisect segments back to the boundary; an image whose perturbed version keeps its class has no crossing.

    Args:
        model: images to logits.
        clean: (n, c, h, w).
        perturbed: (n, c, h, w).
        batch_size: images per pass.
    """
    source = logits_of(model, clean, batch_size).argmax(dim=1)

    def leads(rows: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the first rival leads, and which it is."""
        logits = logits_of(model, points, batch_size)
        own = logits.gather(1, source[rows, None]).squeeze(1)
        rival, other = logits.scatter(1, source[rows, None], -torch.inf).max(dim=1)
        return rival - own, other

    def at(rows: Tensor, scale: Tensor) -> Tensor:
        start, shift = clean[rows].double(), perturbed[rows].double() - clean[rows].double()
        return (start + per_sample(scale, shift) * shift).to(clean)

    moved = (perturbed != clean).flatten(1).any(dim=1).nonzero().flatten()
    points, other, found = perturbed.clone(), source.clone(), torch.zeros_like(source, dtype=torch.bool)
    if len(moved):
        reach = torch.ones(len(moved), dtype=torch.float64, device=clean.device)
        reach[leads(moved, perturbed[moved])[0] <= 0] = BEYOND
        crossed = leads(moved, at(moved, reach))[0] > 0
        rows, reach = moved[crossed], reach[crossed]
        if len(rows):
            scale = bisect(lambda s: leads(rows, at(rows, s * reach))[0] > 0, reach, HALVINGS)
            points[rows] = at(rows, scale * reach)
            other[rows], found[rows] = leads(rows, points[rows])[1], True
    return Crossings(points, source, other, found, l2(points.double() - clean.double()))


def spectrum_at(
    model: nn.Module,
    crossing: Crossings,
    gradients: Tensor,
    radius: float | None,
    seeds: Tensor,
    effort: Effort,
    leading: int = 1,
) -> Spectrum:
    """Principal curvatures of F = logit[other] - logit[source] at crossings, all of which were found."""

    def products(rows: Tensor, points: Tensor, directions: Tensor) -> Tensor:
        own = crossing.source[rows], crossing.other[rows]
        return hessian.hessian_products(model, points, *own, directions, radius)

    return spectrum(products, crossing.points, gradients, radius, seeds, effort, leading)


def gap_and_gradient(
    model: nn.Module, points: Tensor, source: Tensor, other: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """F = logit[other] - logit[source] at points, (n,), and its gradients (n, c, h, w)."""
    values, gradients = points.new_zeros(len(points)), torch.zeros_like(points)
    for rows in torch.split(torch.arange(len(points), device=points.device), batch_size):
        gap = hessian.logit_gap(model, source[rows], other[rows])
        values[rows], gradients[rows] = hessian.value_and_gradient(gap, points[rows])
    return values, gradients


def _near(
    model: nn.Module, clean: Tensor, perturbed: Tensor, crossing: Crossings, batch_size: int
) -> dict[str, Tensor]:
    """What F and its gradient say at the clean image and at the boundary, where that is `gradient`."""
    pair = crossing.source, crossing.other, batch_size
    start, uphill = gap_and_gradient(model, clean, *pair)
    rest, gradient = gap_and_gradient(model, crossing.points, *pair)
    end = gap_and_gradient(model, perturbed, *pair)[0].double()
    predicted = start.double() + ((perturbed.double() - clean) * uphill).flatten(1).sum(dim=1)
    slope = l2(gradient.double())
    return {
        "gradient": gradient,
        "gap": rest.double().abs() / start.double().abs(),
        "slope": torch.where(slope > 0, slope, torch.nan),
        "nonlinearity": (end - predicted).abs() / start.double().abs(),
    }


def _loss_curvature(
    model: nn.Module, clean: Tensor, labels: Tensor, radius: float | None, seeds: Tensor, effort: Effort
) -> Tensor:
    """Eigenvalue of the cross-entropy's Hessian that is largest in magnitude over the gradient's length, (n,)."""

    def products(sample: Tensor, points: Tensor, directions: Tensor) -> Tensor:
        return hessian.loss_hessian_products(model, points, labels[sample], directions, radius)

    around = centres(clean, radius, seeds, effort.draws)
    start = normal(seeds, (clean[0].numel(),)).to(clean)
    found = []
    for rows in torch.split(torch.arange(len(clean), device=clean.device), max(1, effort.batch_size // effort.draws)):
        values = lanczos(operator(products, rows, around[rows]), start[rows], LOSS_ITERATIONS).values
        ends = values[:, [0, -1]]
        largest = ends.gather(1, ends.abs().argmax(dim=1, keepdim=True)).squeeze(1)
        loss = hessian.cross_entropy(model, labels[rows])
        found.append(largest / l2(hessian.value_and_gradient(loss, clean[rows])[1].double()))
    return torch.cat(found)


def _summary(shape: Spectrum) -> dict[str, Tensor]:
    """The density in a few numbers, (n,) each."""
    size = shape.values.abs()
    top = size.amax(dim=1, keepdim=True)

    def share(which: Tensor) -> Tensor:
        return (which * shape.weights).sum(dim=1)

    return {
        "smallest": shape.values.amin(dim=1),
        "largest": shape.values.amax(dim=1),
        "mean": (shape.values * shape.weights).sum(dim=1),
        "flat": share(size <= FLAT * top),
        "negative": share(shape.values < -CURVED * top),
        "positive": share(shape.values > CURVED * top),
    }
