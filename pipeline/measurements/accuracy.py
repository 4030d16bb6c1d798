"""Predictions on clean, corrupted and attacked images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pipeline.contracts import Column, View
from pipeline.measurements.inference import correct, logits_of, nullable

ACCEPTS: tuple[str, ...] = ("clean", "corruption", "attack")
INDEPENDENT = ("kind", "view", "severity")  # columns by which the rows, each of a sample alone, come in groups
COLUMNS: Mapping[str, Column] = {
    "view": Column("string", "`clean`, or the id of the corruption or attack in the config"),
    "kind": Column("string", "clean, corruption or attack"),
    "suite": Column("string", "id of the corruption's suite in the config; `corruptions` for one named alone"),
    "family": Column("string", "family of the corruption: noise, blur, weather, digital, ...; null for other kinds"),
    "severity": Column("int8", "severity of the corruption, 1-5; null for other kinds"),
    "label": Column("int32", "true class"),
    "prediction": Column("int32", "class with the largest logit"),
    "correct": Column("bool", "prediction is the label; false where a logit is NaN"),
    "confidence": Column("float32", "softmax probability of the prediction; null where a logit is NaN"),
}


def accuracy(
    *, model: nn.Module, images: Tensor, labels: Tensor, seeds: Tensor, views: Sequence[View], batch_size: int
) -> dict[str, Sequence[Any]]:
    """Prediction, correctness and confidence, one row per view and sample.

    Args:
        model: images to logits.
        images: not used; ask for the clean images by the view `clean`.
        labels: (n,) int64.
        seeds: not used.
        views: what to classify.
        batch_size: images per forward pass.

    Returns:
        Columns as in `COLUMNS`, and `row`.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("row", *COLUMNS)}
    count = len(labels)
    for view in views:
        logits = logits_of(model, view.images, batch_size)
        confidence = logits.softmax(dim=1).amax(dim=1)
        columns["row"] += range(count)
        columns["view"] += [view.name] * count
        columns["kind"] += [view.kind] * count
        columns["suite"] += [view.details.get("suite")] * count
        columns["family"] += [view.details.get("family")] * count
        columns["severity"] += [view.severity] * count
        columns["label"] += labels.tolist()
        columns["prediction"] += logits.argmax(dim=1).tolist()
        columns["correct"] += correct(logits, labels).tolist()
        columns["confidence"] += nullable(confidence, ~confidence.isnan())
    return dict(columns)
