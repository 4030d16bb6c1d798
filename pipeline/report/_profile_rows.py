"""One row per sample and classifier with what all measurements say about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.report import _accuracy_rows
from pipeline.report.leaderboard import slug
from pipeline.report.outcomes import Outcomes

INDEX = ["dataset", "classifier", "sample"]
SMALLEST = {"l0": "l0_pixels", "l2": "l2", "linf": "linf"}
# name -> (label of the figures, meaning); an id may follow after _, and does where the name ends in _
QUANTITIES: Mapping[str, tuple[str, str]] = {
    "correct": ("correct", "whether the clean image is classified correctly"),
    "confidence": ("confidence", "softmax probability of the prediction for the clean image"),
    "smallest_l2": ("smallest ℓ₂", "smallest l2 norm with which any attack succeeded; inf if none did"),
    "smallest_linf": ("smallest ℓ∞", "smallest linf norm with which any attack succeeded; inf if none did"),
    "smallest_l0": ("smallest ℓ₀", "fewest pixels with which any attack succeeded; inf if none did"),
    "robust_": ("robust, ", "whether the attack with a budget failed"),
    "margin_low": ("margin, low freq.", "l2 margin in the block of the lowest frequencies; inf if none was found"),
    "margin_high": ("margin, high freq.", "l2 margin in the block of the highest frequencies; inf if none was found"),
    "margin_": ("margin, ", "median l2 margin in the subspaces of this kind; inf if none was found"),
    "curvature_mean": (
        "mean curvature",
        "mean principal curvature of the boundary, exact or at the middle one of the radii, mean over attacks",
    ),
    "curvature_largest": ("largest curvature", "largest principal curvature of the boundary, likewise"),
    "loss_curvature": (
        "loss curvature",
        "eigenvalue of largest magnitude of the loss's Hessian at the clean image over its gradient's length, likewise",
    ),
    "nonlinearity": (
        "nonlinearity",
        "deviation at the perturbed image from the linearisation at the clean one, over the logit difference, likewise",
    ),
    "connected": ("connected", "share of pairs with another image of the class that a path inside the class joins"),
    "straight": ("joined straight", "share of such pairs that the straight segment itself joins"),
    "detour": ("detour", "mean length of such paths over the distance, of those found"),
    "detection_rho": ("curvature statistic ρ", "statistic of the curvature detector on the clean image"),
    "corrupted": ("corruptions", "share of the corrupted versions that are classified correctly"),
    "agreement": ("agreement", "share of the transformed versions that keep the prediction of the clean image"),
    "invariant": ("worst in orbit", "whether the clean image and all transformed versions are classified correctly"),
    "stability": ("relative stability", "squared change of the logits by deformations over that by noise of that norm"),
}
SHARES = ("correct", "robust_", "connected", "straight", "corrupted", "agreement", "invariant")


def joined(tables: Mapping[str, pd.DataFrame], classifiers: Sequence[Outcomes]) -> pd.DataFrame:
    """What is known about every sample of every classifier.

    Args:
        tables: kind of measurement -> collected table, of any data sets; kinds and columns may be missing.
        classifiers: those to keep.

    Returns:
        One row per data set, classifier and sample, in the order of the classifiers: the keys, then those of the
        `QUANTITIES` that were measured; NaN where a measurement did not look at a sample or did not converge.
    """
    parts = [
        part
        for kind, read in READERS.items()
        if kind in tables and len(tables[kind])
        for part in read(tables[kind])
        if len(part)
    ]
    order = {(o.dataset, o.classifier): place for place, o in enumerate(classifiers)}
    keys = ["dataset", "classifier", "architecture", "training", "seed", "sample"]
    if not parts:
        return pd.DataFrame(columns=keys)
    found = pd.concat(parts, axis=1).astype(float).reset_index()
    place = pd.Series([order.get(key, -1) for key in zip(found["dataset"], found["classifier"], strict=True)])
    found = found[place >= 0].assign(place=place).sort_values(["place", "sample"], kind="stable")
    own = found.pop("place").astype(int)
    names = sorted((str(name) for name in found if name not in INDEX), key=_place)
    for key in ("architecture", "training", "seed"):
        found[key] = [getattr(classifiers[i], key) for i in own]
    return found[[*keys, *names]].reset_index(drop=True)


def label(name: str) -> str:
    """Of a quantity, for figures."""
    known, tail = _known(name)
    return QUANTITIES[known][0] + tail


def meanings(frame: pd.DataFrame) -> dict[str, str]:
    """Of the quantities among the columns of `joined`, for the file's metadata."""
    return {name: QUANTITIES[_known(name)[0]][1] for name in quantities(frame)}


def quantities(frame: pd.DataFrame) -> list[str]:
    """The columns of `joined` that are no keys."""
    return [str(name) for name in frame if _matches(str(name))]


def is_share(name: str) -> bool:
    """Whether a classifier's value is the mean over its samples; else it is the median."""
    return _known(name)[0] in SHARES


def _matches(name: str) -> list[str]:
    return [known for known in QUANTITIES if name == known or name.startswith(known.removesuffix("_") + "_")]


