"""Norms of adversarial perturbations, with success re-measured outside the attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, UserError, View
from pipeline.measurements import probes
from pipeline.measurements.inference import correct, logits_of, misclassified, nullable
from pipeline.numerics import norms
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.reliability import PROBED

ACCEPTS: tuple[str, ...] = ("attack",)
COLUMNS: Mapping[str, Column] = {
    "attack": Column("string", "id of the attack in the config"),
    "norm": Column("string", "norm that the attack bounds or minimises"),
    "epsilon": Column("float64", "radius of the ball, in that norm, units of the data; null if the norm is minimised"),
    "label": Column("int32", "true class"),
    "clean_prediction": Column("int32", "class of the clean image"),
    "prediction": Column("int32", "class of the perturbed image"),
    "converged": Column("bool", "prediction is not the label, image in the box, perturbation within epsilon if any"),
    "in_box": Column("bool", "every entry finite, and the image in the box of valid ones (pixels: [0, 1])"),
    "within_epsilon": Column("bool", "norm at most epsilon, to rounding; null without epsilon"),
    "l0_pixels": Column("int64", "pixels changed in any channel; null if not converged"),
    "l0_entries": Column("int64", "entries changed, channels counted apart; null if not converged"),
    "l1": Column("float64", "l1 norm, in units of the data (pixels: [0, 1]); null if not converged"),
    "l2": Column("float64", "l2 norm, in units of the data; null if not converged"),
    "linf": Column("float64", "linf norm, in units of the data; null if not converged"),
    "forward_passes": Column("float64", "forward passes of the attack, per sample, mean"),
    "backward_passes": Column("float64", "backward passes of the attack, per sample, mean"),
    "zero_gradient": Column("bool", "the loss's gradient at the clean image is zero or not finite"),
    "random_forward": Column("bool", "two forward passes of the same images differ"),
    "softmax_output": Column("bool", "the classifier puts out probabilities, not logits"),
    "large_epsilon_success": Column(
        "float64",
        "share of some samples on which the attack succeeds with the whole box as budget; null without epsilon or box",
    ),
    "batch_dependent": Column(
        "bool", "an image's logits depend on the others of its batch; null if the forward pass is random"
    ),
    "gradient_mismatch": Column(
        "bool", "logits change otherwise than the gradient says; null if not probed or the forward pass is random"
    ),
    "gradient_cosine": Column(
        "float64", "cosine of the loss's gradient and the one in float64; null likewise, or if both are zero"
    ),
    "single_step_success": Column(
        "bool", "one step of length epsilon along the gradient fools; null if not probed, without epsilon or gradients"
    ),
    "random_search_success": Column("bool", "a short random search within epsilon fools; null likewise"),
    "library_warnings": Column("string", "what the attack's library warned of, joined by `; `; null if of nothing"),
    "converged_8bit": Column("bool", "converged, and still so with pixels rounded to 8 bits; null if data are not so"),
    "l0_pixels_8bit": Column("int64", "pixels changed after that rounding; null if not converged_8bit"),
}
COARSE = ("converged_8bit", "l0_pixels_8bit")
RELATIVE, ABSOLUTE = 1e-6, 2.0**-24  # of epsilon; and half a unit of the last place of a float32 at 1
FLIP_ROUNDING = 2.0**-20  # flipping an image back sums up the rounding of its entries; seven times the largest seen


def perturbation(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    box: Box = UNIT,
) -> dict[str, Sequence[Any]]:
    """Success and norms of attacked images, one row per attack and sample, with signs of misleading gradients.

    An attack has succeeded where the classifier's own prediction on the image handed over differs from the label, the
    image is in the box, and the perturbation is within epsilon. Norms are taken in float64. The radius may be
    exceeded by 1e-6 of epsilon plus 2**-24 of the clean image's largest entry, at least of 1 (for l1, times the
    number of entries): adding a perturbation to a float32 image rounds each entry by up to that much. The box holds
    strictly, or to 2**-20 where it lies behind the frequency flip, which float32 images cannot meet exactly. A sample
    whose clean image is misclassified and left as it is counts as converged with norms of zero.

    Images that lie on the grid of 8 bits, as pixels in [0, 1] do, are also judged after rounding the perturbed ones to
    that grid: a change of less than half a grey level does not outlive a file. The rounded image need not keep to
    epsilon, from which it is off by up to half a grey level per entry.

    The signs are taken outside the attack, the costlier ones on the first 64 samples that are classified correctly. Two
    cheap attacks within the same epsilon, one step along the gradient and a random search without gradients, must not
    win where an attack with gradients fails (`measurements.probes`).

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: (n,) int64.
        seeds: (n,) int64, of the probes' draws.
        views: attacks; `details` as in `contracts.View`.
        batch_size: images per forward pass.
        box: of valid images.

    Returns:
        Columns as in `COLUMNS`, and `row`.

    Raises:
        UserError: an attack with an epsilon in a norm other than l0 (pixels), l1, l2, linf.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("row", *COLUMNS)}
    count = len(labels)
    clean_logits = logits_of(model, images, batch_size)
    clean_prediction = clean_logits.argmax(dim=1).tolist()
    probed = correct(clean_logits, labels).nonzero().flatten()[:PROBED]
    signs = probes.signs(model, images, labels, seeds, probed, batch_size, box)
    rivals: dict[tuple[str, float], dict[str, list[Any]]] = {}
    on_grid = box == UNIT and torch.equal(_rounded(images), images)
    for view in views:
        norm, epsilon = view.details["norm"], view.details["epsilon"]
        logits = logits_of(model, view.images, batch_size)
        batches = [
            _sizes(images[start : start + batch_size], view.images[start : start + batch_size], box)
            for start in range(0, count, batch_size)
        ]
        in_box = torch.cat([inside for inside, _, _ in batches])
        rounding = torch.cat([error for _, error, _ in batches])
        sizes = {name: torch.cat([size[name] for *_, size in batches]) for name in batches[0][2]}
        converged = misclassified(logits, labels) & in_box
        within: list[Any] = [None] * count
        if epsilon is not None:
            if norm == "l1":
                rounding *= images[0].numel()
            inside = _within(sizes, rounding, norm, epsilon, view.name)
            converged &= inside
            within = inside.tolist()
        columns["row"] += range(count)
        columns["attack"] += [view.name] * count
        columns["norm"] += [norm] * count
        columns["epsilon"] += [epsilon] * count
        columns["label"] += labels.tolist()
        columns["clean_prediction"] += clean_prediction
        columns["prediction"] += logits.argmax(dim=1).tolist()
        columns["converged"] += converged.tolist()
        columns["in_box"] += in_box.tolist()
        columns["within_epsilon"] += within
        for name, size in sizes.items():
            columns[name] += nullable(size, converged)
        columns["forward_passes"] += [view.details["forward_passes"]] * count
        columns["backward_passes"] += [view.details["backward_passes"]] * count
        columns["large_epsilon_success"] += [view.details["large_epsilon_success"]] * count
        columns["library_warnings"] += ["; ".join(view.details.get("warnings", ())) or None] * count
        cheap = {"single_step_success": [None] * count, "random_search_success": [None] * count}
        if epsilon is not None and norm in probes.NORMS and view.details["backward_passes"] and len(probed):
            if (norm, epsilon) not in rivals:
                rivals[norm, epsilon] = _rivals(model, images, labels, seeds, probed, norm, epsilon, box)
            cheap = rivals[norm, epsilon]
        coarse = _coarse(model, images, labels, view.images, converged, batch_size) if on_grid else None
        for name, values in {**signs, **cheap, **(coarse or dict.fromkeys(COARSE, [None] * count))}.items():
            columns[name] += values
    return dict(columns)


