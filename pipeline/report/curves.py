"""Curves: robust accuracy against perturbation size, margins along frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from pipeline.report import statistics
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
)

GRID = 121


def security(classifiers: Sequence[Outcomes], look: Look) -> Chart:
    """Robust accuracy against the size of the perturbation, a panel per norm."""
    threats = {threat for o in classifiers for threat in o.norms}
    norms = sorted({threat.norm for threat in threats}, key=list(NORMS).index)
    rows: list[dict[str, Any]] = []
    with canvas(WIDTH if len(norms) > 1 else 6.5, 1 + look.room + 3.2 * math.ceil(len(norms) / 3)) as figure:
        for axis, norm in zip(panels(figure, len(norms), 3, sharey=True), norms, strict=True):
            rows += _security_panel(axis, classifiers, look, norm)
        look.ylabel(figure, "robust accuracy [%]")
        look.legend(figure, markersize=5)
        png, svg = render(figure)
    data = pd.DataFrame(rows)
    minimal = ", ".join(sorted(threat.attack for threat in threats if threat.minimal)) or "none"
    fixed = ", ".join(map(str, sorted(threat for threat in threats if not threat.minimal))) or "none"
    caption = (
        f"Robust accuracy against the size of the perturbation on {classifiers[0].dataset}, "
        f"{count(data['n'].tolist())}. Curves: share of images whose smallest perturbation found by the attacks that "
        f"minimise the norm ({minimal}) is larger. Points: attacks with a budget ({fixed}), spread sideways for "
        f"legibility. A misclassified image counts as perturbed by 0. Bands and bars: 95 % Wilson intervals. {CODING}"
    )
    points = data[data["attack"] != ""]
    shown = [extremes(part, f"Robust accuracy under {name}") for name, part in points.groupby("threat")]
    alt = f"Robust accuracy falls with the size of the perturbation, {len(classifiers)} classifiers. " + " ".join(shown)
    return Chart("robustness", "Robust accuracy against perturbation size", caption, alt, png, svg, data)


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
    for outcomes, offset in zip(classifiers, offsets, strict=True):
        style = look(outcomes)
        best = curves[outcomes.classifier]
        if best is not None:
            grid = np.linspace(0, right, GRID)
            values = [statistics.robust_accuracy(best, epsilon) for epsilon in grid]
            axis.plot(grid, [100 * v.value for v in values], **(style | {"marker": "none"}))
            band = ([100 * v.low for v in values], [100 * v.high for v in values])
            axis.fill_between(grid, *band, color=style["color"], alpha=0.1, linewidth=0)
            for epsilon, value in zip(grid.tolist(), values, strict=True):
                own = {"norm": norm, "attack": "", "threat": "", "epsilon": epsilon, "n": len(best)}
                rows.append(record(outcomes, **own, **limits(value)))
        for threat in (t for t in outcomes.fixed if t.norm == norm):
            value = statistics.share(outcomes.robust(threat))
            errorbar(axis, threat.epsilon + offset, value, style)
            own = {"norm": norm, "attack": threat.attack, "threat": str(threat), "epsilon": threat.epsilon}
            rows.append(record(outcomes, **own, n=len(outcomes.norms[threat]), **limits(value)))
    axis.set_xlim(-0.02 * right, right)
    axis.set_ylim(-2, 102)
    axis.set_xlabel(f"{symbol} norm [{unit}]")
    axis.set_title(f"{symbol} perturbations")
    return rows


def margins(classifiers: Sequence[Outcomes], look: Look, measurement: str, name: str) -> Chart:
    """Median and quartiles of the margin per frequency block, a panel per architecture."""
    members = [o for o in classifiers if measurement in o.margins and not o.margins[measurement].empty]
    architectures = list(dict.fromkeys(o.architecture for o in members))
    rows: list[dict[str, Any]] = []
    height = 0.9 + look.room + 2.7 * math.ceil(len(architectures) / 3)
    with canvas(max(5.5, WIDTH * min(1, len(architectures) / 2)), height) as figure:
        axes = panels(figure, len(architectures), 3, sharex=True, sharey=True)
        for axis, architecture in zip(axes, architectures, strict=True):
            for outcomes in (o for o in members if o.architecture == architecture):
                mine = _spread(outcomes, measurement)
                frame = pd.DataFrame(mine).replace(math.inf, np.nan)
                style = look(outcomes)
                axis.plot(frame["frequency"], frame["median"], **style)
                high = frame["upper_quartile"].fillna(1e9)  # an infinite quartile: the band leaves the panel
                axis.fill_between(
                    frame["frequency"], frame["lower_quartile"], high, color=style["color"], alpha=0.12, lw=0
                )
                rows += mine
            axis.set_title(architecture)
        data = pd.DataFrame(rows)
        values = data[["lower_quartile", "median", "upper_quartile"]].to_numpy(dtype=float)
        values = values[np.isfinite(values) & (values > 0)]
        if values.size:
            axes[0].set_yscale("log")
            axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes[0].yaxis.set_major_formatter("{x:g}")
            axes[0].yaxis.set_minor_locator(NullLocator())
            axes[0].set_ylim(values.min() / 1.2, values.max() * 1.2)
        axes[0].set_xticks(sorted(set(data["frequency"])))
        for axis in axes:
            axis.set_xlabel("first DCT frequency of the block")
        look.ylabel(figure, "ℓ₂ margin [pixel range = 1]")
        look.legend(figure)
        png, svg = render(figure)
    caption = (
        f"ℓ₂ margin inside diagonal blocks of the DCT on {classifiers[0].dataset}, {count(data['n'].tolist())} (those "
        "classified correctly). Lines: medians; bands: spread over images, from the lower to the upper quartile. A "
        f"margin that was not found counts as infinite. {CODING}"
    )
    ends = data.groupby("classifier", sort=False)["median"].agg(["first", "last"])
    alt = (
        f"Line charts of the median margin per frequency block, {len(members)} classifiers. From the lowest to the "
        "highest block: " + "; ".join(f"{name} {low:.3g} to {high:.3g}" for name, low, high in ends.itertuples()) + "."
    )
    return Chart(name, "Margins along frequencies", caption, alt, png, svg, data)


def _spread(outcomes: Outcomes, measurement: str) -> list[dict[str, Any]]:
    blocks = outcomes.margins[measurement]
    rows = []
    for block, frequency in outcomes.frequency[measurement].items():
        if block not in blocks:  # no correctly classified sample has it
            continue
        values = blocks[block].dropna().to_numpy(dtype=float)
        # Order statistics: interpolation between infinite values is not defined.
        lower, upper = np.quantile(values, 0.25, method="lower"), np.quantile(values, 0.75, method="higher")
        own = {"block": block, "frequency": frequency, "n": len(values), "median": float(np.median(values))}
        rows.append(record(outcomes, **own, lower_quartile=float(lower), upper_quartile=float(upper)))
    return rows
