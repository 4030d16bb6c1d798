"""Heat maps of shares with a text in every cell; they grow with their rows and columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from pipeline.report.style import canvas, ink

COLOURS, MISSING = "Blues", "#ececec"
CELL, LETTER, NARROWEST = 0.58, 0.075, 3.5  # inches: side of a cell, width of a letter, of a figure


class Grid(NamedTuple):
    """A heat map.

    Attributes:
        title: above it.
        rows: names of the rows.
        columns: names of the columns.
        shares: (rows, columns), 0 to 1, which the colour shows; NaN: nothing to show.
        texts: of the cells, row by row.
        framed: (row, column) of cells that show something else than the others.
    """

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    shares: NDArray[Any]
    texts: Sequence[Sequence[str]]
    framed: Sequence[tuple[int, int]] = ()


@contextmanager
def drawn(grids: Sequence[Grid], row_label: str = "", column_label: str = "", height: float = CELL) -> Iterator[Figure]:
    """A figure of heat maps with the same columns, one below the other; render it inside.

    Args:
        grids: not empty.
        row_label: of the vertical axis.
        column_label: of the horizontal axis.
        height: of a row, in inches.
    """
    columns = grids[0].columns
    left = max(len(name) for grid in grids for name in grid.rows)
    foot = 0.75 * max(map(len, columns))
    heights = [len(grid.rows) for grid in grids]
    # a title, which begins beside the names of the rows, may be longer than a narrow map
    title = max(len(grid.title) for grid in grids)
    width = max(NARROWEST, LETTER * left + max(1 + CELL * len(columns), 0.6 + LETTER * title))
    with canvas(width, 0.7 + height * sum(heights) + 0.35 * len(grids) + LETTER * foot) as figure:
        axes = figure.subplots(len(grids), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for axis, grid in zip(axes, grids, strict=True):
            _draw(axis, grid)
            axis.set_ylabel(row_label)
        axes[-1].set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
        axes[-1].set_xlabel(column_label)
        yield figure


def _draw(axis: Axes, grid: Grid) -> None:
    colours = mpl.colormaps[COLOURS].with_extremes(bad=MISSING)
    axis.imshow(np.ma.masked_invalid(grid.shares), cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    axis.set_title(grid.title, loc="left")
    axis.set_yticks(range(len(grid.rows)), grid.rows)
    for row, texts in enumerate(grid.texts):
        for column, text in enumerate(texts):
            share = grid.shares[row, column]
            colour = "black" if np.isnan(share) else ink(colours(share))
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=8, linespacing=1.1)
    for row, column in grid.framed:
        box = Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="#D55E00", linewidth=1.2)
        axis.add_patch(box)
