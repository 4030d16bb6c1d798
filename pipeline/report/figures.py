"""The first figures of one data set: overview, all measures, corruptions, curves, attacks side by side, transfer."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.report import corruptions, curves, envelope, profile_plot, sparse, tradeoff, transfer
from pipeline.report.leaderboard import CLEAN, CORRUPTED, WORST, Board, Column, slug
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval
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
)


def draw(
    classifiers: Sequence[Outcomes],
    board: Board,
    everyone: Sequence[Outcomes],
    seed: int = 0,
    seconds: Mapping[sparse.Job, float] | None = None,
    config: Mapping[str, Any] | None = None,
    further: Sequence[Board] = (),
) -> Iterator[Chart]:
    """All figures of one data set that accuracy, perturbations, margins and transfer allow.

    Args:
        classifiers: of one data set.
        board: the leaderboard, of any data sets.
        everyone: the classifiers of all data sets, so that colours agree between them.
        seed: of the bootstrap.
        seconds: that the jobs of attacks took, where they are known.
        config: says what errors under corruption are divided by.
        further: leaderboards whose numbers stand beside those of the first, such as that of geometry.
    """
    look = Look(classifiers, everyone)
    table = board.table[board.table["dataset"] == classifiers[0].dataset]
    if any(table[column.name].notna().any() for column in _shown(board)):
        yield _overview(classifiers, board, look)
    both = tradeoff.draw(classifiers, board, look), profile_plot.draw(classifiers, [board, *further], look)
    yield from (chart for chart in both if chart is not None)
    yield from corruptions.draw(classifiers, board.errors, look, seed, config)
    if any(o.norms for o in classifiers):
        yield curves.security(classifiers, look)
    names = sorted({name for o in classifiers for name in o.margins if not o.margins[name].empty})
    for name in names:
        yield curves.margins(classifiers, look, name, "margins" if len(names) == 1 else f"margins_{slug(name)}")
    yield from envelope.draw(classifiers, seed)
    yield from sparse.draw(classifiers, seed, seconds)
    yield from transfer.draw(classifiers)


def _shown(board: Board) -> list[Column]:
    """The columns of the overview: accuracy on clean images, on each suite of corruptions, in the worst case."""
    return [c for c in board.columns if c.name in (CLEAN.name, WORST.name) or c.name.startswith(CORRUPTED.name)]


def _overview(classifiers: Sequence[Outcomes], board: Board, look: Look) -> Chart:
    table = board.table[board.table["dataset"] == classifiers[0].dataset]
    columns = _shown(board)
    by_name = {o.classifier: o for o in classifiers}
    rows = []
    across = 3 if len(columns) < 4 else 4
    names = table["classifier"].tolist()
    with canvas(WIDTH + beside(names), (1.3 + 0.3 * len(table)) * math.ceil(len(columns) / across)) as figure:
        axes = panels(figure, len(columns), across, sharey=True)
        for axis, column in zip(axes, columns, strict=True):
            for place, row in enumerate(table.to_dict("records")):
                value = Interval(*(row[column.name + tail] for tail in ("", "_low", "_high")))
                outcomes = by_name[str(row["classifier"])]
                rows.append(record(outcomes, measure=column.name, **limits(value)))
                if not math.isnan(value.value):
                    style = look(outcomes)
                    errorbar(axis, place, value, style, horizontal=True)
            axis.set_title(textwrap.fill(column.header.removesuffix(" [%]"), 30))
            axis.set_xlabel("share of images [%]")
            axis.set_xlim(-3, 103)
        axes[0].set_yticks(range(len(table)), names)
        axes[0].set_ylim(len(table) - 0.5, -0.5)
        png, vector = render(figure)
    data = pd.DataFrame(rows)
    caption = (
        f"Overview of {classifiers[0].dataset}, {count(table['n'].dropna().tolist())}. Points: estimates; bars: 95 % "
        f"intervals (Wilson for clean and robust accuracy, bootstrap over images for corrupted accuracy). {DOTS} "
        "Best rank first."
    )
    alt = f"Dot plot with intervals for {len(table)} classifiers. " + " ".join(
        extremes(data[data["measure"] == column.name], column.header.removesuffix(" [%]")) for column in columns
    )
    return Chart("overview", "Overview", caption, alt, png, vector, data)
