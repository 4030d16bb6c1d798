"""One look for all figures: colour stands for the training, line style for the architecture, the marker for both."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.report.classes import Named
from pipeline.report.outcomes import REFERENCE, Outcomes
from pipeline.report.pagetables import Table
from pipeline.report.statistics import Interval

# Okabe and Ito's colours, apart for all common kinds of colour vision; yellow last, as it is faint on white.
# Black is for standard training. The second half serves runs with more than eight trainings: told apart by most.
COLOURS: tuple[str, ...] = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
COLOURS += ("#8A8A8A", "#7A3B12", "#5E3C99", "#9ACD32", "#0B4F4A", "#E0218A", "#1F2A6B", "#C2A36B")
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p", "h")
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
    "figure.constrained_layout.w_pad": 0.06,  # inches; layouts look after labels of ticks but for half their width
    "svg.hashsalt": "boundary-atlas",
    "svg.fonttype": "path",  # letters as outlines: the page's reader need not have the font
    "pdf.fonttype": 42,  # TrueType, embedded: text that can be searched, as publishers ask for
    "text.parse_math": False,  # ids are the user's; a $ in one is no formula
}
WIDTH = 9.0
DPI = 160
LEGEND_LETTER, LEGEND_HANDLE = 0.066, 0.75  # inches of an entry of a legend: a letter, and the sample with its gaps
LEGEND_ROW, LEGEND_ROWS = 0.19, 3  # inches; rows of a legend for which every figure has room
SHORT = 22  # letters of an id for which every figure has room
UNDER, OVER = 0.55, 0.25  # inches below panels and legend apart, for labels and margins; above panels, for titles
DARKEST = 0.179  # relative luminance below which white letters have more contrast than black ones (WCAG 2)
CODING = "Colour stands for the training, line style for the architecture, the marker for both; seeds look alike."
DOTS = "Colour stands for the training, the marker for training and architecture."


class Vector(NamedTuple):
    """A drawing that keeps its sharpness at any size.

    Attributes:
        svg: for the web, with letters as outlines.
        pdf: for LaTeX, with its fonts embedded.
    """

    svg: bytes
    pdf: bytes


class Chart(NamedTuple):
    """A finished figure.

    Attributes:
        name: of its files, without suffix.
        title: short heading.
        caption: what is shown, of how many images, and what the intervals are.
        alt: the same for those who do not see it.
        png: PNG file.
        vector: SVG and PDF file.
        data: the numbers shown.
        section: of the page, if it does not stand among the figures of its data set.
        table: shown below the figure, if there is one.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    vector: Vector
    data: pd.DataFrame
    section: str = ""
    table: Table | None = None

    @property
    def svg(self) -> bytes:
        """SVG file."""
        return self.vector.svg

    @property
    def pdf(self) -> bytes:
        """PDF file."""
        return self.vector.pdf


