"""Maps of the margin over blocks of vertical and horizontal frequencies, a panel per classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from pipeline.report import statistics
from pipeline.report.blocks import Blocks, names_of
from pipeline.report.heatmap import COLOURS, MISSING
from pipeline.report.leaderboard import NUMBER
from pipeline.report.pagetables import Table, estimate, whole, words
from pipeline.report.scales import in_a_row, ticks
from pipeline.report.statistics import Interval
from pipeline.report.style import Chart, canvas, count, ink, panels, record, render, wrapped

CELL, WIDEST, LETTER = 0.36, 4.3, 0.08  # inches: width of a cell, of a panel, of a letter


def draw(maps: Sequence[Blocks], name: str, section: str, seed: int) -> Chart:
    """Median margin per block of one measurement, of the classifiers of one data set.

    Args:
        maps: not empty, with the same blocks.
        name: of the chart.
        section: of the page.
        seed: of the bootstrap.
    """
    rows = sorted({row for row, _ in maps[0].starts})
    columns = sorted({column for _, column in maps[0].starts})
    data = pd.DataFrame([line for blocks in maps for line in _records(blocks, seed)])
    across = in_a_row(len(maps))
    width = min(WIDEST, 0.75 + max(CELL * len(columns), 1.6))
    high = 0.75 + max(0.3 * len(rows), 1.3)
    with canvas(max(5.5, 0.6 + width * across), 0.4 + high * math.ceil(len(maps) / across)) as figure:
        axes = panels(figure, len(maps), across, sharex=True, sharey=True)
        norm = _scale(data["median"].to_numpy(dtype=float))
        for axis, blocks in zip(axes, maps, strict=True):
            mine = data[data["classifier"] == blocks.outcomes.classifier]
            values = mine.pivot_table(index="row", columns="column", values="median", aggfunc="first")
            _panel(axis, values.reindex(index=rows, columns=columns).to_numpy(dtype=float), norm)
            axis.set_title(wrapped(blocks.outcomes.classifier, int((width - 0.4) / LETTER)))
            axis.set_xticks(range(len(columns)), [str(column) for column in columns])
            axis.set_yticks(range(len(rows)), [str(row) for row in rows])
        figure.supxlabel("first horizontal frequency of the block", fontsize=9)
        figure.supylabel("first vertical frequency of the block", fontsize=9)
        shade = mpl.cm.ScalarMappable(norm, COLOURS)
        bar = figure.colorbar(shade, ax=axes, label="median ℓ₂ margin [pixel range = 1]", fraction=0.04, pad=0.02)
        ticks(bar.ax.yaxis, float(norm.vmin or 1), float(norm.vmax or 1))
        bar.outline.set_visible(False)
        png, vector = render(figure)
    first = maps[0]
    caption = (
        f"Median ℓ₂ margin per block of DCT frequencies on {first.outcomes.dataset} (measurement {first.measurement}), "
        f"{count([len(blocks.margins) for blocks in maps])} (those classified correctly). Lowest frequencies top left; "
        "the diagonal is what curves along frequencies show. The colour scale is logarithmic and the same in all "
        "panels; ∞: no boundary was found for half of the images. 95 % bootstrap intervals of all blocks stand in the "
        "file of numbers, those of the corners in the table."
    )
    ends = [f"{b.outcomes.classifier} {data_of(data, b).min():.3g} to {data_of(data, b).max():.3g}" for b in maps]
    alt = f"Heat maps of the median margin in {len(first.starts)} blocks. Smallest and largest: {'; '.join(ends)}."
    title = "Margins over vertical and horizontal frequencies"
    return Chart(name, title, caption, alt, png, vector, data, section, _table(maps, data))


def data_of(data: pd.DataFrame, blocks: Blocks) -> pd.Series[Any]:
    """Medians of one classifier."""
    return data.loc[data["classifier"] == blocks.outcomes.classifier, "median"]


def _records(blocks: Blocks, seed: int) -> list[dict[str, Any]]:
    lines = []
    for place, (row, column) in enumerate(blocks.starts):
        values = blocks.margins.iloc[:, place].to_numpy(dtype=float)
        stream = statistics.stream(seed, *names_of(blocks), "map", str(row), str(column))
        value = statistics.bootstrap(values, statistics.median, seed=stream)
        own = {"row": row, "column": column, "n": len(values), "median": value.value}
        lines.append(record(blocks.outcomes, **own, low=value.low, high=value.high))
    return lines


def _scale(values: NDArray[Any]) -> LogNorm:
    values = values[np.isfinite(values) & (values > 0)]
    low, high = (float(values.min()), float(values.max())) if values.size else (1.0, 1.0)
    return LogNorm(low, high if high > low else 2 * low)


def _panel(axis: Axes, values: NDArray[Any], norm: LogNorm) -> None:
    colours = mpl.colormaps[COLOURS].with_extremes(bad=MISSING)
    assert norm.vmax is not None
    shown = np.ma.masked_invalid(np.where(np.isinf(values), norm.vmax, values))
    axis.imshow(shown, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    size = 8 if values.shape[1] < 6 else 7
    for row, column in np.ndindex(values.shape):
        value = float(values[row, column])
        shade = "black" if math.isnan(value) else ink(colours(norm(min(value, norm.vmax))))
        axis.text(column, row, _text(value), ha="center", va="center", color=shade, fontsize=size)


def _text(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.0f}" if value >= 10 else f"{value:#.2g}".rstrip(".")


def _table(maps: Sequence[Blocks], data: pd.DataFrame) -> Table:
    starts = maps[0].starts
    low, bottom, right = min(starts), max(row for row, _ in starts), max(column for _, column in starts)
    corners = (low, (low[0], right), (bottom, low[1]), (bottom, right))
    headers = ("Classifier", "n", "Lowest block", "Highest horizontal", "Highest vertical", "Highest block")
    lines = []
    for blocks in maps:
        mine = data[data["classifier"] == blocks.outcomes.classifier].set_index(["row", "column"])
        values = [Interval(*mine.loc[corner, ["median", "low", "high"]]) for corner in corners if corner in mine.index]
        numbers = [estimate(value, NUMBER) for value in values]
        lines.append([*words(blocks.outcomes.classifier), whole(len(blocks.margins)), *numbers])
    return Table(headers, lines)
