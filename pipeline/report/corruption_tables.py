"""Errors under corruption as tables with their figures: every view, the mCE and its kin, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from pipeline.report.baseline import Baseline
from pipeline.report.corruption_measures import Difference, Errors
from pipeline.report.leaderboard import SHARE
from pipeline.report.outcomes import REFERENCE, Outcomes
from pipeline.report.pagetables import Cell, Table, estimate, sort_key, whole, words
from pipeline.report.rendering import signed
from pipeline.report.statistics import NOTHING, Interval
from pipeline.report.style import (
    DOTS,
    WIDTH,
    Chart,
    Look,
    beside,
    canvas,
    count,
    errorbar,
    extremes,
    limits,
    panels,
    record,
    render,
    wrapped,
)

MEASURES = ("mean", "mce", "relative")
MOST = 40  # rows of the figure of differences


def views_table(
    data: pd.DataFrame, names: Sequence[str], families: Mapping[str, str], label: Callable[[str], str]
) -> Table:
    """Accuracy of every classifier under every corruption, a column per severity.

    Args:
        data: classifier, corruption, severity, n, and the share with its limits.
        names: the corruptions, in order.
        families: of the corruptions, where they are known.
        label: the name of a corruption for people.
    """
    severities = sorted(set(data["severity"]) - {0})
    headers = ["Classifier", "Corruption", *(["Family"] if families else []), "n"]
    headers += [f"Accuracy at severity {severity} [%]" for severity in severities]
    places = {(row["classifier"], row["corruption"], row["severity"]): row for row in data.to_dict("records")}
    rows = []
    for classifier in dict.fromkeys(data["classifier"]):
        for name in names:
            views = [places.get((classifier, name, severity)) for severity in severities]
            sizes = [int(view["n"]) for view in views if view]
            if sizes:
                texts = words(str(classifier), label(name), *([families.get(name, "–")] if families else []))
                rows.append([*texts, whole(min(sizes)), *(estimate(_interval(view)) for view in views)])
    return Table(headers, rows)


def _interval(row: Mapping[Any, Any] | None) -> Interval:
    return NOTHING if row is None else Interval(row["share"], row["low"], row["high"])


def errors_chart(found: Sequence[Errors], baseline: Baseline, look: Look, name: str, what: str) -> Chart:
    """Mean error, mCE and relative mCE of every classifier, and a table of them with the notes."""
    names = {"mean": "mean error", "mce": "mCE", "relative": "relative mCE"}
    unit = f"{wrapped(baseline.name, 30)} = 100"
    notes = {"mean": "", "mce": unit, "relative": unit}
    shown = [m for m in MEASURES if any(not math.isnan(getattr(errors, m).value) for errors in found)]
    rows = []
    classifiers = [errors.outcomes.classifier for errors in found]
    with canvas(WIDTH + beside(classifiers), 1.3 + 0.27 * len(found)) as figure:
        axes = panels(figure, len(shown), 3, sharey=True)
        for axis, measure in zip(axes, shown, strict=True):
            for place, errors in enumerate(found):
                value: Interval = getattr(errors, measure)
                rows.append(record(errors.outcomes, measure=measure, n=errors.n, **limits(value)))
                if not math.isnan(value.value):
                    errorbar(axis, place, value, look(errors.outcomes), horizontal=True)
            axis.set_title(notes[measure])
            axis.set_xlabel(f"{names[measure]} [%]")
            if axis.dataLim.x0 >= 0:  # a relative mCE may lie below
                axis.set_xlim(left=0)
            if measure != "mean":
                axis.axvline(100, color="#555555", linewidth=0.8)
        axes[0].set_yticks(range(len(found)), classifiers)
        axes[0].set_ylim(len(found) - 0.5, -0.5)
        png, vector = render(figure)
    data = pd.DataFrame(rows)
    data["baseline"] = np.where(data["measure"] == "mean", "", baseline.name)
    dataset = found[0].outcomes.dataset
    caption = (
        f"Errors under corruption on {dataset}{what}, {count([errors.n for errors in found])} that every view has; "
        "lower is better; the axes have scales of their own. mCE and relative mCE divide by the errors of "
        f"{baseline.name}, {_described(baseline)}. Bars: 95 % intervals (bootstrap over images, all views of an image "
        f"together). {DOTS}"
    )
    alt = f"Dot plot with intervals for {len(found)} classifiers. " + " ".join(
        extremes(data[data["measure"] == measure], names[measure]) for measure in shown
    )
    table = _errors_table(found, baseline)
    return Chart(name, "Mean error, mCE and relative mCE", caption, alt, png, vector, data, table=table)


def _described(baseline: Baseline) -> str:
    if baseline.published is not None:
        given = baseline.published
        return (
            f"published for {given.source}: taken as exact, and meaningful only for classifiers of the same classes on "
            f"such images (SHA-256 of the file: {given.sha256})"
        )
    return "which are resampled with the same images, so that it has 100 % by definition"


def _errors_table(found: Sequence[Errors], baseline: Baseline) -> Table:
    headers = ["Classifier", "n", "Mean error [%]", f"mCE [%, {baseline.name} = 100]"]
    headers += [f"Relative mCE [%, {baseline.name} = 100]", "Notes"]
    rows = []
    for errors in found:
        numbers = [estimate(value) for value in (errors.mean, errors.mce, errors.relative)]
        notes = words("; ".join(errors.notes) or "–")
        rows.append([*words(errors.outcomes.classifier), whole(errors.n), *numbers, *notes])
    return Table(headers, rows)


def differences_chart(
    found: Sequence[Difference], members: Sequence[Outcomes], look: Look, name: str, what: str
) -> Chart:
    """Paired differences in mean error, as figure and table."""
    by_name = {o.classifier: o for o in members}
    shown = list(found)
    if len(shown) > MOST:  # of many trainings those against standard training, if that is there
        shown = [d for d in found if by_name[d.other].training == REFERENCE][:MOST] or shown[:MOST]
    names = [f"{d.one} − {d.other}" for d in shown]
    with canvas(5.4 + beside(names), 1.2 + 0.24 * len(shown)) as figure:
        (axis,) = panels(figure, 1, 1)
        for place, difference in enumerate(shown):
            style = look(by_name[difference.one])
            gap = difference.gap
            arms = [[100 * (gap.value - gap.low)], [100 * (gap.high - gap.value)]]
            own = {"color": style["color"], "marker": style["marker"], "markersize": 5, "linestyle": "none"}
            own["mfc"] = style["color"] if difference.real else "white"
            axis.errorbar([100 * gap.value], [place], xerr=arms, capsize=2, **own)
        axis.axvline(0, color="#555555", linewidth=0.8)
        axis.set_yticks(range(len(shown)), names)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.set_xlabel("difference in mean error [percentage points]")
        png, vector = render(figure)
    rows = [
        record(by_name[d.one], other=d.other, n=d.n, difference=d.gap.value, low=d.gap.low, high=d.gap.high)
        | {"p": d.p, "p_holm": d.adjusted, "reading": d.verdict}
        for d in found
    ]
    caption = (
        f"Differences in mean error between trainings of one architecture and seed on {members[0].dataset}{what}, on "
        f"the same images and views ({count([d.n for d in found])}). Left of 0 the first one makes fewer errors. Bars: "
        "95 % intervals (paired bootstrap over images, each for itself). Filled: p < 0.05 by the sign-flip permutation "
        "test of the differences per image, adjusted by Holm's method over all rows, with an interval that leaves out "
        "0. The test is about images alone: another training seed may give another answer."
    )
    if len(shown) < len(found):
        caption += f" The figure shows {len(shown)} of {len(found)} rows of the table."
    real = sum(d.real for d in found)
    alt = f"Dot plot of {len(shown)} of {len(found)} paired differences, {real} of all shown to be real. " + "; ".join(
        f"{d.one} against {d.other} {signed(d.gap.value, SHARE)}" for d in found[:6]
    )
    data, title = pd.DataFrame(rows), "Is the difference real?"
    return Chart(name, title, caption, alt, png, vector, data, table=_differences_table(found))


def _differences_table(found: Sequence[Difference]) -> Table:
    headers = ("Classifier", "Against", "Difference in mean error [points]", "n", "p", "p, Holm", "Reading")
    rows = []
    for d in found:
        limits_ = f"[{signed(d.gap.low, SHARE)}, {signed(d.gap.high, SHARE)}]"
        gap = Cell(signed(d.gap.value, SHARE), sort_key(d.gap.value), limits_, True)
        chances = [Cell(f"{p:.3f}" if p >= 0.001 else "< 0.001", p, numeric=True) for p in (d.p, d.adjusted)]
        rows.append([*words(d.one, d.other), gap, whole(d.n), *chances, *words(d.verdict)])
    return Table(headers, rows)
