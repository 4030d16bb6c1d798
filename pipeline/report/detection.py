"""Curvature as a detector of perturbed images, beside simpler statistics, and as a guess at their labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report._detection import GUESSES, Detector, Guess, curvature_of, detectors, first_radius, guesses
from pipeline.report.claims import Claim, judge
from pipeline.report.leaderboard import NUMBER, SHARE, slug
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import Cell, Table, estimate, whole, words
from pipeline.report.statistics import NOTHING, Interval
from pipeline.report.style import CODING, WIDTH, Chart, Look, canvas, count, dodge, lowest, panels, record, render

KIND = "detection"
SECTION = "Perturbed images told by curvature"
TEXT = (
    "Can a statistic of an image tell whether it was perturbed, and what its label was? An AUROC of 0.5 is chance, 1 "
    "is perfect. The sign and the threshold of every detector, and the convention by which curvature names a label, "
    "come from one half of the images (calibration) and are judged on the other half (test)."
)
GROUP = ["measurement", "view"]
COLUMNS = 3  # of panels
KNOWING = " Open markers: an attacker who knows the detector has made the curvature look natural."


class Point(NamedTuple):
    """What a panel shows of a classifier at one strength."""

    outcomes: Outcomes
    panel: str
    alpha: float
    adaptive: bool
    value: Interval


def draw(rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int = 0) -> Iterator[Chart]:
    """Detection and recovery against the strength of the perturbation, of one data set; two charts per view.

    Args:
        rows: the table of one data set.
        classifiers: of that data set, in order; those without rows are left out.
        look: of the classifiers; those without `Outcomes` get a look beside it.
        seed: of the bootstrap.
    """
    everyone = [*classifiers, *_unknown(rows, classifiers)]
    members = [outcomes for outcomes in everyone if outcomes.classifier in set(rows["classifier"])]
    if len(everyone) > len(classifiers):
        look = Look(members, everyone)
    groups = list(rows.groupby(GROUP))
    for (measurement, view), part in groups:
        suffix = f"_{slug(str(measurement))}_{slug(str(view))}" if len(groups) > 1 else ""
        own = [(o, part[part["classifier"] == o.classifier]) for o in members]
        own = [(o, table) for o, table in own if len(table)]
        found = [(o, detector) for o, table in own for detector in detectors(table, seed)]
        if found:
            yield _detection(found, look, str(view), f"detection{suffix}")
        named = [(o, guess) for o, table in own for guess in guesses(table)]
        if named:
            yield _recovery(named, look, str(view), f"recovery{suffix}")


def _unknown(rows: pd.DataFrame, classifiers: Sequence[Outcomes]) -> list[Outcomes]:
    """Classifiers that nothing else was measured of."""
    others = rows[~rows["classifier"].isin([o.classifier for o in classifiers])].drop_duplicates("classifier")
    return [
        Outcomes(
            str(row["dataset"]),
            str(row["classifier"]),
            str(row["architecture"]),
            str(row["training"]),
            None if pd.isna(row["seed"]) else int(row["seed"]),
        )
        for row in others.to_dict("records")
    ]


def _detection(found: Sequence[tuple[Outcomes, Detector]], look: Look, view: str, name: str) -> Chart:
    points = [Point(o, d.statistic, d.alpha, d.adaptive, d.auroc) for o, d in found]
    with _drawn(points, look, "AUROC", dict.fromkeys((point.panel for point in points), 0.5)) as figure:
        png, vector = render(figure)
    data = pd.DataFrame(record(o, view=view, **_flat(d._asdict())) for o, d in found)
    caption = (
        f"Natural images of {found[0][0].dataset} against the same images perturbed by {view} and stretched to α times "
        f"that perturbation: area under the ROC curve, {count(data['n'].tolist())} (those still misclassified). "
        "Whether the perturbed ones are taken to have larger or smaller values is as in the calibration half of the "
        "images, over all α; shown is the other half. Bars: 95 % intervals (bootstrap over images, natural and "
        f"perturbed together); dashed: chance.{_adaptive(points)} Table: share of perturbed images flagged by "
        "curvature, and of their natural ones, at a threshold that at most 5 % of the natural calibration images "
        f"exceed (Wilson). {CODING}"
    )
    title = f"Telling images perturbed by {view}"
    return Chart(name, title, caption, _alt(points), png, vector, data, SECTION, _told(found))


def _recovery(found: Sequence[tuple[Outcomes, Guess]], look: Look, view: str, name: str) -> Chart:
    points = [Point(o, GUESSES[g.guess], g.alpha, g.adaptive, g.right) for o, g in found]
    chance = {GUESSES[g.guess]: g.chance for _, g in found}
    with _drawn(points, look, "label recovered [share of images]", chance) as figure:
        png, vector = render(figure)
    data = pd.DataFrame(record(o, view=view, **_flat(g._asdict())) for o, g in found)
    caption = (
        f"Labels of images of {found[0][0].dataset} perturbed by {view} and stretched to α times that perturbation: "
        f"share of images whose label is the class named, {count(data['n'].tolist())} (of the test half, those still "
        "misclassified). Which of the two names the label by curvature is a matter of sign, so both are shown. A "
        "minimal perturbation leaves the label in the second place of the logits: the third panel is what curvature "
        f"has to beat. Bars: 95 % Wilson intervals; dashed: chance.{_adaptive(points)} {CODING}"
    )
    title = f"Labels of images perturbed by {view}"
    return Chart(name, title, caption, _alt(points), png, vector, data, SECTION, _named(found))


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An interval as three columns."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        parts = value if isinstance(value, Interval) else (value,)
        flat |= dict(zip((name, f"{name}_low", f"{name}_high"), parts, strict=False))
    return flat


def _adaptive(points: Sequence[Point]) -> str:
    return KNOWING if any(point.adaptive for point in points) else ""


def _alt(points: Sequence[Point]) -> str:
    """In words: each panel's lowest and highest value, without an attacker who knows the detector."""
    shown = []
    for panel in dict.fromkeys(point.panel for point in points):
        plain = sorted((p for p in points if p.panel == panel and not p.adaptive), key=lambda p: p.value.value)
        ends = [f"{p.value.value:.2f} ({p.outcomes.classifier}, α = {p.alpha:g})" for p in (plain[:1] + plain[-1:])]
        shown.append(f"{panel}: " + (f"from {ends[0]} to {ends[1]}." if ends else "not measured."))
    return "Panels against the strength of the perturbation. " + " ".join(shown)


