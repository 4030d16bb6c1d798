"""Perturbed images against natural ones: mean curvature and other statistics that are to tell them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, Natural, NonNegative, Positive, View, derive_seed
from pipeline.measurements import _detectors
from pipeline.measurements._evasion import evade
from pipeline.measurements.inference import correct, logits_of, misclassified, nullable
from pipeline.numerics import randomness
from pipeline.numerics.boundary import rivals
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.norms import l2, unit

ACCEPTS: tuple[str, ...] = ("attack",)
COLUMNS: Mapping[str, Column] = {
    "view": Column("string", "id of the attack in the config"),
    "radius": Column("float64", "of the differences, units of the data; null: exact second derivatives"),
    "alpha": Column("float64", "length of the perturbation in units of the attack's own; 0: the natural image"),
    "adaptive": Column("bool", "the image was changed further, no farther off, so that its curvature looks natural"),
    "split": Column("string", "`calibration` or `test`: a detector's sign and threshold are to come from the former"),
    "label": Column("int32", "true class, and the one predicted for the natural image"),
    "prediction": Column("int32", "class of this image; its region is the one whose curvature is meant"),
    "changed": Column("bool", "that is not the label"),
    "l2": Column("float64", "distance to the natural image, units of the data"),
    "confidence": Column("float64", "largest softmax output"),
    "gap": Column("float64", "difference of the two largest logits"),
    "squeeze": Column("float64", "l1 change of the softmax outputs by squeezing; null for data without bounds"),
    "instability": Column("float64", "mean l1 change of the softmax outputs by Gaussian noise"),
    "runner_up": Column("int32", "class of the second largest logit"),
    "candidates": Column("int32", "classes, besides the one predicted, whose curvature was asked for"),
    "converged": Column("bool", "the curvature is known for some of them"),
    "rho": Column("float64", "mean curvature over directions and these classes, 1 / units of the data; null likewise"),
    "lowest_class": Column("int32", "the one of least curvature; null likewise, or if all are equal"),
    "highest_class": Column("int32", "the one of largest curvature; likewise"),
}
PART = 4  # of a batch: as many images at a time, whose draws and gradients by class have to fit into memory
SMOOTH_RADIUS = 0.1  # of the attacker's differences where the detector's derivatives are exact


def detection(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    box: Box = UNIT,
    samples: Count | None = None,
    alphas: Sequence[Positive] = (1.0, 2.0, 5.0),
    overshoot: NonNegative = 0,
    clip: bool = True,
    probes: Count = 10,
    radii: Sequence[Positive] | None = (0.3,),
    top_k: Count | None = None,
    bits: Count = 5,
    noise: NonNegative = 0.05,
    draws: Count = 10,
    adaptive_samples: Natural = 0,
    adaptive_steps: Count = 10,
    adaptive_step: Positive = 0.1,
) -> dict[str, Sequence[Any]]:
    """Curvature as a detector of perturbed images and a guess at their label, beside simpler statistics.

    Fawzi, Moosavi-Dezfooli, Frossard, Soatto, "Empirical study of the topology and geometry of deep networks" (CVPR
    2018), its detector: with F_i = logit[i] - logit[k] and k the class predicted, rho_i is the mean of v^T G_i v over
    random unit vectors v, G_i = P Hess(F_i) P / |grad F_i| at the image itself, not on the boundary, and rho the mean
    of rho_i over the classes i. A threshold on rho tells natural from perturbed images, and the class of extreme rho_i
    is the label recovered. With this sign a predicted region that is a ball of radius R has rho = +1/R on its boundary;
    which side of the threshold is natural, and which extreme is the label, is left to the `calibration` rows.

    An image is x + alpha (1 + overshoot) r, with r the perturbation of the attack, for alpha = 0 (natural) and each of
    `alphas`. Directions, noise and split belong to the sample and are the same for all its images.

    Departures: each direction counts by the curvature along its tangential part of length 1, where the paper's
    quadratic form is smaller by |P v|^2 (on average by 1 - 1/entries); second derivatives are differences at a radius
    (`numerics.directional`), as those of rectifier networks are zero wherever they exist; with `top_k` the mean is over
    the classes with the largest logits alone; images are clipped to the box.

    The others: the largest softmax output (Hendrycks and Gimpel, ICLR 2017), the gap of the two largest logits, feature
    squeezing and instability under noise (`measurements._detectors`), and, for the label, the class of the second
    largest logit, which a minimal perturbation leaves there. With `adaptive_samples`, the first so many of the images
    on which the attack succeeded also come as changed by an attacker who knows the detector (`measurements._evasion`).

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: (n,) int64.
        seeds: (n,) int64.
        views: attacks.
        batch_size: images per forward pass.
        box: of valid images.
        samples: how many images are looked at, the first ones; null: all.
        alphas: lengths of the perturbation, in units of the attack's own.
        overshoot: share by which perturbations are lengthened beyond alpha; an attack's own is part of r already.
        clip: whether images are clipped to the box.
        probes: random directions per image.
        radii: of the differences, in units of the data, each with rows of its own; about as long as the perturbations
            are, or several, as the outcome can depend on it. Null: exact derivatives, for smooth networks.
        top_k: classes of largest logit that are looked at, besides the one predicted; null: all.
        bits: of colour that squeezing leaves.
        noise: standard deviation of the noise, in units of the data.
        draws: of the noise.
        adaptive_samples: images that the attacker who knows the detector changes.
        adaptive_steps: of that attacker.
        adaptive_step: length of such a step, as a share of the perturbation's length.

    Returns:
        Columns as in `COLUMNS`, and `row`: of the samples that are classified correctly and on which the attack
        succeeded, one row per view, alpha, adaptive or not, and radius.
    """
    images, labels, seeds = images[:samples], labels[:samples], seeds[:samples]
    right = correct(logits_of(model, images, batch_size), labels)
    numbers, differences = (probes, draws), radii[0] if radii else SMOOTH_RADIUS
    columns: dict[str, list[Any]] = {name: [] for name in ("row", *COLUMNS)}
    for view in views:
        attacked = view.images[: len(labels)]
        rows = (right & misclassified(logits_of(model, attacked, batch_size), labels)).nonzero().flatten()
        if not len(rows):
            continue
        clean, perturbed, own, true = images[rows], attacked[rows], seeds[rows.to(seeds.device)], labels[rows]
        for alpha in (0, *alphas):
            points = torch.lerp(clean, perturbed, alpha * (1 + overshoot))
            points = box.clip(points) if clip and alpha else points
            seen = [(False, points)]
            if alpha and adaptive_samples:
                few = (x[:adaptive_samples] for x in (clean, points, true, own))
                evaded = [
                    evade(model, x, start, label, seed, box, differences, top_k, adaptive_steps, adaptive_step)
                    for x, start, label, seed in _parts(batch_size, *few)
                ]
                seen.append((True, torch.cat(evaded)))
            for adaptive, looked in seen:
                size = len(looked)
                plain = _plain(model, looked, own[:size], true[:size], batch_size, box, numbers, bits, noise)
                plain |= {"row": rows[:size].tolist(), "l2": l2(looked.double() - clean[:size].double()).tolist()}
                for radius in radii or (None,):
                    same = {"view": view.name, "radius": radius, "alpha": float(alpha), "adaptive": adaptive}
                    found = plain | _curved(model, looked, own[:size], batch_size, numbers, radius, top_k)
                    for name, values in (found | {name: [value] * size for name, value in same.items()}).items():
                        columns[name] += values
    return dict(columns)


def _parts(batch_size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """A few samples at a time."""
    return zip(*(torch.split(tensor, max(1, batch_size // PART)) for tensor in tensors), strict=True)


def _drawn(seeds: Tensor, like: Tensor, numbers: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Directions (n, t, c, h, w) of length 1 and standard normal noise (n, s, c, h, w), the sample's own."""
    normal = randomness.normal(seeds, (sum(numbers), *like.shape[1:])).to(like)
    directions, noise = torch.split(normal, list(numbers), dim=1)
    return unit(directions.flatten(0, 1)).view_as(directions), noise