@contextmanager
def canvas(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Iterator[Figure]:
    """A figure of that many inches in the common style; draw and `render` it inside."""
    with mpl.rc_context(PARAMETERS):
        figure = Figure(figsize=(width, height), layout=layout)
        FigureCanvasAgg(figure)
        yield figure


def render(figure: Figure) -> tuple[bytes, Vector]:
    """The figure as PNG and as vector drawing, without time stamps: equal figures give equal bytes."""
    png, svg, pdf = io.BytesIO(), io.BytesIO(), io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    figure.set_layout_engine("none")  # the layout found for the first file serves the others
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return png.getvalue(), Vector(svg.getvalue(), pdf.getvalue())


def ink(shade: Any) -> str:
    """Black or white, whichever is easier to read on a colour: by contrast as WCAG 2 defines it."""
    parts = np.asarray(to_rgb(shade))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return "white" if float(linear @ (0.2126, 0.7152, 0.0722)) < DARKEST else "black"


class Look:
    """Colours, line styles and markers of a set of classifiers; they repeat when there are more than the lists hold."""

    def __init__(self, shown: Sequence[Outcomes], everyone: Sequence[Outcomes], named: Named = str) -> None:
        """The legend names those `shown`; `everyone` fixes the looks, so that they agree between data sets.

        `named` says what a class is called.
        """
        self.named = named
        self.styles = list(dict.fromkeys(outcomes.style for outcomes in shown))
        others = [outcomes.style for outcomes in everyone if outcomes.training != REFERENCE]
        self.trainings = list(dict.fromkeys([REFERENCE, *(training for training, _ in others)]))
        self.architectures = list(dict.fromkeys(outcomes.architecture for outcomes in everyone))

    def __call__(self, outcomes: Outcomes) -> dict[str, Any]:
        """Keywords of `Axes.plot` for a classifier."""
        return self._keywords(*outcomes.style)

    def _keywords(self, training: str, architecture: str) -> dict[str, Any]:
        colour, line = self.trainings.index(training), self.architectures.index(architecture)
        return {
            "color": COLOURS[colour % len(COLOURS)],
            "linestyle": LINES[line % len(LINES)],
            # a marker for each pair, so that no two curves of a panel differ in colour alone
            "marker": MARKERS[(line * len(self.trainings) + colour) % len(MARKERS)],
        }

    def _columns(self, width: float) -> int:
        """Of the legend below a figure of that many inches."""
        # Entries run down the columns, so as many rows as trainings give a column per architecture.
        columns = len(self.architectures) if len(self.styles) > 4 and len(self.architectures) < 5 else 4
        entry = LEGEND_LETTER * max(map(len, self._labels), default=0) + LEGEND_HANDLE
        return max(1, min(columns, len(self.styles), int(width / entry)))  # a narrow figure has room for fewer

    @property
    def _labels(self) -> list[str]:
        return [f"{architecture}, {training}" for training, architecture in self.styles]

    def room_of(self, width: float) -> float:
        """Inches by which a figure of that width grows, lest a long legend leave its panels no height."""
        return LEGEND_ROW * max(0, math.ceil(len(self.styles) / self._columns(width)) - LEGEND_ROWS)

    @property
    def room(self) -> float:
        """Inches by which a figure of the common width grows."""
        return self.room_of(WIDTH)

    def ylabel(self, figure: Figure, text: str) -> None:
        """A label beside the middle of all panels, above their labels and the legend and below their titles."""
        rows = math.ceil(len(self.styles) / self._columns(figure.get_figwidth()))
        below, above = LEGEND_ROW * rows + UNDER, OVER
        figure.supylabel(text, fontsize=9, y=0.5 + 0.5 * (below - above) / figure.get_figheight())

    def legend(self, figure: Figure, **keywords: Any) -> None:
        """A legend of all styles below the panels; the figure's height has to include its `room`."""
        handles = [Line2D([], [], **(self._keywords(*style) | keywords)) for style in self.styles]
        columns = self._columns(figure.get_figwidth())
        figure.legend(handles, self._labels, loc="outside lower center", ncols=columns, handlelength=3.2)


def panels(figure: Figure, count: int, columns: int, **keywords: Any) -> list[Axes]:
    """`count` panels in rows of at most `columns`."""
    across = min(count, columns)
    grid = figure.subplots(math.ceil(count / across), across, squeeze=False, **keywords)
    axes: list[Axes] = list(np.ravel(grid))
    for spare in axes[count:]:
        spare.set_axis_off()
    if keywords.get("sharex"):
        for above in lowest(axes[:count], across):
            above.tick_params(labelbottom=True)
    return axes[:count]


def lowest(axes: Sequence[Axes], columns: int) -> Sequence[Axes]:
    """Panels that need labels below them: the last row, and the one above where a panel of it has none below."""
    return axes[columns * max(0, len(axes) // columns - 1) :]


def beside(names: Sequence[str]) -> float:
    """Inches by which a figure grows, lest long ids beside its panels leave them no width."""
    return LEGEND_LETTER * max(0, max(map(len, names), default=0) - SHORT)


def wrapped(name: str, letters: int) -> str:
    """An id in lines of at most that many letters, broken after hyphens and underscores where it can be."""
    lines = [""]
    for part in re.findall(r"^[_-]+|[^_-]+[_-]*", name):
        if lines[-1] and len(lines[-1] + part.rstrip("_-")) > letters:
            lines.append("")
        lines[-1] += part
        while len(lines[-1].rstrip("_-")) > letters:
            lines[-1:] = [lines[-1][:letters], lines[-1][letters:]]
    return "\n".join(lines)


def veil(count: int) -> float:
    """Opacity of bands of so many curves: the more, the fainter, so that they do not hide each other."""
    return min(0.1, 0.6 / count)


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
