"""All numbers of the classifiers side by side: a panel for each measure, with an axis of its own."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from pipeline.report import _estimates
from pipeline.report._estimates import estimate
from pipeline.report.leaderboard import SHARE, Board, Column
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval
from pipeline.report.style import DOTS, WIDTH, Chart, Look, beside, canvas, count, panels, record, render

TITLE = "All measures side by side"
LINE, AROUND = 0.145, 0.75  # inches: of a classifier; of a panel's title, axis and distance to the next
LETTERS, LONG = 34, 44  # letters of a line of a panel's title, and of one below its axis
ARROWS = {1: "better →", -1: "← better", 0: ""}


def draw(classifiers: Sequence[Outcomes], boards: Sequence[Board], look: Look) -> Chart | None:
    """The numbers of leaderboards, each once, for the classifiers of one data set in the order of the first board.

    Args:
        classifiers: of one data set.
        boards: leaderboards, of any data sets; of a number that several have, that of the first is shown.
        look: colours and markers.

    Returns:
        The figure; None where there is no number.
    """
    dataset = classifiers[0].dataset
    by_name = {o.classifier: o for o in classifiers}
    shown: dict[str, tuple[Column, dict[str, Interval]]] = {}
    order: dict[str, int] = {}
    sizes: list[int] = []
    for board in boards:
        rows = _estimates.rows(board, dataset, by_name)
        sizes += [int(row["n"]) for row in rows if "n" in row and not pd.isna(row["n"])]
        for column in _estimates.numbers(board, dataset):
            values = {row["classifier"]: estimate(row, column) for row in rows}
            known = {name: value for name, value in values.items() if not math.isnan(value.value)}
            if known and column.name not in shown:
                shown[column.name] = column, known
        for row in rows:
            order.setdefault(row["classifier"], len(order))
    if not shown:
        return None
    names = [name for name in order if any(name in values for _, values in shown.values())]
    return _chart(list(shown.values()), [by_name[name] for name in names], sizes, look)


def _chart(
    shown: Sequence[tuple[Column, Mapping[str, Interval]]],
    members: Sequence[Outcomes],
    sizes: Sequence[int],
    look: Look,
) -> Chart:
    names = [o.classifier for o in members]
    across = 2 if len(shown) == 4 else min(3, len(shown))
    down = math.ceil(len(shown) / across)
    width = (3.6 if len(shown) == 1 else WIDTH) + beside(names)
    with canvas(width, down * (AROUND + LINE * max(3, len(names))) + 0.1) as figure:
        axes = panels(figure, len(shown), across, sharey=True)
        for axis, (column, values) in zip(axes, shown, strict=True):
            _panel(axis, column, [values.get(name) for name in names], [look(o) for o in members])
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        png, vector = render(figure)
    data = pd.DataFrame(
        [
            record(o, measure=column.name, direction=_estimates.direction(column), **_limits(values[o.classifier]))
            for column, values in shown
            for o in members
            if o.classifier in values
        ]
    )
    known = [value for _, values in shown for value in values.values()]
    n = f", {count(sizes)}, fewer where a measurement looks at fewer" if sizes else ""
    caption = (
        f"All numbers of the leaderboard, on {members[0].dataset}{n}. Points: estimates; bars: 95 % intervals (Wilson "
        "for shares of images or pairs, bootstrap for all else). Each measure has an axis of its own, which need not "
        "start at 0: distances compare within a panel, not between panels. An arrow says which way is better; without "
        "one neither is better in itself. In the order of the leaderboard."
    )
    caption += " A point alone: the interval has no width, or there are too few rows for one." * any(map(_alone, known))
    endless = any(math.isinf(end) for value in known for end in value)
    caption += " Bars that end in an arrow, and hollow points at the edge, go on to infinity." * endless
    caption += f" {DOTS}"
    return Chart("profile_plot", TITLE, caption, _alt(shown), png, vector, data)


def _panel(axis: Axes, column: Column, values: Sequence[Interval | None], looks: Sequence[Mapping[str, Any]]) -> None:
    limits = _estimates.span([value for value in values if value is not None], log=column.kind != SHARE)
    _estimates.set_up(axis, limits, horizontal=True, ticks=4)
    if limits.low < 0 < limits.high:
        axis.axvline(0, color="#555555", linewidth=0.8, zorder=1)
    text, bracket, unit = column.header.partition(" [")
    axis.set_title(textwrap.fill(text, LETTERS), loc="left", fontsize=8.5, pad=4)
    words = ["[" + textwrap.fill(unit, LETTERS)] * bool(bracket) + ["logarithmic"] * limits.log
    words.insert(len(words) * (_estimates.direction(column) > 0), ARROWS[_estimates.direction(column)])
    text = "   ".join(filter(None, words))
    axis.set_xlabel(text if len(text) <= LONG else "\n".join(filter(None, words)), fontsize=8)
    for place, (value, style) in enumerate(zip(values, looks, strict=True)):
        if value is not None:
            _estimates.bar(axis, place, value, limits, style, horizontal=True)
            at = _estimates.inside(value.value, limits), place
            _estimates.point(axis, at, style, infinite=math.isinf(value.value))


def _alone(value: Interval) -> bool:
    return not value.high - value.low > 0


def _limits(value: Interval) -> dict[str, float]:
    return {"value": value.value, "low": value.low, "high": value.high}


def _alt(shown: Sequence[tuple[Column, Mapping[str, Interval]]]) -> str:
    texts = []
    for column, values in shown:
        ends = sorted(values, key=lambda name: (values[name].value, name))
        low, high = (f"{values[name].value:.3g} ({name})" for name in (ends[0], ends[-1]))
        texts.append(f"{column.header}: from {low} to {high}")
    return f"Dot plots with intervals of {len(shown)} measures. {'; '.join(texts)}."