def _plain(
    model: nn.Module,
    points: Tensor,
    seeds: Tensor,
    labels: Tensor,
    batch_size: int,
    box: Box,
    numbers: tuple[int, int],
    bits: int,
    noise: float,
) -> dict[str, list[Any]]:
    """Columns of images that need no curvature."""
    logits = logits_of(model, points, batch_size)
    two, probabilities = logits.topk(2, dim=1), logits.softmax(dim=1)
    squeezed = _detectors.squeeze(model, points, probabilities, box, bits, batch_size)
    shaken = [
        _detectors.instability(model, x, p, noise * _drawn(s, x, numbers)[1], batch_size)
        for x, p, s in _parts(batch_size, points, probabilities, seeds)
    ]
    return {
        "split": [("calibration", "test")[derive_seed(seed, "split") % 2] for seed in seeds.tolist()],
        "label": labels.tolist(),
        "prediction": two.indices[:, 0].tolist(),
        "changed": (two.indices[:, 0] != labels).tolist(),
        "confidence": _known(probabilities.amax(dim=1)),
        "gap": _known(two.values[:, 0] - two.values[:, 1]),
        "squeeze": _known(squeezed),
        "instability": _known(torch.cat(shaken)),
        "runner_up": two.indices[:, 1].tolist(),
    }


def _curved(
    model: nn.Module,
    points: Tensor,
    seeds: Tensor,
    batch_size: int,
    numbers: tuple[int, int],
    radius: float | None,
    top_k: int | None,
) -> dict[str, list[Any]]:
    """Columns of images that say how the region around them is curved."""
    logits = logits_of(model, points, batch_size)
    source = logits.argmax(dim=1)
    classes = rivals(logits, source, top_k or logits.shape[1])
    found = [
        _detectors.curvatures(model, x, k, others, _drawn(s, x, numbers)[0], radius, batch_size)
        for x, k, others, s in _parts(batch_size, points, source, classes, seeds)
    ]
    curvature = torch.cat(found)  # (n, candidates)
    known = ~curvature.isnan()
    some = known.any(dim=1)
    least, lowest = curvature.masked_fill(~known, torch.inf).min(dim=1, keepdim=True)
    most, highest = curvature.masked_fill(~known, -torch.inf).max(dim=1, keepdim=True)
    apart = some & ((least < most)[:, 0] | (known.sum(dim=1) == 1))  # else the order of the logits would decide
    return {
        "candidates": [classes.shape[1]] * len(points),
        "converged": some.tolist(),
        "rho": _known(curvature.nanmean(dim=1)),
        "lowest_class": nullable(classes.gather(1, lowest)[:, 0], apart),
        "highest_class": nullable(classes.gather(1, highest)[:, 0], apart),
    }


def _known(values: Tensor) -> list[int | float | None]:
    return nullable(values, values.isfinite())
