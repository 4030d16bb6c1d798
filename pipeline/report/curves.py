"""Curves: robust accuracy against perturbation size, margins along frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import binom

from pipeline.report import scales, statistics
from pipeline.report.outcomes import NORMS, Outcomes
from pipeline.report.style import (
    CODING,
    WIDTH,
    Chart,
    Look,
    canvas,
    count,
    dodge,
    errorbar,
    extremes,
    limits,
    panels,
    record,
    render,
    veil,
)

GRID, EVERY = 121, 24  # sizes at which a curve is computed; every so many of them it has a marker


def security(classifiers: Sequence[Outcomes], look: Look) -> Chart:
    """Robust accuracy against the size of the perturbation, a panel per norm."""
    threats = {threat for o in classifiers for threat in o.norms}
    norms = sorted({threat.norm for threat in threats}, key=list(NORMS).index)
    rows: list[dict[str, Any]] = []
    width = WIDTH if len(norms) > 1 else 6.5
    with canvas(width, 1 + look.room_of(width) + 3.2 * math.ceil(len(norms) / 3)) as figure:
        for axis, norm in zip(panels(figure, len(norms), 3, sharey=True), norms, strict=True):
            rows += _security_panel(axis, classifiers, look, norm)
        look.ylabel(figure, "robust accuracy [%]")
        look.legend(figure, markersize=5)
        png, vector = render(figure)
    data = pd.DataFrame(rows)
    minimal = ", ".join(sorted(threat.attack for threat in threats if threat.minimal)) or "none"
    fixed = ", ".join(map(str, sorted(threat for threat in threats if not threat.minimal))) or "none"
    caption = (
        f"Robust accuracy against the size of the perturbation on {classifiers[0].dataset}, "
        f"{count(data['n'].tolist())}. Curves: share of images whose smallest perturbation found by the attacks that "
        f"minimise the norm ({minimal}) is larger. Points with bars: attacks with a budget ({fixed}), spread sideways "
        "for legibility. A misclassified image counts as perturbed by 0. Bands and bars: 95 % Wilson intervals. "
        f"{CODING}"
    )
    points = data[data["attack"] != ""]
    shown = [extremes(part, f"Robust accuracy under {name}") for name, part in points.groupby("threat")]
    alt = f"Robust accuracy falls with the size of the perturbation, {len(classifiers)} classifiers. " + " ".join(shown)
    return Chart("robustness", "Robust accuracy against perturbation size", caption, alt, png, vector, data)


def _security_panel(axis: Axes, classifiers: Sequence[Outcomes], look: Look, norm: str) -> list[dict[str, Any]]:
    _, symbol, unit = NORMS[norm]
    curves = {o.classifier: o.best(norm, minimal_only=True) for o in classifiers}
    finite = np.concatenate([c[np.isfinite(c)].to_numpy() for c in curves.values() if c is not None] or [np.zeros(0)])
    budgets = [threat.epsilon for o in classifiers for threat in o.fixed if threat.norm == norm]
    # The largest percent of the norms would squeeze the rest.
    longest = float(np.quantile(finite, 0.99)) if finite.size else 0.0
    right = max([longest, *(1.25 * budget for budget in budgets)]) or 1.0
    offsets = dodge(len(classifiers), 0.035 * right * min(1.0, len(classifiers) / 4))
    rows = []
    counted = norm.startswith("l0")
    for place, (outcomes, offset) in enumerate(zip(classifiers, offsets, strict=True)):
        style = look(outcomes)
        best = curves[outcomes.classifier]
        if best is not None:
            # counts of pixels are whole numbers: the curve is a staircase
            grid = np.arange(math.floor(right) + 1.0) if counted else np.linspace(0, right, GRID)
            values = [statistics.robust_accuracy(best, epsilon) for epsilon in grid]
            stairs: dict[str, Any] = {"drawstyle": "steps-post"} if counted else {}
            marks = {"markersize": 3.5, "markevery": 1 if counted else (5 * place % EVERY, EVERY)}
            axis.plot(grid, [100 * v.value for v in values], **(style | marks | stairs))
            band = ([100 * v.low for v in values], [100 * v.high for v in values])
            step: Any = "post" if counted else None
            axis.fill_between(grid, *band, color=style["color"], alpha=veil(len(classifiers)), linewidth=0, step=step)
            for epsilon, value in zip(grid.tolist(), values, strict=True):
                own = {"norm": norm, "attack": "", "threat": "", "epsilon": epsilon, "n": len(best)}
                rows.append(record(outcomes, **own, **limits(value)))
        for threat in (t for t in outcomes.fixed if t.norm == norm):
            value = statistics.share(outcomes.robust(threat))
            errorbar(axis, threat.epsilon + offset, value, style)
            own = {"norm": norm, "attack": threat.attack, "threat": str(threat), "epsilon": threat.epsilon}
            rows.append(record(outcomes, **own, n=len(outcomes.norms[threat]), **limits(value)))
    axis.set_xlim(-0.02 * right, 1.04 * right)
    axis.set_ylim(-2, 102)
    axis.set_xlabel(f"{symbol} norm [{unit}]")
    axis.set_title(f"{symbol} perturbations")
    return rows


def margins(classifiers: Sequence[Outcomes], look: Look, measurement: str, name: str) -> Chart:
    """Median and quartiles of the margin per frequency block, a panel per architecture."""
    members = [o for o in classifiers if measurement in o.margins and not o.margins[measurement].empty]
    architectures = list(dict.fromkeys(o.architecture for o in members))
    rows: list[dict[str, Any]] = []
    width = max(5.5, WIDTH * min(1, len(architectures) / 2))
    height = 0.9 + look.room_of(width) + 2.7 * math.ceil(len(architectures) / 3)
    with canvas(width, height) as figure:
        axes = panels(figure, len(architectures), 3, sharex=True, sharey=True)
        for axis, architecture in zip(axes, architectures, strict=True):
            for outcomes in (o for o in members if o.architecture == architecture):
                rows += _spread(outcomes, measurement)
            axis.set_title(architecture)
        data = pd.DataFrame(rows)
        scales.logarithmic(axes[0], data[["lower_quartile", "median", "upper_quartile", "low", "high"]])
        frequencies = sorted(set(data["frequency"]))
        gap = min(np.diff(frequencies), default=1)
        for axis, architecture in zip(axes, architectures, strict=True):
            shown = [o for o in members if o.architecture == architecture]
            for outcomes, shift in zip(shown, dodge(len(shown), 0.1 * gap), strict=True):
                _margins(axis, data[data["classifier"] == outcomes.classifier], shift, look(outcomes))
        axes[0].set_xticks(frequencies)
        for axis in axes:
            axis.set_xlabel("first DCT frequency of the block")
        look.ylabel(figure, "ℓ₂ margin [pixel range = 1]")
        look.legend(figure)
        png, vector = render(figure)
    caption = (
        f"ℓ₂ margin inside diagonal blocks of the DCT on {classifiers[0].dataset}, {count(data['n'].tolist())} (those "
        "classified correctly). Lines: medians, with bars for their 95 % intervals (between order statistics); bands: "
        "spread over images, from the lower to the upper quartile. A margin that was not found counts as infinite; a "
        f"triangle at the edge: an infinite median. The vertical axis is logarithmic. {CODING}"
    )
    ends = data.groupby("classifier", sort=False)["median"].agg(["first", "last"])
    alt = (
        f"Line charts of the median margin per frequency block, {len(members)} classifiers. From the lowest to the "
        "highest block: " + "; ".join(f"{name} {low:.3g} to {high:.3g}" for name, low, high in ends.itertuples()) + "."
    )
    return Chart(name, "Margins along frequencies", caption, alt, png, vector, data)


def _margins(axis: Axes, mine: pd.DataFrame, shift: float, style: dict[str, Any]) -> None:
    """Medians with their intervals, and the quartiles as a band."""
    places = (mine["frequency"] + shift).tolist()
    top = mine["upper_quartile"].replace(math.inf, 1e9)  # the band leaves the panel
    axis.fill_between(places, mine["lower_quartile"], top, color=style["color"], alpha=0.1, linewidth=0)
    medians = [statistics.Interval(*line) for line in mine[["median", "low", "high"]].to_numpy(dtype=float).tolist()]
    scales.points(axis, places, medians, style)


def _spread(outcomes: Outcomes, measurement: str) -> list[dict[str, Any]]:
    blocks = outcomes.margins[measurement]
    rows = []
    for block, frequency in outcomes.frequency[measurement].items():
        if block not in blocks:  # no correctly classified sample has it
            continue
        values = blocks[block].dropna().to_numpy(dtype=float)
        # Order statistics: interpolation between infinite values is not defined.
        lower, upper = np.quantile(values, 0.25, method="lower"), np.quantile(values, 0.75, method="higher")
        middle = _median(np.sort(values))
        own = {"block": block, "frequency": frequency, "n": len(values), "median": middle.value}
        own |= {"low": middle.low, "high": middle.high}
        rows.append(record(outcomes, **own, lower_quartile=float(lower), upper_quartile=float(upper)))
    return rows


def _median(ordered: statistics.Array) -> statistics.Interval:
    """Median of ascending values with the nearest pair of order statistics that holds it with at least 95 %; (n,).

    The binomial interval needs no draws and no finite values. Six values are the fewest that have one.
    """
    n = len(ordered)
    rank = int(binom.ppf((1 - statistics.LEVEL) / 2, n, 0.5))
    ends = (ordered[rank - 1], ordered[n - rank]) if rank else (math.nan, math.nan)
    return statistics.Interval(float(np.median(ordered)), float(ends[0]), float(ends[1]))
