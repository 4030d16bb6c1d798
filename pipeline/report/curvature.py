"""Curvature of the decision boundary near images: spectra, their dependence on the radius, and what they add up to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from pipeline.report import scales, statistics
from pipeline.report._boundary_points import Points, gather, main, mainly_negative
from pipeline.report.claims import Claim, judge
from pipeline.report.leaderboard import NUMBER, SHARE, slug
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import Cell, Table, estimate, whole, words
from pipeline.report.rendering import number
from pipeline.report.statistics import Array, Interval
from pipeline.report.style import CODING, WIDTH, Chart, Look, canvas, count, dodge, panels, record, render

KIND = "curvature"
SECTION = "Curvature of the decision boundary"
TEXT = (
    "The principal curvatures of the boundary at points where perturbations cross it: zero where it is flat, positive "
    "where the region of the image is convex, negative where the other region bulges into it. Networks of rectifiers "
    "have no curvature at a point, only one averaged over a ball, so the radius belongs to every number."
)
GRID = 200  # shares of directions at most at which a spectrum is drawn


def draw(rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Spectra of one data set per attack, and how they depend on the radius per measurement with several.

    Args:
        rows: of one data set.
        classifiers: of the data set.
        look: of the classifiers; if one has no `Outcomes`, a look of its own replaces it.
        seed: of the bootstrap.
    """
    everything = gather(rows, classifiers)
    groups = sorted({(p.measurement, p.view) for p in everything})
    for measurement, view in groups:
        members = [p for p in everything if (p.measurement, p.view) == (measurement, view)]
        outcomes = [p.outcomes for p in members]
        if not set(outcomes) <= set(classifiers):
            look = Look(outcomes, [*classifiers, *(o for o in outcomes if o not in classifiers)])
        name = slug(measurement) if len({v for m, v in groups if m == measurement}) == 1 else slug(measurement, view)
        if members[0] in main(everything):
            yield _spectra(members, look, f"{name}_spectra", seed)
        if any(len(p.rows["radius"].unique()) > 1 for p in members):
            yield _radii(members, look, f"{name}_radii", seed)


def claims(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Claim]:
    """Whether boundaries are flat in most directions, and curved negatively in most of the others.

    Args:
        rows: of all data sets.
        classifiers: of all data sets.
        seed: of the bootstrap.
    """
    for points in main(gather(rows, classifiers)):
        o, own = points.outcomes, points.at(points.radius)
        where = f"{points.measurement}, {points.view}, {_radius(points.radius)}"
        flat = points.interval(own["flat"], "flat", seed)
        what = f"share of flat directions, median over points of the boundary ({where})"
        yield Claim("flat", o.dataset, o.classifier, what, len(own), flat, SHARE, judge(flat, above=0.8))
        negative, apart, _ = mainly_negative(own)
        what = f"points with more negatively than positively curved directions, ties left out ({where})"
        yield Claim("asymmetric", o.dataset, o.classifier, what, apart, negative, SHARE, judge(negative, above=0.5))


def quantiles(nodes: Any, weights: Any, shares: Array) -> Array:
    """Curvatures below which the given shares of directions lie, for a density of weighted values."""
    values, mass = np.asarray(nodes, dtype=float), np.asarray(weights, dtype=float)
    order = np.argsort(values, kind="stable")
    below = np.cumsum(mass[order])
    place = np.searchsorted(below, shares * below[-1] * (1 - 1e-9))
    return np.asarray(values[order][place])


def _radius(radius: float) -> str:
    return "exact derivatives" if math.isnan(radius) else f"radius {radius:g}"


