"""Accuracy against robustness: what each classifier gives up of the one for the other."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report import _estimates
from pipeline.report._corner_labels import Cross, Label, place, write
from pipeline.report._estimates import Span, estimate
from pipeline.report.leaderboard import CLEAN, CORRUPTED, WORST, Board, Column
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval
from pipeline.report.style import DOTS, WIDTH, Chart, Look, canvas, count, panels, record, render

SMALLEST = "median_smallest_l2"
TITLE = "Accuracy against robustness"
FRONT = "#8A8A8A"
LETTERS = 36  # of a line beside a panel
Points = Mapping[Outcomes, tuple[Interval, Interval]]


def draw(classifiers: Sequence[Outcomes], board: Board, look: Look) -> Chart | None:
    """Numbers of the leaderboard against the accuracy on clean images, for the classifiers of one data set.

    Args:
        classifiers: of one data set.
        board: the leaderboard, of any data sets.
        look: colours and markers.

    Returns:
        The figure; None where there are not two classifiers with both numbers.
    """
    dataset = classifiers[0].dataset
    by_name = {o.classifier: o for o in classifiers}
    rows = _estimates.rows(board, dataset, by_name)
    columns = {c.name: c for c in _estimates.numbers(board, dataset)}
    if CLEAN.name not in columns:
        return None
    clean = columns[CLEAN.name]
    names = [WORST.name, SMALLEST, *(name for name in columns if name.startswith(CORRUPTED.name))]
    found: dict[Column, Points] = {}
    for column in (columns[name] for name in names if name in columns):
        values = {by_name[row["classifier"]]: (estimate(row, clean), estimate(row, column)) for row in rows}
        known = {o: pair for o, pair in values.items() if not any(math.isnan(value.value) for value in pair)}
        if len(known) > 1:
            found[column] = known
    return _chart(found, clean, classifiers, rows, look) if found else None


def _chart(
    found: Mapping[Column, Points],
    clean: Column,
    classifiers: Sequence[Outcomes],
    rows: Sequence[Mapping[str, Any]],
    look: Look,
) -> Chart:
    across = 2 if len(found) == 4 else min(3, len(found))
    height = (0.8 + 2.8 * math.ceil(len(found) / across)) + look.room
    with canvas(WIDTH * min(1, 0.25 + 0.25 * len(found)), height) as figure:
        axes = panels(figure, len(found), across)
        for axis, (column, points) in zip(axes, found.items(), strict=True):
            _panel(axis, column, clean, points, look)
        if not _labelled(figure, axes, list(found.values())):
            look.legend(figure, linestyle="none")
        png, vector = render(figure)
    data = pd.DataFrame([_record(o, column, *pair) for column, points in found.items() for o, pair in points.items()])
    sizes = [int(row["n"]) for row in rows if not pd.isna(row["n"])]
    several = len({o.style for o in classifiers}) < len(classifiers)
    fronts = any(len(points) > 2 for points in found.values())
    wilson = "clean and worst-case robust accuracy" if WORST.name in {c.name for c in found} else "clean accuracy"
    caption = (
        f"Robustness against the accuracy on clean images, on {classifiers[0].dataset}, {count(sizes)}. Points: the "
        f"leaderboard's estimates; bars: their 95 % intervals (Wilson for {wilson}, else bootstrap over images). {DOTS}"
    )
    caption += " Thin lines join the seeds of a training." * several
    caption += (
        " Dotted: front of the estimates, beyond which no classifier is better in both; whose bars reach across it may "
        "lie on it as well as those that do." * fronts
    )
    arrows = any(not math.isfinite(end) for points in found.values() for _, value in points.values() for end in value)
    caption += " Bars that end in an arrow, and hollow points at the edge, go on to infinity." * arrows
    return Chart("tradeoff", TITLE, caption, _alt(data, found), png, vector, data)


def _panel(axis: Axes, column: Column, clean: Column, points: Points, look: Look) -> None:
    limits = [_estimates.span([pair[i] for pair in points.values()]) for i in (0, 1)]
    for i, own in enumerate(limits):
        _estimates.set_up(axis, own, horizontal=i == 0)
    axis.set_xlabel(clean.header)
    axis.set_ylabel(_in_lines(column.header))
    _front(axis, points, limits)
    for style in dict.fromkeys(o.style for o in points):
        seeds = [o for o in points if o.style == style]
        looks = look(seeds[0])
        ends = [_at(points[o], limits) for o in seeds]
        axis.plot(*zip(*ends, strict=True), color=looks["color"], linewidth=0.8, alpha=0.5, zorder=1.5)
        faint = {} if len(seeds) == 1 else {"alpha": 0.55}
        for outcomes, (x, y) in zip(seeds, ends, strict=True):
            across, up = points[outcomes]
            _estimates.bar(axis, y, across, limits[0], looks, horizontal=True, **faint)
            _estimates.bar(axis, x, up, limits[1], looks, horizontal=False, **faint)
            _estimates.point(axis, (x, y), looks, infinite=math.isinf(up.value), **faint)


def _in_lines(header: str) -> str:
    """A column's header; if it is long in lines, with the unit in the last."""
    text, bracket, unit = header.partition(" [")
    return (
        header if len(header) <= LETTERS else "\n".join([*textwrap.wrap(text, LETTERS), *[f"[{unit}"] * bool(bracket)])
    )


