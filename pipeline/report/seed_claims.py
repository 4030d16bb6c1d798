"""Claims that tables of accuracy and of perturbations decide: SparseFool's and PRIME's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report import statistics
from pipeline.report.claims import Claim, judge
from pipeline.report.outcomes import REFERENCE, Outcomes

ADVERSARIAL = ("adversarial", "fast", "free", "mart", "trades")  # methods of training
FOOLED, FEW, STILL_FOOLED, CLEAN_COST = 0.98, 0.05, 0.95, 0.02  # as `claims.CLAIMS` words them
MORE = math.ulp(0.0)  # the least number above 0: an equal one is no more


def claims(
    tables: Mapping[str, pd.DataFrame], classifiers: Sequence[Outcomes], seed: int, config: Mapping[str, Any] | None
) -> Iterator[Claim]:
    """Claims about SparseFool, and about PRIME against standard training.

    Args:
        tables: kind -> rows of all data sets; the gallery's give the size of an image, as no other table has it.
        classifiers: of all data sets.
        seed: of the bootstrap.
        config: says which method an id stands for; without it, and for an id it lacks, the id is the method.
    """
    sizes = _pixels(tables.get("gallery"))
    for outcomes in classifiers:
        for attack in _sparsefools(outcomes, config):
            yield from _sparse(outcomes, attack, sizes.get(outcomes.dataset), seed)
        standard = _standard(outcomes, classifiers, config)
        method = _method(outcomes, config)
        if standard is not None and method in ADVERSARIAL:
            yield from _against(outcomes, standard, config, seed)
        if standard is not None and method == "prime":
            yield from _prime(outcomes, standard, seed)


def _entry(config: Mapping[str, Any] | None, section: str, name: str) -> Mapping[str, Any]:
    return ((config or {}).get(section) or {}).get(name) or {}


def _method(outcomes: Outcomes, config: Mapping[str, Any] | None) -> str:
    """Method of a classifier's training; standard training on images of an augmentation is that augmentation."""
    entry = _entry(config, "trainings", outcomes.training)
    method = str(entry.get("method", outcomes.training))
    augmentation = entry.get("augmentation")
    return str(augmentation["method"]) if method == REFERENCE and augmentation else method


def _standard(outcomes: Outcomes, classifiers: Sequence[Outcomes], config: Mapping[str, Any] | None) -> Outcomes | None:
    """The classifier of standard training with the same data set, architecture and seed."""
    same = (outcomes.dataset, outcomes.architecture, outcomes.seed)
    found = [
        other
        for other in classifiers
        if (other.dataset, other.architecture, other.seed) == same and _method(other, config) == REFERENCE
    ]
    return min(found, key=lambda other: other.training != REFERENCE, default=None)


def _sparsefools(outcomes: Outcomes, config: Mapping[str, Any] | None) -> list[str]:
    """Ids of the attacks by SparseFool."""
    attacks = sorted(set(outcomes.attacks["attack"])) if len(outcomes.attacks) else []
    return [name for name in attacks if _entry(config, "attacks", name).get("method", name) == "sparsefool"]


def _attacked(outcomes: Outcomes, attack: str) -> pd.DataFrame:
    """Per correctly classified sample: whether it was fooled, and by how many pixels, infinite if it was not."""
    rows = outcomes.attacks
    rows = rows[(rows["attack"] == attack) & (rows["clean_prediction"] == rows["label"])].set_index("sample")
    fooled = rows["converged"].astype(bool)
    return pd.DataFrame({"fooled": fooled, "pixels": rows["l0_pixels"].astype(float).where(fooled, math.inf)})


def _pixels(gallery: pd.DataFrame | None) -> dict[str, int]:
    """Data set -> pixels of an image."""
    if gallery is None:
        return {}
    first = gallery.drop_duplicates("dataset")
    return dict(zip(first["dataset"], (first["height"] * first["width"]).astype(int), strict=True))


def _sparse(outcomes: Outcomes, attack: str, pixels: int | None, seed: int) -> Iterator[Claim]:
    found = _attacked(outcomes, attack)
    if found.empty:
        return
    whom = (outcomes.dataset, outcomes.classifier)
    fooled = statistics.share(found["fooled"])
    what = f"correctly classified images that {attack} fools"
    yield Claim("sparse_fools", *whom, what, len(found), fooled, "share", judge(fooled, above=FOOLED))
    if pixels:
        stream = statistics.stream(seed, *whom, "claim", "sparse_few_pixels", attack)
        median = statistics.bootstrap(found["pixels"] / pixels, statistics.median, seed=stream)
        what = f"median share of the pixels that {attack} changes"
        yield Claim("sparse_few_pixels", *whom, what, len(found), median, "share", judge(median, below=FEW))


def _against(one: Outcomes, other: Outcomes, config: Mapping[str, Any] | None, seed: int) -> Iterator[Claim]:
    """Adversarial against standard training: pixels on the images that both classify correctly, and success."""
    for attack in sorted(set(_sparsefools(one, config)) & set(_sparsefools(other, config))):
        mine, theirs = _attacked(one, attack), _attacked(other, attack)
        what = f"median of the pixels that {attack} changes, difference"
        pair = (mine["pixels"], theirs["pixels"])
        yield from _gap("sparse_adversarial", one, other, what, pair, "number", MORE, seed)
        if len(mine):
            fooled = statistics.share(mine["fooled"])
            what = f"correctly classified images that {attack} fools"
            verdict = judge(fooled, above=STILL_FOOLED)
            whom = (one.dataset, one.classifier)
            yield Claim("sparse_adversarial", *whom, what, len(mine), fooled, "share", verdict)


def _prime(one: Outcomes, other: Outcomes, seed: int) -> Iterator[Claim]:
    suites = sorted(set(one.suites.values()))
    for suite in suites:
        views = [view for view in one.views(suite) if view in other.views(suite)]
        if views:
            pair = (one.corrupted[views].dropna().mean(axis=1), other.corrupted[views].dropna().mean(axis=1))
            of = f" of {suite}" if len(suites) > 1 else ""
            what = f"mean accuracy on corrupted images{of}, difference"
            yield from _gap("prime_corruptions", one, other, what, pair, "share", MORE, seed)
    if one.clean is not None and other.clean is not None:
        pair = (one.clean["correct"], other.clean["correct"])
        what = "accuracy on clean images, difference"
        yield from _gap("prime_clean", one, other, what, pair, "share", -CLEAN_COST, seed)


def _gap(
    key: str,
    one: Outcomes,
    other: Outcomes,
    measured: str,
    values: tuple[pd.Series[Any], pd.Series[Any]],
    kind: str,
    above: float,
    seed: int,
) -> Iterator[Claim]:
    """A claim on the difference between two classifiers, on the images that both have; none if there is no such."""
    pair = pd.concat(values, axis=1, join="inner").to_numpy(dtype=float)
    if len(pair):
        subject = f"{one.classifier} against {other.classifier}"
        stream = statistics.stream(seed, one.dataset, subject, "claim", key, measured)
        statistic = statistics.median if kind == "number" else statistics.mean
        gap = statistics.difference(pair[:, 0], pair[:, 1], statistic, seed=stream)
        yield Claim(key, one.dataset, subject, measured, len(pair), gap, kind, judge(gap, above=above))
