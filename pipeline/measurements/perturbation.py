"""Norms of adversarial perturbations, with success re-measured outside the attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, UserError, View
from pipeline.measurements.inference import logits_of, misclassified, nullable
from pipeline.numerics import norms
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.reliability import random_forward, softmax_output, zero_gradients

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
}
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

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: (n,) int64.
        seeds: not used.
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
    unsteady, probabilities = random_forward(model, images), softmax_output(model, images)
    zero_gradient = zero_gradients(model, images, labels, batch_size).tolist()
    clean_prediction = logits_of(model, images, batch_size).argmax(dim=1).tolist()
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
        columns["zero_gradient"] += zero_gradient
        columns["random_forward"] += [unsteady] * count
        columns["softmax_output"] += [probabilities] * count
        columns["large_epsilon_success"] += [view.details["large_epsilon_success"]] * count
    return dict(columns)


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