@contextmanager
def _drawn(points: Sequence[Point], look: Look, label: str, chance: Mapping[str, float]) -> Iterator[Figure]:
    """A panel per statistic: value against strength, a line per classifier; render it inside."""
    alphas = sorted({point.alpha for point in points})
    members = list(dict.fromkeys(point.outcomes for point in points))
    offsets = dict(zip(members, dodge(len(members), 0.4), strict=True))
    with canvas(WIDTH, 1.0 + look.room + 2.7 * math.ceil(len(chance) / COLUMNS)) as figure:
        axes = panels(figure, len(chance), COLUMNS, sharex=True, sharey=True)
        for axis, (panel, level) in zip(axes, chance.items(), strict=True):
            axis.axhline(level, color="#555555", linewidth=1, linestyle=(0, (3, 2)), zorder=0)
            for outcomes in members:
                own = [p for p in points if p.outcomes is outcomes and p.panel == panel]
                _lines(axis, own, alphas, offsets[outcomes], look(outcomes))
            axis.set_title(panel)
            axis.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
            axis.set_xlim(-0.5, len(alphas) - 0.5)
            axis.set_ylim(-0.03, 1.03)
        for axis in lowest(axes, COLUMNS):
            axis.set_xlabel("length of the perturbation, α")
        look.ylabel(figure, label)
        look.legend(figure, markersize=5)
        yield figure


def _lines(
    axis: Axes, points: Sequence[Point], alphas: Sequence[float], offset: float, style: Mapping[str, Any]
) -> None:
    for adaptive in (False, True):
        own = [p for p in points if p.adaptive == adaptive and not math.isnan(p.value.value)]
        middle = [p.value.value for p in own]
        arms = [[p.value.value - p.value.low for p in own], [p.value.high - p.value.value for p in own]]
        shift = offset + (0.05 if adaptive else 0)
        keywords: dict[str, Any] = {
            "color": style["color"],
            "marker": style["marker"],
            "elinewidth": 1.1,
            "linewidth": 1.1,
        }
        keywords |= {"linestyle": "none", "markerfacecolor": "white"} if adaptive else {"linestyle": style["linestyle"]}
        axis.errorbar([alphas.index(p.alpha) + shift for p in own], middle, yerr=arms, markersize=4.5, **keywords)