def _rivals(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    probed: Tensor,
    norm: str,
    epsilon: float,
    box: Box,
) -> dict[str, list[Any]]:
    """Successes of the cheap attacks, as columns."""
    given: dict[str, Any] = {"model": model, "images": images[probed], "labels": labels[probed]}
    given |= {"norm": norm, "epsilon": epsilon, "box": box}
    found = {
        "single_step_success": probes.single_step(**given),
        "random_search_success": probes.random_search(**given, seeds=seeds[probed.to(seeds.device)]),
    }
    return {name: probes.spread(success.tolist(), probed, len(labels)) for name, success in found.items()}


def _rounded(images: Tensor) -> Tensor:
    """Nearest images on the grid of 8 bits, in [0, 1], as they are read from a file."""
    return (images.clamp(0, 1) * 255).round() / 255


def _coarse(
    model: nn.Module, images: Tensor, labels: Tensor, perturbed: Tensor, converged: Tensor, batch_size: int
) -> dict[str, list[Any]]:
    """Success and changed pixels of the perturbed images rounded to 8 bits, as columns."""
    found = _rounded(perturbed)
    still = converged & misclassified(logits_of(model, found, batch_size), labels)
    return dict(zip(COARSE, (still.tolist(), nullable(norms.l0_pixels(found - images), still)), strict=True))


def _sizes(clean: Tensor, perturbed: Tensor, box: Box) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Whether each image is in the box, how far an entry may be rounded, and each perturbation's norms in float64."""
    inside = box.excess(perturbed) <= (FLIP_ROUNDING if box.flipped else 0)
    shift = perturbed.double() - clean.double()
    sizes = {
        "l0_pixels": norms.l0_pixels(shift),
        "l0_entries": norms.l0_entries(shift),
        "l1": norms.l1(shift),
        "l2": norms.l2(shift),
        "linf": norms.linf(shift),
    }
    return inside, ABSOLUTE * norms.linf(clean).double().clamp(min=1), sizes


def _within(sizes: Mapping[str, Tensor], rounding: Tensor, norm: str, epsilon: float, attack: str) -> Tensor:
    """Whether each perturbation is within epsilon, to rounding; false for NaN."""
    size = sizes.get("l0_pixels" if norm == "l0" else norm)
    if size is None:
        raise UserError(f"{attack}: epsilon in the norm '{norm}', expected one of l0 (pixels), l1, l2, linf")
    return size <= epsilon * (1 + RELATIVE) + rounding