def _spectra(members: Sequence[Points], look: Look, name: str, seed: int) -> Chart:
    architectures = list(dict.fromkeys(p.outcomes.architecture for p in members))
    lines: list[dict[str, Any]] = []
    width = max(5.5, WIDTH * min(1, len(architectures) / 2))
    height = 0.9 + look.room_of(width) + 2.8 * math.ceil(len(architectures) / 3)
    with canvas(width, height) as figure:
        axes = panels(figure, len(architectures), 3, sharex=True, sharey=True)
        for axis, architecture in zip(axes, architectures, strict=True):
            axis.axhline(0, color="#999999", linewidth=0.8)
            for points in (p for p in members if p.outcomes.architecture == architecture):
                own = points.at(points.radius)
                nodes, weights = own["nodes"].tolist(), own["weights"].tolist()
                steps = min(GRID, max(len(line) for line in nodes))
                shares = (np.arange(steps) + 0.5) / steps
                curves = np.stack([quantiles(n, w, shares) for n, w in zip(nodes, weights, strict=True)])
                low, middle, high = np.quantile(curves, [0.25, 0.5, 0.75], axis=0)
                style = look(points.outcomes) | {"markevery": (steps // 10, max(1, steps // 5))}
                axis.plot(100 * shares, middle, **style)
                axis.fill_between(100 * shares, low, high, color=style["color"], alpha=0.1, linewidth=0)
                for share, *values in zip(shares, low, middle, high, strict=True):
                    own_values = dict(zip(("lower_quartile", "median", "upper_quartile"), values, strict=True))
                    lines.append(record(points.outcomes, radius=points.radius, n=len(own), share=share, **own_values))
            axis.set_title(architecture)
            axis.set_xlabel("directions, sorted [%]")
        _bent(axes[0], max(abs(line["median"]) for line in lines))
        look.ylabel(figure, "principal curvature [1 / pixel range]")
        look.legend(figure)
        png, vector = render(figure)
    data = pd.DataFrame(lines)
    first = members[0]
    caption = (
        f"Principal curvatures of the decision boundary on {first.outcomes.dataset}, sorted from the most negative to "
        f"the most positive, where perturbations of {first.view} cross it ({count(data['n'].tolist())}; derivatives: "
        f"{', '.join(dict.fromkeys(_radius(p.radius) for p in members))}). Lines: medians over points; bands: "
        "quartiles; the scale is linear about zero, logarithmic beyond. A direction counts as flat if its curvature is "
        "at most 5 % of the point's largest. Table: medians with 95 % bootstrap intervals, shares of points with "
        "Wilson intervals; p: exact sign test of more negatively against more positively curved directions (beyond "
        f"10 % of the largest), Holm-adjusted. {CODING}"
    )
    ends = data.groupby("classifier", sort=False)["median"].agg(["first", "last"])
    alt = f"Sorted curvatures of {len(members)} classifiers; medians of the ends: " + "; ".join(
        f"{classifier} {number(low, NUMBER)} to {number(high, NUMBER)}" for classifier, low, high in ends.itertuples()
    )
    title = f"Spectra of curvature ({first.measurement}, {first.view})"
    return Chart(name, title, caption, alt + ".", png, vector, data, SECTION, _table(members, seed))


def _bent(axis: Axes, largest: float) -> None:
    """A scale that is linear about zero and logarithmic beyond a tenth of the largest value, or so."""
    unit = 10.0 ** math.floor(math.log10(largest / 5)) if largest else 1.0
    ticks = [unit * step for step in (0.5, 1, 2, 5, 10, 20, 50) if unit * step <= 2 * largest]
    axis.set_yscale("symlog", linthresh=unit, linscale=1)
    axis.set_yticks([*(-tick for tick in reversed(ticks)), 0, *ticks])
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter("{x:g}")


def _table(members: Sequence[Points], seed: int) -> Table:
    headers = (
        "Classifier",
        "n",
        "Flat directions [%]",
        "Mainly negative [%]",
        "p",
        "Mean curvature",
        "Largest |curvature|",
        "Asymmetry of the Hessian",
        "Loss curvature",
        "Nonlinearity",
    )
    chosen = [p.at(p.radius) for p in members]
    signs = [mainly_negative(own) for own in chosen]
    lines = []
    for points, own, (share, _, _), p in zip(
        members, chosen, signs, statistics.holm([p for *_, p in signs]), strict=True
    ):
        medians = [
            estimate(points.interval(own[name], name, seed), NUMBER)
            for name in ("mean", "top", "asymmetry", "loss_curvature", "nonlinearity")
        ]
        flat = estimate(points.interval(own["flat"], "flat", seed))
        label, test = words(points.outcomes.classifier), Cell(number(p, NUMBER), p)
        lines.append([*label, whole(len(own)), flat, estimate(share), test, *medians])
    return Table(headers, lines)


def _radii(members: Sequence[Points], look: Look, name: str, seed: int) -> Chart:
    shown = {"top": "largest |curvature|", "mean": "mean curvature", "flat": "flat directions [%]"}
    radii = sorted({radius for p in members for radius in p.rows["radius"].dropna()})
    exact = any(p.rows["radius"].isna().any() for p in members)
    step = (radii[-1] / radii[0]) ** (1 / (len(radii) - 1)) if len(radii) > 1 else 3.0
    ticks = {radius: f"{radius:g}" for radius in radii}
    left = (radii[0] if radii else 1.0) / step
    ticks = ({left: "exact"} if exact else {}) | ticks
    lines: list[dict[str, Any]] = []
    with canvas(WIDTH, 3.6 + look.room) as figure:
        axes = panels(figure, 3, 3)
        for points, offset in zip(members, dodge(len(members), 0.35), strict=True):
            for radius in [*([math.nan] if points.rows["radius"].isna().any() else []), *radii]:
                own = points.at(radius)
                if len(own):
                    values = {n: points.interval(own[n], f"{n} {radius:g}", seed) for n in shown}
                    place = (left if math.isnan(radius) else radius) * step**offset
                    lines.append(_line(points, radius, place, len(own), values))
            mine = pd.DataFrame([line for line in lines if line["classifier"] == points.outcomes.classifier])
            for axis, quantity in zip(axes, shown, strict=True):
                _errors(axis, mine, quantity, look(points.outcomes), 100 if quantity == "flat" else 1)
        for axis, label in zip(axes, shown.values(), strict=True):
            axis.set_xscale("log")
            axis.set_xticks(list(ticks), list(ticks.values()))
            axis.minorticks_off()
            axis.set_xlabel("radius [pixel range = 1]")
            axis.set_title(label if "%" in label else f"{label} [1 / pixel range]")
        scales.logarithmic(axes[0], [line[end] for line in lines for end in ("top_low", "top_high")])
        axes[1].axhline(0, color="#999999", linewidth=0.8)
        axes[2].set_ylim(0, 100)
        look.legend(figure)
        png, vector = render(figure)
    data = pd.DataFrame(lines).drop(columns="place")
    first = members[0]
    caption = (
        f"Curvature of the decision boundary on {first.outcomes.dataset} against the radius of the differences that it "
        f"is measured with ({first.view}, {count(data['n'].tolist())}; points are moved apart sideways). Medians over "
        "points, 95 % bootstrap intervals; the axes of the radius and of the largest curvature are logarithmic. A "
        "smooth network's curvature does not depend on a small radius; that of a network of rectifiers has no limit. "
        f"{CODING}"
    )
    ends = [f"{p.outcomes.classifier} {_ends(data, p)}" for p in members]
    alt = f"Largest curvature from the smallest to the largest radius: {'; '.join(ends)}."
    return Chart(name, f"Curvature and radius ({first.measurement})", caption, alt, png, vector, data, SECTION)


def _line(points: Points, radius: float, place: float, n: int, values: dict[str, Interval]) -> dict[str, Any]:
    numbers: dict[str, Any] = {"radius": radius, "exact": math.isnan(radius), "place": place, "n": n}
    for name, value in values.items():
        numbers |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    return record(points.outcomes, **numbers)


def _errors(axis: Axes, data: pd.DataFrame, quantity: str, style: dict[str, Any], scale: float) -> None:
    middle = scale * data[quantity]
    arms = [middle - scale * data[f"{quantity}_low"], scale * data[f"{quantity}_high"] - middle]
    near = ~data["exact"]
    axis.errorbar(data["place"], middle, yerr=arms, **(style | {"linestyle": "none"}), elinewidth=1.1, capsize=2)
    axis.plot(data.loc[near, "place"], middle[near], **(style | {"marker": "none"}))


def _ends(data: pd.DataFrame, points: Points) -> str:
    mine = data[(data["classifier"] == points.outcomes.classifier) & ~data["exact"]].sort_values("radius")
    return " to ".join(number(float(value), NUMBER) for value in mine["top"].iloc[[0, -1]]) if len(mine) else "–"
