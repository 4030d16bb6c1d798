"""Numbers of a leaderboard as points with intervals on an axis of their own; what is infinite ends at its edge."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.report.leaderboard import SHARE, Board, Column
from pipeline.report.statistics import Interval

ROOM = 0.07  # share of an axis that is left free at each end
FAR = 30.0  # largest over smallest number from which an axis may be logarithmic
LOWER, HIGHER = "lower is better", "higher is better"  # as meanings say
# columns of accuracies and of smallest perturbations, of which it goes without saying
MORE: tuple[str, ...] = ("clean_accuracy", "accuracy", "mean_corrupted_accuracy", "robust_accuracy", "worst_c")
MORE += ("median_smallest", "median_l")


class Span(NamedTuple):
    """The limits of an axis, in the unit shown, and whether it is logarithmic."""

    low: float
    high: float
    log: bool = False


def numbers(board: Board, dataset: str) -> list[Column]:
    """The columns of a leaderboard that hold a number of some classifier of a data set."""
    table = board.table[board.table["dataset"] == dataset]
    return [c for c in board.columns if f"{c.name}_low" in table and table[c.name].notna().any()]


def estimate(row: Mapping[str, Any], column: Column) -> Interval:
    """A number of a leaderboard's row, in the unit shown: shares in percent."""
    scale = 100 if column.kind == SHARE else 1
    return Interval(*(scale * float(row[column.name + tail]) for tail in ("", "_low", "_high")))


def direction(column: Column) -> int:
    """1 if larger numbers are better, -1 if smaller ones are, 0 if neither can be said."""
    if LOWER in column.meaning:
        return -1
    return int(HIGHER in column.meaning or column.name.startswith(MORE))


def span(values: Sequence[Interval], log: bool = False) -> Span:
    """Limits that hold all numbers and intervals; an end that is infinite adds an arrow's room.

    Args:
        values: in the unit shown.
        log: whether the axis is logarithmic if the numbers are positive and far apart.
    """
    ends = [end for value in values for end in value if not math.isnan(end)]
    finite = [end for end in ends if math.isfinite(end)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    log = log and low > 0 and high > FAR * low
    if log:
        low, high = math.log(low), math.log(high)
    extent = (high - low) or abs(high) or 1.0
    low, high = low - ROOM * extent, high + ROOM * extent * (1 if len(finite) == len(ends) else 2.5)
    return Span(math.exp(low), math.exp(high), True) if log else Span(low, high)


def set_up(axis: Axes, limits: Span, horizontal: bool, ticks: int = 5) -> None:
    """Give an axis its limits, its scale and its ticks."""
    own = axis.xaxis if horizontal else axis.yaxis
    if limits.log:
        (axis.set_xscale if horizontal else axis.set_yscale)("log")
        own.set_major_formatter("{x:g}")
        own.set_minor_formatter("")
    else:
        own.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
    (axis.set_xlim if horizontal else axis.set_ylim)(limits.low, limits.high)


def inside(end: float, limits: Span) -> float:
    """A number, or the edge of the axis that stands for an infinite one."""
    return min(max(end, limits.low), limits.high)


def bar(
    axis: Axes, at: float, value: Interval, limits: Span, style: Mapping[str, Any], horizontal: bool, **own: Any
) -> None:
    """The interval of a number at a place on the other axis; an arrow where it has no end."""
    if math.isnan(value.low) or math.isnan(value.high):
        return
    line = {"color": style["color"], "linewidth": 1.2, **own}
    ends = [inside(end, limits) for end in (value.low, value.high)]
    axis.plot(*((ends, [at, at]) if horizontal else ([at, at], ends)), **line, marker="", zorder=2)
    for end, arrow in ((value.low, "<v"), (value.high, ">^")):
        marker = ("|" if horizontal else "_") if math.isfinite(end) else arrow[0 if horizontal else 1]
        place = (inside(end, limits), at) if horizontal else (at, inside(end, limits))
        axis.plot(*place, **line, marker=marker, markersize=5, linestyle="none", clip_on=False, zorder=2)


def point(axis: Axes, place: tuple[float, float], style: Mapping[str, Any], infinite: bool = False, **own: Any) -> None:
    """A number; hollow at the axis's edge if it is infinite."""
    look = {"color": style["color"], "marker": style["marker"], "markersize": 6, "linestyle": "none", **own}
    look |= {"markeredgecolor": style["color"] if infinite else "white", "markeredgewidth": 1.0 if infinite else 0.4}
    look |= {"markerfacecolor": "white"} if infinite else {}
    axis.plot(*place, **look, clip_on=False, zorder=3)


def rows(board: Board, dataset: str, names: Collection[str]) -> list[dict[str, Any]]:
    """The rows of a leaderboard that are of some classifiers of a data set, in its order."""
    own = board.table[(board.table["dataset"] == dataset) & board.table["classifier"].isin(names)]
    return [{str(key): value for key, value in row.items()} for row in own.to_dict("records")]
