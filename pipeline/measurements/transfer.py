"""Images made on one classifier, looked at by another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pipeline.contracts import Column, View
from pipeline.measurements.inference import correct, logits_of, misclassified

ACCEPTS: tuple[str, ...] = ("attack",)
SOURCES = "all"  # the attacks on every classifier of the data set, where others see those on their own classifier
INDEPENDENT = ("attack", "source")  # columns by which the rows, each of a sample alone, come in groups
COLUMNS: Mapping[str, Column] = {
    "attack": Column("string", "id of the attack in the config"),
    "source": Column("string", "id of the classifier that was attacked"),
    "norm": Column("string", "norm that the attack bounds or minimises"),
    "epsilon": Column("float64", "radius of the ball, in that norm, units of the data; null if the norm is minimised"),
    "label": Column("int32", "true class"),
    "clean_prediction": Column("int32", "class of the clean image"),
    "prediction": Column("int32", "class of the perturbed image"),
    "attacked": Column(
        "bool", "the image differs from the clean one; false if the source misclassified that, or its attack gave up"
    ),
    "fooled": Column("bool", "the clean image gets its label, the perturbed one another class"),
}


def transfer(
    *, model: nn.Module, images: Tensor, labels: Tensor, seeds: Tensor, views: Sequence[View], batch_size: int
) -> dict[str, Sequence[Any]]:
    """Predictions on images that were made on any classifier of the data set, one row per attack, source and sample.

    Szegedy et al., "Intriguing properties of neural networks", ICLR 2014: perturbations made for one network fool
    others. The rows say what this classifier does; whether an image fools its own source stands in the rows of the
    source, where `source` is `classifier`. Unlike in the paper's tables, who classified what correctly stands in the
    rows, so that a rate need not count images that a classifier gets wrong anyway.

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: (n,) int64.
        seeds: not used.
        views: attacks; their `details` as in `contracts.View`, the classifier that was attacked among them.
        batch_size: images per forward pass.

    Returns:
        Columns as in `COLUMNS`, and `row`.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("row", *COLUMNS)}
    count = len(labels)
    clean = logits_of(model, images, batch_size)
    right = correct(clean, labels)
    for view in views:
        logits = logits_of(model, view.images, batch_size)
        columns["row"] += range(count)
        columns["attack"] += [view.name] * count
        columns["source"] += [view.details["classifier"]] * count
        columns["norm"] += [view.details["norm"]] * count
        columns["epsilon"] += [view.details["epsilon"]] * count
        columns["label"] += labels.tolist()
        columns["clean_prediction"] += clean.argmax(dim=1).tolist()
        columns["prediction"] += logits.argmax(dim=1).tolist()
        columns["attacked"] += (view.images != images).flatten(1).any(dim=1).tolist()
        columns["fooled"] += (right & misclassified(logits, labels)).tolist()
    return dict(columns)
