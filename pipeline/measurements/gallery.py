"""A few attacked images beside their clean ones, for figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pipeline.contracts import Column, Count, View
from pipeline.measurements.inference import logits_of

ACCEPTS: tuple[str, ...] = ("attack",)
INDEPENDENT = ("attack",)  # columns by which the rows, each of a sample alone, come in groups
COLUMNS: Mapping[str, Column] = {
    "attack": Column("string", "id of the attack in the config"),
    "label": Column("int32", "true class"),
    "clean_prediction": Column("int32", "class of the clean image"),
    "prediction": Column("int32", "class of the perturbed image"),
    "channels": Column("int16", "number of channels"),
    "height": Column("int16", "pixels"),
    "width": Column("int16", "pixels"),
    "clean": Column("binary", "clean image, units of the data: float32, little-endian, (channels, height, width)"),
    "perturbed": Column("binary", "perturbed image, likewise"),
}


def gallery(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    samples: Count = 6,
) -> dict[str, Sequence[Any]]:
    """Clean and perturbed images of the first samples, one row per attack and sample.

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: (n,) int64.
        seeds: not used.
        views: attacks.
        batch_size: images per forward pass.
        samples: number of samples, the first of the evaluation set; all of them if there are fewer.

    Returns:
        Columns as in `COLUMNS`, and `row`.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("row", *COLUMNS)}
    clean = images[:samples]
    clean_prediction = logits_of(model, clean, batch_size).argmax(dim=1).tolist()
    for view in views:
        perturbed = view.images[:samples]
        columns["row"] += range(len(clean))
        columns["attack"] += [view.name] * len(clean)
        columns["label"] += labels[:samples].tolist()
        columns["clean_prediction"] += clean_prediction
        columns["prediction"] += logits_of(model, perturbed, batch_size).argmax(dim=1).tolist()
        for name, extent in zip(("channels", "height", "width"), clean.shape[1:], strict=True):
            columns[name] += [extent] * len(clean)
        columns["clean"] += _packed(clean)
        columns["perturbed"] += _packed(perturbed)
    return dict(columns)


def _packed(images: Tensor) -> list[bytes]:
    return [image.tobytes() for image in images.cpu().numpy().astype("<f4")]