def _known(name: str) -> tuple[str, str]:
    """The quantity that a name is or begins with, and the rest of the name."""
    known = max(_matches(name), key=len)
    return known, name.removeprefix(known).replace("_", " ")


def _place(name: str) -> tuple[int, str]:
    return list(QUANTITIES).index(_known(name)[0]), name


def _accuracy(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    rows = rows.drop_duplicates([*INDEX, "kind", "view", "severity"])
    yield rows[rows["kind"] == "clean"].set_index(INDEX)[["correct", "confidence"]]
    rows = rows[rows["kind"] == "corruption"].astype({"view": str})
    suites = rows["view"].map(_accuracy_rows.suites(rows)[0])
    names = sorted(set(suites))
    for suite in names:
        yield _mean(rows[suites == suite], {"correct": "corrupted" if len(names) == 1 else slug("corrupted", suite)})


def _perturbation(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    rows = rows.drop_duplicates([*INDEX, "attack", "norm", "epsilon"])
    found = rows["converged"].astype(bool)
    for norm, column in SMALLEST.items():
        if rows["norm"].isin([norm, column]).any():
            sizes = rows[column].astype(float).where(found, math.inf)
            yield rows[INDEX].assign(size=sizes).groupby(INDEX).min().set_axis([f"smallest_{norm}"], axis=1)
    fixed = rows.assign(robust=~found)[rows["epsilon"].notna()]
    for attack, part in fixed.groupby("attack"):
        yield part.set_index(INDEX)[["robust"]].set_axis([f"robust_{slug(str(attack))}"], axis=1)


def _dct_margin(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    names = sorted(set(rows["measurement"]))
    if "column" in rows:
        diagonal = rows["column"] == rows["frequency"]
        maps = set(rows.loc[~diagonal, "measurement"])  # they repeat what a measurement of the diagonal holds
        names, rows = [name for name in names if name not in maps] or names, rows[diagonal]
    for name in names:
        mine = _margins(rows[rows["measurement"] == name])
        tail = "" if len(names) == 1 else f"_{slug(name)}"
        ends = {mine["frequency"].min(): "low"}
        ends = {mine["frequency"].max(): "high"} | ends  # a single block is the low one
        for frequency, end in ends.items():
            block = mine[mine["frequency"] == frequency].drop_duplicates(INDEX).set_index(INDEX)
            yield block[["margin"]].set_axis([f"margin_{end}{tail}"], axis=1)


def _subspace_margin(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for kind, part in _margins(rows).groupby("subspace"):
        yield part.groupby(INDEX)[["margin"]].median().set_axis([f"margin_{slug(str(kind))}"], axis=1)


def _margins(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(margin=rows["margin"].astype(float).where(rows["converged"].astype(bool), math.inf))


def _curvature(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    names = {"mean": "curvature_mean", "largest": "curvature_largest"}
    names |= {name: name for name in ("loss_curvature", "nonlinearity")}
    exact = rows["exact"].astype(bool) if "exact" in rows else pd.Series(False, index=rows.index)
    yield _mean(rows[exact] if exact.any() else _one_radius(rows), names)


def _regions(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    rows = rows[rows["kind"] == "image"] if "kind" in rows else rows
    held = rows["converged"].eq(True)
    if "verified" in rows:  # at ten times as many samples
        held &= rows["verified"].eq(True)
    rows = rows.assign(held=held, straight=rows["straight"].eq(True) & held, ratio=rows["ratio"].where(held))
    yield _mean(rows, {"held": "connected", "straight": "straight", "ratio": "detour"})


def _detection(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    rows = rows[rows["alpha"] == 0]
    if "adaptive" in rows:
        rows = rows[~rows["adaptive"].astype(bool)]
    yield _mean(_one_radius(rows), {"rho": "detection_rho"})


def _invariance(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    right = rows["correct"].astype(bool) & (rows["clean_prediction"] == rows["label"])
    yield _mean(rows, {"agrees": "agreement"})
    yield rows[INDEX].assign(invariant=right).groupby(INDEX).all()
    both = rows[rows["noise_change"].notna()].astype({"change": float, "noise_change": float})
    means = both.groupby(INDEX)[["change", "noise_change"]].mean()
    yield (means["change"] / means["noise_change"].replace(0, np.nan)).to_frame("stability")


def _one_radius(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the middle one of the radii, the lower of two; all rows if they have no radius."""
    radii = sorted(set(rows["radius"].dropna())) if "radius" in rows else []
    return rows[rows["radius"] == radii[(len(radii) - 1) // 2]] if radii else rows


def _mean(rows: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Means of some columns per sample, of what is known."""
    present = [name for name in names if name in rows]
    means: pd.DataFrame = rows[[*INDEX, *present]].astype(dict.fromkeys(present, float)).groupby(INDEX).mean()
    return means.rename(columns=dict(names))


READERS: Mapping[str, Callable[[pd.DataFrame], Iterator[pd.DataFrame]]] = {
    "accuracy": _accuracy,
    "perturbation": _perturbation,
    "dct_margin": _dct_margin,
    "subspace_margin": _subspace_margin,
    "curvature": _curvature,
    "regions": _regions,
    "detection": _detection,
    "invariance": _invariance,
}
