"""The numbers behind the figures of distances between augmentations and corruptions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from pipeline.report import statistics
from pipeline.report.outcomes import REFERENCE, Outcomes
from pipeline.report.statistics import NOTHING, Array, Interval
from pipeline.report.style import record

NONE = "none"
# Share of the largest distance of a clean image to a corrupted one below which a corruption hardly changes features,
# so that distances relative to it say nothing: 1 % as a length. The cosine distance is as the square of one.
SLIGHT = {"cosine": 1e-4, "l2": 1e-2}
ROUNDING = 1e-12
FEWEST = 4  # corruptions of a rank correlation


def nearness(rows: pd.DataFrame, outcomes: Outcomes, seed: int) -> Iterator[dict[str, Any]]:
    """Distance of each augmentation to each corruption, absolute and relative to that of the clean image.

    Medians over the images in mode `per_image`, means in mode `mean`; the bootstrap draws images, and so the quotient
    keeps what belongs to an image together.

    Args:
        rows: of one measurement and classifier.
        outcomes: of the classifier.
        seed: of the bootstrap.
    """
    mode, metric = rows["mode"].iloc[0], rows["metric"].iloc[0]
    centre = statistics.median if mode == "per_image" else statistics.mean
    rows = rows.assign(distance=rows["distance"].astype(float)).dropna(subset="distance")
    tables = {
        str(corruption): part.pivot_table(
            index="sample", columns="augmentation", values="distance", sort=False
        ).sort_index()
        for corruption, part in rows.groupby("corruption", sort=False)
        if NONE in set(part["augmentation"])
    }
    largest = max((float(centre(table[NONE].dropna().to_numpy())) for table in tables.values()), default=0.0)
    for corruption, table in tables.items():
        names = (outcomes.dataset, outcomes.classifier, "nearness", str(rows["measurement"].iloc[0]), corruption)
        streams = {name: statistics.stream(seed, *names, name) for name in map(str, table.columns)}
        clean = statistics.bootstrap(table[NONE].dropna(), centre, seed=streams[NONE])
        apart = clean.value > max(SLIGHT[metric] * largest, ROUNDING)
        for augmentation in [name for name in streams if name != NONE]:
            pairs = table[[augmentation, NONE]].dropna().to_numpy()
            known = apart and len(pairs) > 0
            relative = statistics.bootstrap(pairs, _quotient(centre), seed=streams[augmentation]) if known else NOTHING
            yield record(
                outcomes,
                augmentation=augmentation,
                corruption=corruption,
                severity=int(rows["severity"].iloc[0]),
                n=len(pairs),
                clean=clean.value,
                clean_low=clean.low,
                clean_high=clean.high,
                distance=float(centre(pairs[:, 0])) if len(pairs) else math.nan,
                relative=relative.value,
                low=relative.low,
                high=relative.high,
            )


def _quotient(centre: Callable[[Array], Any]) -> Callable[[Array], Array]:
    """Centre of the first over centre of the second, (..., n, 2) -> (...); inf where the second is 0."""

    def quotient(pairs: Array) -> Array:
        above, below = (np.asarray(centre(pairs[..., place])) for place in (0, 1))
        return np.asarray(np.divide(above, below, out=np.full(below.shape, np.inf), where=below != 0))

    return quotient


def gains(
    data: pd.DataFrame, outcomes: Outcomes, classifiers: Sequence[Outcomes], seed: int
) -> Iterator[dict[str, Any]]:
    """Where both are known: how much nearer an augmentation comes, and how much accuracy training with it gains.

    The gain is that over `standard` training of the same architecture, of the mean over training seeds, on the images
    that all were shown.

    Args:
        data: rows of `nearness`.
        outcomes: the classifier whose features they are about.
        classifiers: of the data set.
        seed: of the bootstrap.
    """
    mine: list[dict[Any, Any]] = data[data["classifier"] == outcomes.classifier].to_dict("records")
    for row in mine:
        view = row["corruption"], row["severity"]
        trained = _correct(classifiers, outcomes.architecture, str(row["augmentation"]), view)
        reference = _correct(classifiers, outcomes.architecture, REFERENCE, view)
        pairs = pd.concat([trained, reference], axis=1, join="inner").to_numpy()
        if row["augmentation"] == REFERENCE or math.isnan(row["relative"]) or not len(pairs):
            continue
        names = (outcomes.dataset, outcomes.architecture, "gain", str(row["augmentation"]), *map(str, view))
        stream = statistics.stream(seed, *names)
        gain = statistics.difference(pairs[:, 0], pairs[:, 1], statistics.mean, seed=stream)
        nearer = {"nearer": 1 - row["relative"], "nearer_low": 1 - row["high"], "nearer_high": 1 - row["low"]}
        own = {"images": len(pairs), "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        yield {**row, **nearer, **own}


def _correct(
    classifiers: Sequence[Outcomes], architecture: str, training: str, view: tuple[Any, Any]
) -> pd.Series[float]:
    """Whether each image is classified correctly, mean over training seeds; empty if not measured."""
    found = [
        o.corrupted[view]
        for o in classifiers
        if (o.architecture, o.training) == (architecture, training) and view in o.corrupted.columns
    ]
    if not found:
        return pd.Series(dtype=float)
    frame: pd.DataFrame = pd.concat(found, axis=1, join="inner").dropna()
    return pd.Series(frame.to_numpy(dtype=float).mean(axis=1), index=frame.index)


def correlation(one: Sequence[float], other: Sequence[float], seed: int) -> Interval:
    """Spearman's rank correlation, with a bootstrap over the pairs; NaN for fewer than four, or if one is constant."""
    pairs = np.column_stack([one, other])
    if len(pairs) < FEWEST or (np.ptp(pairs, axis=0) == 0).any():
        return NOTHING
    return statistics.bootstrap(pairs, _spearman, seed=seed)


def _spearman(pairs: Array) -> Array:
    """(..., n, 2) -> (...); 0 where one is constant, as in few resamples."""
    ranks = scipy.stats.rankdata(pairs, axis=-2)
    ranks -= ranks.mean(axis=-2, keepdims=True)
    products = (ranks[..., 0] * ranks[..., 1]).sum(axis=-1)
    lengths = np.sqrt((ranks**2).sum(axis=-2)).prod(axis=-1)
    return np.asarray(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0))
