"""Directions in which the decision boundary is curved near many images, and what they do to further images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, Natural, Positive, UserError, View
from pipeline.measurements.curvature import Crossings, find_crossings, gap_and_gradient, spectrum_at
from pipeline.measurements.inference import logits_of
from pipeline.numerics import randomness
from pipeline.numerics.boundary import crossed
from pipeline.numerics.hessian import hessian_products
from pipeline.numerics.norms import l2, per_sample, unit
from pipeline.numerics.spectra import Effort, centres, off

ACCEPTS: tuple[str, ...] = ("attack",)
KINDS = ("shared", "flat", "random")
COLUMNS: Mapping[str, Column] = {
    "view": Column("string", "id of the attack in the config"),
    "role": Column("string", "`fit`: helps to find the subspace; `test`: is measured in it"),
    "label": Column("int32", "true class"),
    "prediction": Column("int32", "class of the clean image"),
    "other": Column("int32", "class across the boundary; null if the perturbed image is not beyond it"),
    "converged": Column("bool", "of a test image: the boundary was found, and a subspace; false for `fit`"),
    "points": Column("int32", "points of the boundary that the subspace was made from"),
    "dimension": Column("int32", "of the shared subspace, and of the flat one"),
    "chance": Column("float64", "root of dimension / entries: `projected` of a random perturbation"),
    "projected": Column("float64", "length of the perturbation's part in the shared subspace over its length"),
    "curvature_shared": Column("float64", "mean |u^T G u| of random directions u in the shared subspace, 1 / units"),
    "curvature_flat": Column("float64", "likewise in the flat subspace"),
    "curvature_random": Column("float64", "likewise of any directions"),
    "distance": Column("float64", "l2 distance from the clean image to the boundary, units of the data"),
    "noise": Column("float64", "l2 norm of the noise"),
    "draws": Column("int32", "draws of each kind of noise"),
    "flips_shared": Column("int32", "draws in the shared subspace that change the class of the clean image"),
    "flips_flat": Column("int32", "likewise in the flat subspace"),
    "flips_random": Column("int32", "likewise in any direction"),
}
SHARE = 200 / 3072  # of the entries, in the subspace of the paper's CIFAR-10 networks


def shared_directions(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    dimension: Count | None = None,
    per_point: Count = 4,
    noise: Positive = 4.0,
    draws: Count = 20,
    lines: Count = 8,
    radius: Positive | None = 0.1,
    samples: Count | None = None,
    averages: Count = 1,
    full_below: Natural = 256,
    iterations: Count = 30,
) -> dict[str, Sequence[Any]]:
    """Shared curved directions, found on one half of the images, measured on the other; one row per attack and image.

    Fawzi, Moosavi-Dezfooli, Frossard, Soatto, "Empirical study of the topology and geometry of deep networks", CVPR
    2018. At points of the boundary near the images of one half, the directions of the largest curvatures in magnitude
    are stacked; their first right-singular vectors span the shared subspace, the last ones the flat subspace of the
    same dimension, at random among those orthogonal to the whole stack if it leaves as many. On the other half: how
    much of a perturbation lies in the shared subspace, how curved the boundary is along it, and how often noise flips
    the class. The paper gives no recipe for the number of directions a point contributes or for its flat subspace:
    these are ours. Noise has a length in proportion to each image's own distance to the boundary, instead of one
    length for all, so that images far from it say something, too; it may leave the box.

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: (n,) int64.
        seeds: (n,) int64: of the random draws, and an even one puts its image into the half that is fitted.
        views: attacks.
        batch_size: images per pass.
        dimension: of the subspaces; None: 200 of 3072 entries, the paper's for CIFAR-10 as far as its value for random
            perturbations tells. Fewer if fewer directions are stacked.
        per_point: directions that each point contributes.
        noise: length of the noise over the distance to the boundary.
        draws: of each kind of noise.
        lines: random directions per image and subspace along which curvature is measured.
        radius: of the differences, as of `curvature`; None: exact derivatives.
        samples: the first of the evaluation set; None: all.
        averages: random bases, or centres, over which differences are averaged, as `draws` of `curvature`.
        full_below: as of `curvature`.
        iterations: as of `curvature`.

    Returns:
        Columns as in `COLUMNS`, and `row`.

    Raises:
        UserError: two subspaces of that dimension do not fit.
    """
    entries = images[0].numel()
    wanted = max(1, round(SHARE * entries)) if dimension is None else dimension
    if 2 * wanted > entries:
        raise UserError(f"dimension: given {wanted}, expected at most {entries // 2}, half of the images' entries")
    images, labels, seeds = images[:samples], labels[:samples], seeds[:samples]
    effort = Effort(averages, full_below, iterations, 1, batch_size)
    fits = (seeds % 2 == 0).to(images.device)
    columns: dict[str, list[Any]] = {name: [] for name in ("row", *COLUMNS)}
    for view in views:
        perturbed = view.images[:samples]
        crossing = find_crossings(model, images, perturbed, batch_size)
        gradients = gap_and_gradient(model, crossing.points, crossing.source, crossing.other, batch_size)[1]
        sloped = l2(gradients.double())
        usable = crossing.found & (sloped > 0) & sloped.isfinite()
        fit, test = (usable & fits).nonzero().flatten(), (usable & ~fits).nonzero().flatten()
        facts: dict[str, Tensor] = {}
        if len(fit) and len(test):
            own = seeds[fit.to(seeds.device)]
            found = spectrum_at(model, crossing.only(fit), gradients[fit], radius, own, effort, per_point)
            stack = found.leading[found.values.isfinite().all(dim=1)].flatten(0, 1)
            spaces = _subspaces(stack.to(images), wanted, int(own.min()))
            clean, here, own = images[test], crossing.only(test), seeds[test.to(seeds.device)]
            facts = {
                **_projected(perturbed[test] - clean, spaces[0]),
                **_curvatures(model, here, gradients[test], spaces, radius, own, lines, effort),
                **_flips(model, clean, here, spaces, own, noise, draws, batch_size),
                "points": torch.full_like(test, len(stack) // found.leading.shape[1]),
                "distance": here.distance,
            }
        known = torch.stack([v.isfinite() for v in facts.values()]).all(dim=0).tolist() if facts else []
        place = {row: at for at, row in enumerate(test.tolist()) if known and known[at]}
        cells = {name: values.tolist() for name, values in facts.items()}
        count = len(images)
        columns["row"] += range(count)
        columns["view"] += [view.name] * count
        columns["role"] += ["fit" if fitted else "test" for fitted in fits.tolist()]
        columns["label"] += labels.tolist()
        columns["prediction"] += crossing.source.tolist()
        columns["other"] += [
            o if f else None for o, f in zip(crossing.other.tolist(), crossing.found.tolist(), strict=True)
        ]
        columns["converged"] += [row in place for row in range(count)]
        for name in [name for name in COLUMNS if len(columns[name]) < len(columns["row"])]:
            columns[name] += [cells[name][place[row]] if row in place else None for row in range(count)]
    return dict(columns)


def _subspaces(stack: Tensor, dimension: int, seed: int) -> tuple[Tensor, Tensor]:
    """The shared and the flat subspace of unit directions (m, d): orthonormal rows, (k, d) each."""
    entries = stack.shape[1]
    rows = stack.double()
    size, axes = torch.linalg.svd(rows, full_matrices=False)[1:]
    rank = int((size > entries * torch.finfo(stack.dtype).eps * size.amax()).sum()) if len(size) else 0
    wanted = min(dimension, rank)
    if entries - rank < wanted:
        return axes[:wanted].to(stack), axes[len(axes) - wanted :].to(stack)
    spanned = axes[:rank]
    drawn = randomness.normal(torch.tensor([seed]), (wanted, entries))[0].to(spanned)
    for _ in range(2):
        drawn = drawn - drawn @ spanned.mT @ spanned
    return axes[:wanted].to(stack), torch.linalg.qr(drawn.mT)[0].mT.to(stack)


def _projected(perturbations: Tensor, shared: Tensor) -> dict[str, Tensor]:
    """How much of each perturbation lies in the shared subspace, and would by chance."""
    flat = perturbations.flatten(1).double()
    inside = torch.linalg.vector_norm(flat @ shared.double().mT, dim=1)
    dimension, entries = shared.shape
    return {
        "projected": inside / torch.linalg.vector_norm(flat, dim=1),
        "dimension": torch.full_like(inside, dimension).long(),
        "chance": torch.full_like(inside, math.sqrt(dimension / entries)),
    }


def _drawn(spaces: tuple[Tensor, Tensor], seeds: Tensor, count: int, like: Tensor) -> dict[str, Tensor]:
    """Random unit directions per sample, (n, count, d), in the shared subspace, in the flat one, and in any."""
    shared, flat = spaces
    sizes = [len(shared), len(flat), shared.shape[1]]
    drawn = torch.split(randomness.normal(seeds, (count, sum(sizes))).to(like), sizes, dim=2)
    parts = (drawn[0] @ shared, drawn[1] @ flat, drawn[2])
    return {kind: unit(part.flatten(0, 1)).view_as(part) for kind, part in zip(KINDS, parts, strict=True)}


def _curvatures(
    model: nn.Module,
    crossing: Crossings,
    gradients: Tensor,
    spaces: tuple[Tensor, Tensor],
    radius: float | None,
    seeds: Tensor,
    count: int,
    effort: Effort,
) -> dict[str, Tensor]:
    """Mean |u^T G u| over random directions of each kind, (n,) float64 each."""
    normals, slopes = unit(gradients.flatten(1)), l2(gradients.double())
    found: dict[str, list[Tensor]] = {f"curvature_{kind}": [] for kind in KINDS}
    for rows in _split(crossing.points, effort.batch_size // (effort.draws * count)):
        own = seeds[rows.to(seeds.device)]
        around = centres(crossing.points[rows], radius, own, effort.draws)
        averages, points = around.shape[1], around.flatten(0, 1)
        source, other = (part[rows].repeat_interleave(averages) for part in (crossing.source, crossing.other))
        for kind, drawn in _drawn(spaces, own ^ 2, count, normals).items():
            tangent = off(drawn, normals[rows, None]).repeat_interleave(averages, dim=0)
            shaped = tangent.view(*tangent.shape[:2], *points.shape[1:])
            products = hessian_products(model, points, source, other, shaped, radius).flatten(2)
            along = (products.double() * tangent).sum(dim=2).view(len(rows), averages, count).mean(dim=1)
            found[f"curvature_{kind}"].append(along.abs().mean(dim=1) / slopes[rows])
    return {name: torch.cat(parts) for name, parts in found.items()}


def _flips(
    model: nn.Module,
    clean: Tensor,
    crossing: Crossings,
    spaces: tuple[Tensor, Tensor],
    seeds: Tensor,
    noise: float,
    draws: int,
    batch_size: int,
) -> dict[str, Tensor]:
    """Draws of each kind of noise that change the class of each image, (n,) int64."""
    length = noise * crossing.distance
    found: dict[str, list[Tensor]] = {f"flips_{kind}": [] for kind in KINDS}
    for rows in _split(clean, batch_size // draws):
        start = clean[rows, None]
        for kind, drawn in _drawn(spaces, seeds[rows.to(seeds.device)] ^ 4, draws, clean).items():
            shift = drawn.view(len(rows), draws, *clean.shape[1:]) * per_sample(length[rows].to(clean), start)
            logits = logits_of(model, (start + shift).flatten(0, 1), batch_size)
            fooled = crossed(logits, crossing.source[rows].repeat_interleave(draws))
            found[f"flips_{kind}"].append(fooled.view(len(rows), draws).sum(dim=1))
    flips = {name: torch.cat(parts) for name, parts in found.items()}
    return {"noise": length, "draws": torch.full_like(crossing.source, draws), **flips}


def _split(like: Tensor, size: int) -> Sequence[Tensor]:
    """Indexes of the samples, at least one at a time."""
    return torch.split(torch.arange(len(like), device=like.device), max(1, size))
