"""Axes of figures of margins, and where a margin that was not found is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike

from pipeline.report.statistics import Interval

ROOM = 1.25  # factor between the outermost value and the edge of the axis
DECADES = 2.2  # range above which powers of ten alone are labelled
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SHORT = 0.9  # range below which labels at 1, 2 and 5 would be too few


def in_a_row(count: int) -> int:
    """Panels in a row, at most three, without a single one left over of four."""
    return 2 if count == 4 else min(3, count)


def logarithmic(axis: Axes, values: ArrayLike, which: Literal["x", "y"] = "y") -> None:
    """A logarithmic axis around the positive finite values, if there are any, with plain numbers as labels."""
    array = np.asarray(values, dtype=float)
    array = array[np.isfinite(array) & (array > 0)]
    if not array.size:
        return
    low, high = float(array.min()) / ROOM, float(array.max()) * ROOM
    getattr(axis, f"set_{which}scale")("log")
    getattr(axis, f"set_{which}lim")(low, high)
    ticks(getattr(axis, f"{which}axis"), low, high)


def ticks(scale: Axis, low: float, high: float) -> None:
    """Numbers on a logarithmic scale between two ends: 1, 2, 5, more on a short one, powers of ten on a long one."""
    decades = math.log10(high / low)
    subs = (1,) if decades > DECADES else (1, 2, 5) if decades > SHORT else (1, 1.5, 2, 3, 5, 7)
    scale.set_major_locator(LogLocator(subs=subs))
    scale.set_major_formatter("{x:g}" if low > 1e-4 else FuncFormatter(power))
    scale.set_minor_locator(NullLocator())


def power(value: float, _: float) -> str:
    """Such as 10⁻⁶, and a plain number from a thousandth on."""
    if value >= 0.001:
        return f"{value:g}"
    factor, exponent = f"{value:.0e}".split("e")
    return ("" if factor == "1" else f"{factor}·") + "10" + f"{int(exponent)}".translate(RAISED)


def points(axis: Axes, places: Sequence[float], values: Sequence[Interval], style: Mapping[str, Any]) -> None:
    """Numbers with their intervals; an infinite one is a triangle at the upper edge, and an open interval reaches it.

    Args:
        axis: with a logarithmic vertical scale.
        places: on the horizontal axis.
        values: as many numbers.
        style: keywords of `Axes.plot`.
    """
    found = [(x, v) for x, v in zip(places, values, strict=True) if math.isfinite(v.value)]
    axis.plot([x for x, _ in found], [v.value for _, v in found], **style)
    known = [(x, v) for x, v in found if not math.isnan(v.low)]
    top = axis.get_ylim()[1]
    bars: dict[str, Any] = {"color": style["color"], "linewidth": 1.2, "alpha": 0.75, "zorder": 1.9}
    axis.vlines([x for x, _ in known], [v.low for _, v in known], [min(v.high, top) for _, v in known], **bars)
    lost = [x for x, v in zip(places, values, strict=True) if math.isinf(v.value)]
    edge: dict[str, Any] = {
        "transform": axis.get_xaxis_transform(),
        "clip_on": False,
        "linestyle": "none",
        "marker": "^",
    }
    if lost:
        axis.plot(lost, [0.97] * len(lost), color=style["color"], markersize=6, markerfacecolor="none", **edge)