def _told(found: Sequence[tuple[Outcomes, Detector]]) -> Table:
    names = list(dict.fromkeys(d.statistic for _, d in found))
    headers = ["Classifier", "α", "Attacker knows the detector", "n", *(f"AUROC, {name}" for name in names)]
    headers += ["Perturbed taken to have", "Flagged by curvature [%]", "False alarms [%]"]
    lines: dict[tuple[str, float, bool], dict[str, Detector]] = {}
    for outcomes, d in found:
        lines.setdefault((outcomes.classifier, d.alpha, d.adaptive), {})[d.statistic] = d
    rows = []
    for (classifier, alpha, adaptive), own in lines.items():
        first = own.get(names[0])
        n = whole(max(d.n for d in own.values()))
        areas = [estimate(own[name].auroc if name in own else NOTHING, NUMBER) for name in names]
        side = "–" if first is None else "larger curvature" if first.sign > 0 else "smaller curvature"
        flagged = [estimate(part) for part in ((first.hits, first.alarms) if first else (NOTHING, NOTHING))]
        rows.append([*_strength(classifier, alpha, adaptive), n, *areas, *words(side), *flagged])
    return Table(headers, rows)


def _strength(classifier: str, alpha: float, adaptive: bool) -> list[Cell]:
    return [*words(classifier), Cell(f"{alpha:g}", alpha), *words("yes" if adaptive else "no")]


def _named(found: Sequence[tuple[Outcomes, Guess]]) -> Table:
    headers = [
        "Classifier",
        "α",
        "Attacker knows the detector",
        "n",
        *(f"{name} [%]" for name in GUESSES.values()),
    ]
    headers += ["Chance [%]", "By curvature, better in calibration"]
    lines: dict[tuple[str, float, bool], dict[str, Guess]] = {}
    for outcomes, g in found:
        lines.setdefault((outcomes.classifier, g.alpha, g.adaptive), {})[g.guess] = g
    rows = []
    for key, own in lines.items():
        any_one = own["runner_up"]
        shares = [estimate(own[guess].right) for guess in GUESSES]
        chosen = next(g.guess for g in own.values() if g.chosen)
        chance = Cell(f"{100 * any_one.chance:.1f}", any_one.chance)
        rows.append([*_strength(*key), whole(any_one.n), *shares, chance, *words(chosen.removesuffix("_class"))])
    return Table(headers, rows)


def claims(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int = 0) -> Iterator[Claim]:
    """Detection and recovery at the smallest strength, per data set, classifier, measurement and view.

    Of curvatures at several radii the first counts. Where the attack succeeded on no image of the test half, nothing is
    known, and the claim is undecided.

    Args:
        rows: the table of all data sets.
        classifiers: not used: every classifier with rows has its claims.
        seed: of the bootstrap.
    """
    for (dataset, classifier, measurement, view), part in rows.groupby(["dataset", "classifier", *GROUP], sort=False):
        several = len(rows.loc[rows["dataset"] == dataset, GROUP].drop_duplicates()) > 1
        tail = f" ({measurement}, {view})" if several else ""
        alpha = float(part.loc[part["alpha"] > 0, "alpha"].min())
        told = detectors(first_radius(part), seed, others=False)
        told = [d for d in told if d.alpha == alpha and not d.adaptive]
        area, n = (told[0].auroc, told[0].n) if told else (NOTHING, 0)
        measured = f"AUROC of {curvature_of(part)}, α = {alpha:g}, sign from calibration{tail}"
        where = str(dataset), str(classifier)
        yield Claim("detection", *where, measured, n, area, NUMBER, judge(area, above=0.5))
        named = [g for g in guesses(part) if g.chosen and g.alpha == alpha and not g.adaptive]
        right, n = (named[0].right, named[0].n) if named else (NOTHING, 0)
        chance = float((1 / part["candidates"]).mean())
        guess = GUESSES[named[0].guess] if named else "class of extreme curvature"
        measured = f"labels found by the {guess}, as in calibration; chance {100 * chance:.1f} %, α = {alpha:g}{tail}"
        yield Claim("recovery", *where, measured, n, right, SHARE, judge(right, above=chance))
