"""How well statistics tell perturbed images from natural ones, and labels from the classes they name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.report import statistics
from pipeline.report.outcomes import KEYS
from pipeline.report.statistics import NOTHING, Array, Interval

OTHERS: Mapping[str, str] = {
    "confidence": "softmax confidence",
    "gap": "gap of the top two logits",
    "squeeze": "feature squeezing",
    "instability": "instability under noise",
}
GUESSES: Mapping[str, str] = {
    "lowest_class": "class of lowest curvature",
    "highest_class": "class of highest curvature",
    "runner_up": "class of second largest logit",
}
CONVENTIONS = ("lowest_class", "highest_class")
FALSE_ALARMS = 0.05


class Detector(NamedTuple):
    """A statistic against the perturbed images of one strength, on the test images of one classifier.

    Attributes:
        statistic: in words.
        alpha: strength.
        adaptive: whether the attacker made curvature look natural.
        n: test images that are misclassified at that strength, each with its natural one.
        sign: 1 if perturbed images are taken to have larger values, -1 if smaller: as in calibration, over all alphas.
        auroc: area under the receiver operating characteristic, under that sign.
        hits: share of perturbed images flagged, at the lowest threshold that at most 5 % of the natural calibration
            images exceed.
        alarms: share of their natural images flagged.
    """

    statistic: str
    alpha: float
    adaptive: bool
    n: int
    sign: int
    auroc: Interval
    hits: Interval
    alarms: Interval


class Guess(NamedTuple):
    """How often a class named without the label is the label, on the same images.

    Attributes:
        guess: one of `GUESSES`.
        alpha: strength.
        adaptive: as in `Detector`.
        n: as in `Detector`.
        right: share of the images whose label it is.
        chance: of a class drawn from those looked at, if the label is one of them.
        chosen: whether it is the convention by curvature that was right more often in calibration, over all alphas.
    """

    guess: str
    alpha: float
    adaptive: bool
    n: int
    right: Interval
    chance: float
    chosen: bool


def auroc(natural: Any, perturbed: Any, seed: int = 0) -> Interval:
    """Chance that a perturbed image's value is larger than a natural one's, ties counting half, with its interval.

    The bootstrap resamples samples, each with its natural and its perturbed image (a cluster bootstrap).

    Args:
        natural: (n,) values.
        perturbed: (n,) values of the same samples.
        seed: of the bootstrap.
    """
    return statistics.bootstrap(_ranks(natural, perturbed), _area, seed=seed)


def _ranks(natural: Any, perturbed: Any) -> Array:
    """Whole numbers from 0, (n, 2), in the order of the values."""
    values = np.stack([np.asarray(natural, dtype=float), np.asarray(perturbed, dtype=float)], axis=-1)
    return np.unique(values, return_inverse=True)[1].reshape(values.shape)


def _area(pairs: Array) -> Array:
    """Areas under the curve, (..., n, 2) ranks of natural and perturbed values to (...)."""
    rows = pairs.reshape(-1, *pairs.shape[-2:]).astype(int)
    size = int(rows.max()) + 1
    places = rows + size * np.arange(len(rows))[:, None, None]
    natural, perturbed = (
        np.bincount(places[..., side].ravel(), minlength=size * len(rows)).reshape(-1, size) for side in (0, 1)
    )
    wins = (perturbed * (np.cumsum(natural, axis=1) - 0.5 * natural)).sum(axis=1)
    return np.asarray(wins.reshape(pairs.shape[:-2]) / pairs.shape[-2] ** 2)


def first_radius(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the first radius in the table."""
    radius = rows["radius"].iloc[0]
    return rows[rows["radius"].isna() if pd.isna(radius) else rows["radius"] == radius]


def detectors(rows: pd.DataFrame, seed: int = 0, others: bool = True) -> list[Detector]:
    """Every statistic at every strength.

    Args:
        rows: of one classifier, measurement and view.
        seed: of the bootstrap.
        others: whether statistics other than curvature are asked for.
    """
    parts = [part for _, part in rows.groupby("radius", dropna=False, sort=False)]
    scores = [(curvature_of(part), part, "rho") for part in parts]
    scores += [(name, parts[0], column) for column, name in OTHERS.items() if others]
    return [detector for score in scores for detector in _detectors(*score, seed)]


def curvature_of(rows: pd.DataFrame) -> str:
    """Such as `mean curvature, radius 0.3`: that of the first row."""
    radius = rows["radius"].iloc[0]
    return "mean curvature, exact" if pd.isna(radius) else f"mean curvature, radius {radius:g}"


def _detectors(name: str, rows: pd.DataFrame, column: str, seed: int) -> Iterator[Detector]:
    first: dict[Any, Any] = rows.iloc[0].to_dict()
    places = [str(first[key]) for key in (*KEYS, "measurement", "view", "radius")]
    rows = rows[rows[column].notna()]
    known, pairs = rows[rows["split"] == "calibration"], _pairs(rows, column)
    plain = pairs[(pairs["split"] == "calibration") & ~pairs["adaptive"]]
    sign = 1 if not len(plain) or _area(_ranks(plain["natural"], plain["perturbed"])) >= 0.5 else -1
    natural = sign * known.loc[known["alpha"] == 0, column].to_numpy(dtype=float)
    threshold = np.quantile(natural, 1 - FALSE_ALARMS, method="inverted_cdf") if len(natural) else math.nan
    for alpha, adaptive, part in _strengths(pairs):
        own, other = (sign * part[side].to_numpy(dtype=float) for side in ("natural", "perturbed"))
        alarms, hits = (statistics.share(side > threshold) if len(natural) else NOTHING for side in (own, other))
        draws = statistics.stream(seed, *places, column, str(alpha), str(adaptive))
        yield Detector(name, alpha, adaptive, len(part), sign, auroc(own, other, draws), hits, alarms)


def _pairs(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Perturbed images that are misclassified, each with its natural one: `natural` and `perturbed`, of a column."""
    natural = rows.loc[rows["alpha"] == 0, ["sample", column]].rename(columns={column: "natural"})
    changed = rows[(rows["alpha"] > 0) & rows["changed"]].rename(columns={column: "perturbed"})
    return changed.merge(natural, on="sample")


def _strengths(rows: pd.DataFrame) -> Iterator[tuple[float, bool, pd.DataFrame]]:
    """Test rows by alpha, plain ones before adaptive ones."""
    test = rows[rows["split"] == "test"]
    for alpha in sorted(set(test["alpha"].astype(float).tolist())):
        for adaptive in (False, True):
            part = test[(test["alpha"] == alpha) & (test["adaptive"] == adaptive)]
            if len(part):
                yield alpha, adaptive, part


def guesses(rows: pd.DataFrame) -> list[Guess]:
    """Every guess at the label at every strength; of curvatures at several radii, the first.

    Args:
        rows: of one classifier, measurement and view.
    """
    rows = first_radius(rows)
    changed = rows[(rows["alpha"] > 0) & rows["changed"] & rows["converged"]]
    known = changed[(changed["split"] == "calibration") & ~changed["adaptive"]]
    right = {guess: int((known[guess] == known["label"]).sum()) for guess in CONVENTIONS}
    convention = max(CONVENTIONS, key=right.__getitem__)
    return [
        Guess(
            guess,
            alpha,
            adaptive,
            len(part),
            statistics.share(part[guess] == part["label"]),
            float((1 / part["candidates"]).mean()),
            guess == convention,
        )
        for guess in GUESSES
        for alpha, adaptive, part in _strengths(changed)
    ]
