"""The first figures of one data set: overview, accuracy under corruption, curves, attacks side by side, transfer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from pipeline.report import curves, envelope, sparse, statistics, transfer
from pipeline.report.leaderboard import CLEAN, CORRUPTED, WORST, Board, slug
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval
from pipeline.report.style import (
    CODING,
    WIDTH,
    Chart,
    Look,
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
) -> Iterator[Chart]:
    """All figures of one data set that accuracy, perturbations, margins and transfer allow.

    Args:
        classifiers: of one data set.
        board: the leaderboard, of any data sets.
        everyone: the classifiers of all data sets, so that colours agree between them.
        seed: of the bootstrap.
        seconds: that the jobs of attacks took, where they are known.
    """
    look = Look(classifiers, everyone)
    table = board.table[board.table["dataset"] == classifiers[0].dataset]
    if any(column.name in table and table[column.name].notna().any() for column in (CLEAN, CORRUPTED, WORST)):
        yield _overview(classifiers, board, look)
    if any(not o.corrupted.empty for o in classifiers):
        yield _corruptions(classifiers, look)
    if any(o.norms for o in classifiers):
        yield curves.security(classifiers, look)
    names = sorted({name for o in classifiers for name in o.margins if not o.margins[name].empty})
    for name in names:
        yield curves.margins(classifiers, look, name, "margins" if len(names) == 1 else f"margins_{slug(name)}")
    yield from envelope.draw(classifiers, seed)
    yield from sparse.draw(classifiers, seed, seconds)
    yield from transfer.draw(classifiers)


def _overview(classifiers: Sequence[Outcomes], board: Board, look: Look) -> Chart:
    table = board.table[board.table["dataset"] == classifiers[0].dataset]
    columns = [column for column in (CLEAN, CORRUPTED, WORST) if column.name in table]
    by_name = {o.classifier: o for o in classifiers}
    rows = []
    with canvas(WIDTH, 1.3 + 0.3 * len(table)) as figure:
        axes = panels(figure, len(columns), 3, sharey=True)
        for axis, column in zip(axes, columns, strict=True):
            for place, row in enumerate(table.to_dict("records")):
                value = Interval(*(row[column.name + tail] for tail in ("", "_low", "_high")))
                outcomes = by_name[str(row["classifier"])]
                rows.append(record(outcomes, measure=column.name, **limits(value)))
                if not math.isnan(value.value):
                    style = look(outcomes)
                    errorbar(axis, place, value, style, horizontal=True)
            axis.set_title(column.header.removesuffix(" [%]"))
            axis.set_xlabel("share of images [%]")
            axis.set_xlim(-3, 103)
        axes[0].set_yticks(range(len(table)), table["classifier"].tolist())
        axes[0].set_ylim(len(table) - 0.5, -0.5)
        png, svg = render(figure)
    data = pd.DataFrame(rows)
    caption = (
        f"Overview of {classifiers[0].dataset}, {count(table['n'].dropna().tolist())}. Points: estimates; bars: 95 % "
        "intervals (Wilson for clean and robust accuracy, bootstrap over images for corrupted accuracy). Colour stands "
        "for the training, marker for the architecture. Best rank first."
    )
    alt = f"Dot plot with intervals for {len(table)} classifiers. " + " ".join(
        extremes(data[data["measure"] == column.name], column.header.removesuffix(" [%]")) for column in columns
    )
    return Chart("overview", "Overview", caption, alt, png, svg, data)


def _corruptions(classifiers: Sequence[Outcomes], look: Look) -> Chart:
    rows = []
    for outcomes in classifiers:
        for view in outcomes.corrupted.columns:
            correct = outcomes.corrupted[view].dropna()
            value = statistics.share(correct)
            rows.append(record(outcomes, corruption=view[0], severity=view[1], n=len(correct), **limits(value)))
        if outcomes.clean is not None:
            value = statistics.share(outcomes.clean["correct"])
            rows.append(record(outcomes, corruption="clean", severity=0, n=len(outcomes.clean), **limits(value)))
    data = pd.DataFrame(rows)
    names = sorted(set(data["corruption"]) - {"clean"})
    with canvas(WIDTH, 1.0 + look.room + 1.9 * math.ceil(len(names) / 4)) as figure:
        axes = panels(figure, len(names), 4, sharex=True, sharey=True)
        for axis, name in zip(axes, names, strict=True):
            for outcomes in classifiers:
                mine = data[(data["classifier"] == outcomes.classifier) & data["corruption"].isin([name, "clean"])]
                mine = mine.sort_values("severity")
                style = look(outcomes)
                axis.plot(mine["severity"], 100 * mine["share"], markersize=3, **style)
                axis.fill_between(
                    mine["severity"],
                    100 * mine["low"],
                    100 * mine["high"],
                    color=style["color"],
                    alpha=0.1,
                    linewidth=0,
                )
            axis.set_title(name)
        severities = sorted(set(data["severity"]))
        axes[0].set_xticks(severities, ["clean" if s == 0 else str(s) for s in severities])
        axes[0].set_ylim(max(-2, math.floor(10 * data["low"].min()) * 10 - 2), 102)
        for axis in axes[-4:]:
            axis.set_xlabel("severity")
        look.ylabel(figure, "accuracy [%]")
        look.legend(figure, markersize=4)
        png, svg = render(figure)
    caption = (
        f"Accuracy by corruption and severity on {classifiers[0].dataset}, {count(data['n'].tolist())} a point. "
        f"Bands: 95 % Wilson intervals. {CODING} The vertical axis need not start at 0."
    )
    hardest = data[data["severity"] == max(severities)].groupby("corruption")["share"].mean().sort_values()
    alt = (
        f"Line charts of accuracy against severity, one panel for each of {len(names)} corruptions. At severity "
        f"{max(severities)} accuracy is on average lowest for {hardest.index[0]} ({100 * hardest.iloc[0]:.1f} %) and "
        f"highest for {hardest.index[-1]} ({100 * hardest.iloc[-1]:.1f} %)."
    )
    return Chart("corruptions", "Accuracy by corruption and severity", caption, alt, png, svg, data)