def _at(pair: tuple[Interval, Interval], limits: Sequence[Span]) -> tuple[float, float]:
    """Where a point stands: at the edge for an infinite number."""
    x, y = (_estimates.inside(value.value, own) for value, own in zip(pair, limits, strict=True))
    return x, y


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those points for which no other is as large in both numbers and larger in one, from left to right."""
    return sorted(
        {
            one
            for one in points
            if not any(other != one and other[0] >= one[0] and other[1] >= one[1] for other in points)
        }
    )


def _front(axis: Axes, points: Points, limits: Sequence[Span]) -> None:
    if len(points) <= 2:  # of two there is no front to speak of
        return
    best = front([_at(pair, limits) for pair in points.values()])
    corners = [(limits[0].low, best[0][1]), best[0]]
    for one, other in pairwise(best):
        corners += [(one[0], other[1]), other]
    corners.append((best[-1][0], limits[1].low))
    axis.plot(*zip(*corners, strict=True), color=FRONT, linewidth=1.0, linestyle=":", zorder=1)


def _labelled(figure: Figure, axes: Sequence[Axes], found: Sequence[Points]) -> bool:
    """Write architecture and training beside the points, if there is room for all of them in all panels."""
    figure.draw_without_rendering()  # finds the layout
    placed = []
    for axis, points in zip(axes, found, strict=True):
        width, height = (72 * float(side) / figure.dpi for side in axis.get_window_extent().size)  # points
        crosses = {o: _cross(axis, pair, width, height) for o, pair in points.items()}
        labels = [
            Label(
                f"{architecture}, {training}",
                [cross for o, cross in crosses.items() if o.style == (training, architecture)],
            )
            for training, architecture in dict.fromkeys(o.style for o in points)
        ]
        placed.append(place(labels, width, height))
    for axis, own in zip(axes, placed, strict=True):
        if None not in placed:
            write(axis, own or [])
    return None not in placed


def _cross(axis: Axes, pair: tuple[Interval, Interval], width: float, height: float) -> Cross:
    """Where a point and its bars stand, in points from the lower left corner of the axes."""
    ends = []
    for value, (low, high), size in zip(pair, (axis.get_xlim(), axis.get_ylim()), (width, height), strict=True):
        inside = [_estimates.inside(end, Span(low, high)) for end in value]
        ends.append([size * (end - low) / (high - low) for end in inside])
    (x, left, right), (y, bottom, top) = ends
    return Cross(x, y, left, right, bottom, top)


def _record(outcomes: Outcomes, column: Column, clean: Interval, value: Interval) -> dict[str, Any]:
    own: dict[str, Any] = {"measure": column.name}
    for name, number in (("clean_accuracy", clean), ("value", value)):
        own |= {name: number.value, f"{name}_low": number.low, f"{name}_high": number.high}
    return record(outcomes, **own)


def _alt(data: pd.DataFrame, found: Mapping[Column, Points]) -> str:
    texts = []
    for column in found:
        own = data[data["measure"] == column.name].sort_values("value", kind="stable").to_dict("records")
        low, high = (
            f"{row['classifier']} ({row['value']:.3g} at {row['clean_accuracy']:.1f} % clean)"
            for row in (own[0], own[-1])
        )
        texts.append(f"{column.header}: lowest {low}, highest {high}")
    return f"Scatter plots of {data['classifier'].nunique()} classifiers. {'; '.join(texts)}."
