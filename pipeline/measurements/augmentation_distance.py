"""How near the augmentations of the trainings come to corrupted images, in the classifier's features."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from pipeline.contracts import Column, Count, Range, UserError, View
from pipeline.measurements._augmentation_draws import Augmentation, drawn_features, features_of
from pipeline.measurements.inference import nullable
from pipeline.numerics.box import UNIT, Box
from pipeline.numerics.frequency import flip

ACCEPTS: tuple[str, ...] = ("corruption",)
INDEPENDENT = ("augmentation", "corruption")  # columns by which the rows, each of a sample alone, come in groups
INDEPENDENT_IF = {"mode": "per_image"}
COLUMNS: Mapping[str, Column] = {
    "augmentation": Column(
        "string", "id of the training that augments so, or of the augmentation; `none`: clean image"
    ),
    "corruption": Column("string", "id of the corruption in the config"),
    "suite": Column("string", "id of the corruption's suite in the config; null if not known"),
    "family": Column("string", "family of the corruption: noise, blur, ...; null if not known"),
    "severity": Column("int8", "severity of the corruption, 1-5"),
    "mode": Column("string", "per_image or mean"),
    "metric": Column("string", "cosine or l2"),
    "draws": Column("int32", "augmentations of each image among which the nearest was sought; 1 for `none`"),
    "distance": Column(
        "float64",
        "per_image: of the corrupted image's features to those of the nearest augmentation of that image; mean: what "
        "this image adds to the minimal sample distance, the mean of the column; null if features are not finite, or "
        "zero for cosine",
    ),
}
NONE = "none"


def augmentation_distance(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    seeds: Tensor,
    views: Sequence[View],
    batch_size: int,
    augmentations: Mapping[str, Augmentation],
    box: Box = UNIT,
    mode: Literal["per_image", "mean"] = "per_image",
    metric: Literal["cosine", "l2"] | None = None,
    draws: Count = 100,
    severity: Annotated[int, Range(low=1, high=5)] = 3,
    together: Count | None = None,
    samples: Count | None = None,
) -> dict[str, Sequence[Any]]:
    """Distance of corrupted images to the nearest of many random augmentations, per sample and augmentation.

    Distances are between penultimate features of the measured classifier (see `features_of`). The clean image is an
    augmentation called `none`.

    `per_image`: of each image by itself, the corrupted image to the nearest of its augmentations a_1, ..., a_K:
    min_k d(f(a_k(x)), f(c(x))), with the cosine distance 1 - cos. After the analysis in Modas et al., "PRIME: a few
    primitives can boost robustness to common corruptions", ECCV 2022. Departure: the features are this classifier's,
    there those of a self-supervised network.

    `mean`: the minimal sample distance of Mintun, Kirillov, Xie, "On interaction between augmentations and corruptions
    in natural corruption robustness", NeurIPS 2021: min_k |mean_x f(a_k(x)) - mean_x f(c(x))|_2, where the draw a_k is
    the same for all images. A sample's row holds its own difference f(a_k(x)) - f(c(x)) under the nearest draw,
    projected on the direction of the mean difference: the mean over the samples is the distance, and a bootstrap over
    them that of its linearisation. Departures from the released notebook: each image is corrupted by a draw of its own
    (there the mean of 100 draws that are shared by all images), images are of the evaluation set (there 100 of the
    training set), and K is 100 by default (the notebook 1,000, the paper 100,000); the distances fall as K grows, so
    they compare only at equal K. That a draw is the same for all images rests on augmentations that draw alike for all
    images of one size, as those of this package do.

    In both modes an augmentation is that of a training alone, without the crops and flips of the training loop. All
    copies of an image are augmented in one call, or `together` at a time. So what an augmentation draws once for all
    images of a call (modes `official`), its copies share, unless `together` is 1; and one that mixes images of a batch
    (HybridAugment's pairs) mixes copies of the same image.

    Args:
        model: images to logits.
        images: (n, c, h, w) clean images.
        labels: not used.
        seeds: (n,) int64, of the draws; in mode `mean` the smallest is that of all.
        views: corrupted images; those of other severities are left out.
        batch_size: images per pass.
        augmentations: id -> augmentation of pixel images, with its options bound.
        box: the valid images: pixels in [0, 1] or these behind the frequency flip.
        mode: `per_image` or `mean`.
        metric: `cosine` or `l2`; None: `cosine` in mode `per_image`. In mode `mean` only `l2`.
        draws: augmentations of each image, K.
        severity: of the corruptions.
        together: copies of an image that are augmented in one call; None: all.
        samples: number of images, the first ones; None: all. Mode `mean` holds the features of all draws of these.

    Returns:
        Columns as in `COLUMNS`, and `row`.

    Raises:
        UserError: no view has this severity, an augmentation is called `none`, `mean` with `cosine`, the data are no
            pixels, or the classifier has no features.
    """
    if mode == "mean" and metric == "cosine":
        raise UserError("metric: given cosine in mode mean, expected l2, which is the minimal sample distance's")
    if NONE in augmentations:
        raise UserError(f"augmentations: '{NONE}' stands for the clean images; rename this training or augmentation")
    if (box.low, box.high) != (0, 1):
        raise UserError(
            "augmentation_distance: given data that are no pixels in [0, 1]; leave it out for this data set"
        )
    metric = metric or ("cosine" if mode == "per_image" else "l2")
    images, seeds = images[:samples], seeds[:samples]
    shown, corrupted = _corrupted(model, views, severity, len(images), batch_size)
    pixels = flip(images).clamp(0, 1) if box.flipped else images
    if mode == "mean":
        seeds = seeds.amin().expand(len(seeds))
    distances = _means if mode == "mean" else functools.partial(_nearest, metric=metric)
    found = {NONE: distances([features_of(model, images, batch_size)[:, None]], corrupted)}
    for name, augment in augmentations.items():
        drawn = drawn_features(
            model,
            pixels,
            seeds,
            name,
            augment,
            flip if box.flipped else _same,
            draws=draws,
            together=together or draws,
            batch_size=batch_size,
        )
        found[name] = distances(drawn, corrupted)
    count = len(images)
    values = torch.stack(list(found.values())).flatten()
    places = [(name, own) for name in found for own in shown for _ in range(count)]
    return {
        "row": list(range(count)) * (len(found) * len(shown)),
        "augmentation": [name for name, _ in places],
        **{column: [own[column] for _, own in places] for column in shown[0]},
        "mode": [mode] * len(places),
        "metric": [metric] * len(places),
        "draws": [1 if name == NONE else draws for name, _ in places],
        "distance": nullable(values, values.isfinite()),
    }


def _corrupted(
    model: nn.Module, views: Sequence[View], severity: int, count: int, batch_size: int
) -> tuple[list[dict[str, Any]], Tensor]:
    """What the views of a severity are, as columns, and the features of their first images: (views, n, features)."""
    shown, features = [], []
    for view in views:
        if view.severity == severity:
            family = {name: view.details.get(name) for name in ("suite", "family")}
            shown.append({"corruption": view.name, **family, "severity": severity})
            features.append(features_of(model, view.images[:count], batch_size))
    if not shown:
        raise UserError(f"severity: given {severity}, but no view is a corruption of it; add corruptions to the views")
    return shown, torch.stack(features)


def _nearest(drawn: Iterable[Tensor], corrupted: Tensor, metric: str) -> Tensor:
    """Distance of each corrupted image to the nearest draw of the same image.

    Args:
        drawn: some images at a time, (b, draws, features).
        corrupted: (corruptions, n, features).
        metric: `cosine` or `l2`.

    Returns:
        (corruptions, n); inf where no draw has a distance.
    """
    rows, start = [], 0
    for part in drawn:
        own = corrupted[:, start : start + len(part)].transpose(0, 1).double()  # (b, corruptions, features)
        start += len(part)
        if metric == "cosine":
            # half the squared distance of the unit vectors is 1 - cos, also where this is tiny
            distances = _apart(_unit(part.double()), _unit(own)).square() / 2
        else:
            distances = _apart(part.double(), own)
        rows.append(distances.nan_to_num(nan=torch.inf, posinf=torch.inf).amin(dim=1))
    return torch.cat(rows).T


def _means(drawn: Iterable[Tensor], corrupted: Tensor) -> Tensor:
    """What each image adds to the l2 distance of the means, which is the mean of these: as `_nearest`."""
    features = torch.cat(list(drawn)).double()  # (n, draws, features)
    corrupted = corrupted.double()
    means = features.mean(dim=0)
    nearest = (
        _apart(means[None], corrupted.mean(dim=1)[None])[0].nan_to_num(nan=torch.inf, posinf=torch.inf).argmin(dim=0)
    )
    gaps = features[:, nearest].transpose(0, 1) - corrupted  # (corruptions, n, features)
    direction = gaps.mean(dim=1, keepdim=True)
    lengths = direction.norm(dim=2, keepdim=True)
    added: Tensor = (gaps * (direction / lengths.where(lengths != 0, 1))).sum(dim=2)
    return added


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """l2 distances (b, k, d), (b, m, d) -> (b, k, m), also exact where they are small."""
    distances: Tensor = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")
    return distances


def _unit(features: Tensor) -> Tensor:
    """Of length 1; NaN where they are zero."""
    lengths: Tensor = features.norm(dim=-1, keepdim=True)
    return features / lengths


def _same(images: Tensor) -> Tensor:
    return images
