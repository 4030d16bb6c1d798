"""What a classifier's mistakes look like: perturbed images, classes confused, and the corruptions that harm it most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from pipeline.report import statistics
from pipeline.report.classes import Named
from pipeline.report.corruption_measures import Errors
from pipeline.report.explorer_samples import fragment
from pipeline.report.leaderboard import NUMBER
from pipeline.report.outcomes import NORMS, Outcomes
from pipeline.report.pagetables import Cell, Table, estimate, whole, words
from pipeline.report.pictures import Picture, extent, magnification, pictures, scaling
from pipeline.report.rendering import number

SAMPLES = 4  # images shown
LARGE = 64  # pixels a side above which a page has no room for the differences
WIDTHS = (64, 112)  # of small and of large images on the page
PAIRS = 3  # confusions shown of each kind of images
CORRUPTIONS = 6  # shown of each suite
ONCE = ["sample", "view", "severity"]
CLEAN, CORRUPTED = "clean images", "corrupted images, all severities"


class Shown(NamedTuple):
    """One image under one attack: its pictures, what it was taken for, and the size of the perturbation, in words."""

    picture: Picture
    attack: str
    prediction: str
    norm: str


class Sample(NamedTuple):
    """An image of the gallery.

    Attributes:
        sample: id.
        fragment: of its part of the samples' page.
        clean: picture.
        label: what its class is called.
        prediction: what the clean image was taken for.
        shown: the image under each attack; None where it was not attacked.
    """

    sample: str
    fragment: str
    clean: str
    label: str
    prediction: str
    shown: Sequence[Shown | None]


class Gallery(NamedTuple):
    """Images of one classifier.

    Attributes:
        attacks: (attack, how its differences are scaled).
        samples: those chosen.
        total: number of samples that there are.
        differences: whether there is room for them.
        width: of an image on the page.
    """

    attacks: Sequence[tuple[str, str]]
    samples: Sequence[Sample]
    total: int
    differences: bool
    width: int


def gallery(outcomes: Outcomes, rows: pd.DataFrame | None, named: Named = str) -> Gallery | None:
    """Images that most attacks turn from right to wrong, and the clean ones; None if there is no gallery.

    `named` says what a class is called.
    """
    if rows is None or rows.empty:
        return None
    attacks = sorted(set(rows["attack"].astype(str)))
    telling = (rows["clean_prediction"] == rows["label"]) & (rows["prediction"] != rows["label"])
    turned = telling.groupby(rows["sample"]).sum()
    chosen = sorted(turned.index, key=lambda sample: (-turned[sample], str(sample)))[:SAMPLES]
    rows = rows[rows["sample"].isin(chosen)]
    records: dict[tuple[str, str], Any] = {(str(r["sample"]), str(r["attack"])): r for r in rows.to_dict("records")}
    limits = extent(records.values())
    factors = {name: magnification(r for (_, of), r in records.items() if of == name) for name in attacks}

    def shown(sample: str, attack: str) -> Shown | None:
        row = records.get((sample, attack))
        if row is None:
            return None
        picture = pictures(row, limits=limits, factor=factors[attack])
        return Shown(picture, attack, named(row["prediction"]), _norm(outcomes.attacks, sample, attack))

    samples = []
    for sample in map(str, chosen):
        first = next(row for (of, _), row in records.items() if of == sample)
        own = [shown(sample, attack) for attack in attacks]
        clean = next(each.picture.clean for each in own if each is not None)
        classes = named(first["label"]), named(first["clean_prediction"])
        samples.append(Sample(sample, fragment(sample), clean, *classes, own))
    small = max(int(rows["height"].max()), int(rows["width"].max())) <= LARGE
    scales = [(name, scaling(factor)) for name, factor in factors.items()]
    return Gallery(scales, samples, len(turned), small, WIDTHS[not small])


def _norm(rows: pd.DataFrame, sample: str, attack: str) -> str:
    """Size of a perturbation in the norm of its attack, in words; "" if it was not measured."""
    if rows.empty:
        return ""
    own = rows[(rows["sample"] == sample) & (rows["attack"] == attack)]
    if own.empty:
        return ""
    row = own.iloc[0]
    column, symbol, unit = NORMS[str(row["norm"])]
    if not row["converged"]:
        return "none found"
    if row["clean_prediction"] != row["label"]:
        return "wrong without one"
    return f"{symbol} {number(float(row[column]), NUMBER)}" + (f" {unit}" if symbol == "ℓ₀" else "")


def confusions(outcomes: Outcomes, rows: pd.DataFrame | None, named: Named = str) -> Table:
    """The most frequent pairs of true class and prediction among the mistakes, on each kind of images.

    `named` says what a class is called.
    """
    lines = []
    for where, mistakes in _mistakes(outcomes, rows):
        pairs = mistakes.groupby(["label", "prediction"]).size().reset_index(name="count")
        pairs = pairs.sort_values(["count", "label", "prediction"], ascending=[False, True, True])
        records = pairs[:PAIRS].to_dict("records")
        texts = [f"{named(pair['label'])} → {named(pair['prediction'])} ({pair['count']})" for pair in records]
        cells = [Cell(text, text, numeric=True) for text in (*texts, *["–"] * (PAIRS - len(texts)))]
        lines.append([*words(where), whole(len(mistakes)), *cells])
    return Table(("On", "Mistakes", "Most frequent", "Second", "Third"), lines)


def _mistakes(outcomes: Outcomes, rows: pd.DataFrame | None) -> Iterator[tuple[str, pd.DataFrame]]:
    """Labels and predictions where they differ; under an attack those of images that were right before."""
    if rows is not None and {"label", "prediction", "kind"} <= set(rows):
        for kind, where in (("clean", CLEAN), ("corruption", CORRUPTED)):
            yield where, rows[(rows["kind"] == kind) & ~rows["correct"].astype(bool)].drop_duplicates(ONCE)
    if len(outcomes.attacks) and "prediction" in outcomes.attacks:
        fooled = outcomes.attacks["converged"].astype(bool)
        fooled &= outcomes.attacks["clean_prediction"] == outcomes.attacks["label"]
        for attack, part in outcomes.attacks[fooled].groupby("attack"):
            yield f"images perturbed by {attack}", part


def corruptions(outcomes: Outcomes, errors: Sequence[Errors]) -> Table:
    """The corruptions under which the accuracy is lowest: its mean over severities, and at the highest one."""
    lines = []
    for found in errors:
        ordered = sorted(found.corruptions, key=lambda name: (found.corruptions[name].value, name))
        for name in ordered[:CORRUPTIONS]:
            highest = max(severity for of, severity in outcomes.views(found.suite) if of == name)
            right = statistics.share(outcomes.corrupted[name, highest].dropna() == 1)
            family = outcomes.families.get(name, "–")
            own = [estimate(found.corruptions[name]), estimate(right), whole(highest)]
            lines.append([*words(name, found.suite, family), *own])
    headers = ("Corruption", "Suite", "Family", "Accuracy, mean [%]", "At the highest severity [%]", "Highest severity")
    return Table(headers, lines)
