"""One look for all figures: colour stands for the training, line style and marker for the architecture."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.report.outcomes import REFERENCE, Outcomes
from pipeline.report.pagetables import Table
from pipeline.report.statistics import Interval

# Okabe and Ito's colours, apart for all common kinds of colour vision; yellow last, as it is faint on white.
# Black is for standard training. The second half serves runs with more than eight trainings: told apart by most.
COLOURS: tuple[str, ...] = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
COLOURS += ("#8A8A8A", "#7A3B12", "#5E3C99", "#9ACD32", "#0B4F4A", "#E0218A", "#1F2A6B", "#C2A36B")
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PARAMETERS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "boundary-atlas",
    "text.parse_math": False,  # ids are the user's; a $ in one is no formula
}
WIDTH = 9.0
DPI = 200
LEGEND_LETTER, LEGEND_HANDLE = 0.066, 0.75  # inches of an entry of a legend: a letter, and the sample with its gaps
LEGEND_ROW, LEGEND_ROWS = 0.19, 3  # inches; rows of a legend for which every figure has room
CODING = "Colour stands for the training, line style and marker for the architecture."


class Chart(NamedTuple):
    """A finished figure.

    Attributes:
        name: of its files, without suffix.
        title: short heading.
        caption: what is shown, of how many images, and what the intervals are.
        alt: the same for those who do not see it.
        png: PNG file.
        svg: SVG file.
        data: the numbers shown.
        section: of the page, if it does not stand among the figures of its data set.
        table: shown below the figure, if there is one.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    svg: bytes
    data: pd.DataFrame
    section: str = ""
    table: Table | None = None


@contextmanager
def canvas(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Iterator[Figure]:
    """A figure of that many inches in the common style; draw and `render` it inside."""
    with mpl.rc_context(PARAMETERS):
        figure = Figure(figsize=(width, height), layout=layout)
        FigureCanvasAgg(figure)
        yield figure


def render(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as PNG and SVG, without time stamps: equal figures give equal bytes."""
    files = []
    for suffix, options in (
        ("png", {"dpi": DPI, "metadata": {"Software": None}}),
        ("svg", {"metadata": {"Date": None}}),
    ):
        sink = io.BytesIO()
        figure.savefig(sink, format=suffix, **options)
        files.append(sink.getvalue())
        figure.set_layout_engine("none")  # the layout found for the first file serves the second
    return files[0], files[1]


class Look:
    """Colours, line styles and markers of a set of classifiers; they repeat when there are more than the lists hold."""

    def __init__(self, shown: Sequence[Outcomes], everyone: Sequence[Outcomes]) -> None:
        """The legend names those `shown`; `everyone` fixes the looks, so that they agree between data sets."""
        self.styles = list(dict.fromkeys(outcomes.style for outcomes in shown))
        others = [outcomes.style for outcomes in everyone if outcomes.training != REFERENCE]
        self.trainings = list(dict.fromkeys([REFERENCE, *(training for training, _ in others)]))
        self.architectures = list(dict.fromkeys(outcomes.architecture for outcomes in everyone))

    def __call__(self, outcomes: Outcomes) -> dict[str, Any]:
        """Keywords of `Axes.plot` for a classifier."""
        return self._keywords(*outcomes.style)

    def _keywords(self, training: str, architecture: str) -> dict[str, Any]:
        number = self.architectures.index(architecture)
        return {
            "color": COLOURS[self.trainings.index(training) % len(COLOURS)],
            "linestyle": LINES[number % len(LINES)],
            "marker": MARKERS[number % len(MARKERS)],
        }

    @property
    def _columns(self) -> int:
        # Entries run down the columns, so as many rows as trainings give a column per architecture.
        columns = len(self.architectures) if len(self.styles) > 4 and len(self.architectures) < 5 else 4
        return min(columns, len(self.styles))

    @property
    def room(self) -> float:
        """Inches by which a figure grows, lest a long legend leave its panels no height."""
        return LEGEND_ROW * max(0, math.ceil(len(self.styles) / self._columns) - LEGEND_ROWS)

    def ylabel(self, figure: Figure, text: str) -> None:
        """A label beside the middle of all panels, which `room` pushes upwards."""
        figure.supylabel(text, fontsize=9, y=0.5 * (1 + self.room / figure.get_figheight()))

    def legend(self, figure: Figure, **keywords: Any) -> None:
        """A legend of all styles below the panels; the figure's height has to include its `room`."""
        handles = [Line2D([], [], **(self._keywords(*style) | keywords)) for style in self.styles]
        labels = [f"{architecture}, {training}" for training, architecture in self.styles]
        entry = LEGEND_LETTER * max(map(len, labels), default=0) + LEGEND_HANDLE
        columns = max(1, min(self._columns, int(figure.get_figwidth() / entry)))  # a narrow figure has room for fewer
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=3.2)


def panels(figure: Figure, count: int, columns: int, **keywords: Any) -> list[Axes]:
    """`count` panels in rows of at most `columns`."""
    across = min(count, columns)
    grid = figure.subplots(math.ceil(count / across), across, squeeze=False, **keywords)
    axes: list[Axes] = list(np.ravel(grid))
    for spare in axes[count:]:
        spare.set_axis_off()
    if keywords.get("sharex"):
        for above in axes[max(0, count - across) : count]:  # a panel over a spare one has no axis below it
            above.tick_params(labelbottom=True)
    return axes[:count]


def dodge(count: int, width: float) -> list[float]:
    """Offsets that spread `count` points over `width`, so that their intervals do not cover each other."""
    return [0.0] if count == 1 else [width * (i / (count - 1) - 0.5) for i in range(count)]


def count(sizes: Sequence[int]) -> str:
    """Such as `n = 300 images`."""
    low, high = min(sizes), max(sizes)
    return f"n = {low} images" if low == high else f"n = {low} to {high} images"


def record(outcomes: Outcomes, **own: Any) -> dict[str, Any]:
    """A row of a figure's data: the classifier's keys, then the figure's own."""
    keys = {name: getattr(outcomes, name) for name in ("dataset", "classifier", "architecture", "training", "seed")}
    return keys | own


def limits(value: Interval) -> dict[str, float]:
    """A share and its interval as columns of a figure's data."""
    return {"share": value.value, "low": value.low, "high": value.high}


def errorbar(axes: Axes, place: float, value: Interval, style: Mapping[str, Any], horizontal: bool = False) -> None:
    """A share in percent with its interval, at `place` on the other axis."""
    arms = [[100 * (value.value - value.low)], [100 * (value.high - value.value)]]
    look: dict[str, Any] = {"color": style["color"], "marker": style["marker"], "markersize": 5}
    look |= {"linestyle": "none", "elinewidth": 1.3, "capsize": 2}
    if horizontal:
        axes.errorbar([100 * value.value], [place], xerr=arms, **look)
    else:
        axes.errorbar([place], [100 * value.value], yerr=arms, **look)


def extremes(data: pd.DataFrame, what: str) -> str:
    """In words: the lowest and the highest share in a figure's data, and whose they are."""
    data = data.dropna(subset=["share"])
    if data.empty:
        return f"{what}: not measured."
    rows = data.sort_values("share", kind="stable").to_dict("records")
    low, high = rows[0], rows[-1]
    return (
        f"{what}: from {100 * low['share']:.1f} % ({low['classifier']}) to {100 * high['share']:.1f} % "
        f"({high['classifier']})."
    )
