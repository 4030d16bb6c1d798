"""Figures of one suite of corruptions: accuracy against severity, by corruption and by family, and calibration."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipeline.report import statistics
from pipeline.report.corruption_measures import UNKNOWN, Errors, order
from pipeline.report.corruption_tables import views_table
from pipeline.report.outcomes import Outcomes
from pipeline.report.statistics import Interval
from pipeline.report.style import (
    CODING,
    DOTS,
    WIDTH,
    Chart,
    Look,
    beside,
    canvas,
    count,
    errorbar,
    extremes,
    ink,
    limits,
    lowest,
    panels,
    record,
    render,
    veil,
)

CELL, ROW, LETTER = 0.58, 0.23, 0.075  # inches: width and height of a cell, width of a letter
COLOURS, MISSING = "Blues", "#ececec"
LONGEST = 20  # letters of a panel's title
OVERALL = "overall"


def label(corruption: str) -> str:
    """Name of a corruption for people, without its suite."""
    return corruption.rpartition(".")[2].replace("_", " ")


def of(suite: str, suites: Sequence[str]) -> str:
    """Words that name a suite where there are several."""
    return f" of suite {suite}" if len(suites) > 1 else ""


def families(members: Sequence[Outcomes]) -> dict[str, str]:
    """Corruption -> family, as any of the classifiers has it."""
    return {name: family for o in reversed(members) for name, family in o.families.items()}


def curves(members: Sequence[Outcomes], look: Look, suite: str, name: str, what: str) -> Chart:
    """Accuracy against severity, a panel per corruption; below it every number in a table."""
    rows = []
    for outcomes in members:
        for view in outcomes.views(suite):
            correct = outcomes.corrupted[view].dropna()
            value = statistics.share(correct)
            rows.append(record(outcomes, corruption=view[0], severity=view[1], n=len(correct), **limits(value)))
        if outcomes.clean is not None and outcomes.views(suite):
            value = statistics.share(outcomes.clean["correct"])
            rows.append(record(outcomes, corruption="clean", severity=0, n=len(outcomes.clean), **limits(value)))
    data = pd.DataFrame(rows)
    known = families(members)
    names = order(known, [view for o in members for view, _ in o.views(suite)])
    across = _across(len(names))
    width = WIDTH if len(names) > 2 else 6.5
    with canvas(width, 1.0 + look.room_of(width) + 1.7 * math.ceil(len(names) / across)) as figure:
        axes = panels(figure, len(names), across, sharex=True, sharey=True)
        for axis, corruption in zip(axes, names, strict=True):
            for outcomes in members:
                mine = data[data["classifier"] == outcomes.classifier]
                mine = mine[mine["corruption"].isin([corruption, "clean"])]
                if corruption in set(mine["corruption"]):
                    _curve(axis, mine.sort_values("severity"), look(outcomes), veil(len(members)))
            axis.set_title(textwrap.fill(label(corruption), LONGEST))
        severities = sorted(set(data["severity"]))
        axes[0].set_xticks(severities, ["clean" if s == 0 else str(s) for s in severities])
        axes[0].set_ylim(max(-2, math.floor(10 * data["low"].min()) * 10 - 2), 102)
        for axis in lowest(axes, across):
            axis.set_xlabel("severity")
        look.ylabel(figure, "accuracy [%]")
        look.legend(figure, markersize=4)
        png, vector = render(figure)
    caption = (
        f"Accuracy by corruption and severity on {members[0].dataset}{what}, {count(data['n'].tolist())} a point. "
        f"Bands: 95 % Wilson intervals, each for itself. {CODING} The vertical axis need not start at 0."
    )
    worst = max(severities)
    hardest = data[(data["severity"] == worst) & (worst > 0)].groupby("corruption")["share"].mean().sort_values()
    alt = f"Line charts of accuracy against severity, one panel for each of {len(names)} corruptions. " + (
        f"At severity {worst} accuracy is on average lowest for {label(str(hardest.index[0]))} "
        f"({100 * hardest.iloc[0]:.1f} %) and highest for {label(str(hardest.index[-1]))} "
        f"({100 * hardest.iloc[-1]:.1f} %)."
    )
    table = views_table(data, names, known, label)
    data["family"] = data["corruption"].map(known)
    return Chart(name, "Accuracy by corruption and severity", caption, alt, png, vector, data, table=table)


def _across(count: int) -> int:
    """Panels in a row, three to five: so many that the fewest are spare in the last one."""
    return min((5, 4, 3), key=lambda columns: (-count % columns, -columns))


def _curve(axis: Axes, mine: pd.DataFrame, style: Mapping[str, Any], opacity: float) -> None:
    axis.plot(mine["severity"], 100 * mine["share"], **{**style, "markersize": 3.5})
    band = (100 * mine["low"], 100 * mine["high"])
    axis.fill_between(mine["severity"], *band, color=style["color"], alpha=opacity, linewidth=0)


def heat_map(found: Sequence[Errors], name: str, what: str) -> Chart:
    """Accuracy, mean over severities, corruption x classifier, grouped by family."""
    members = [errors.outcomes for errors in found]
    known = families(members)
    cells: dict[tuple[str, str, str], dict[str, Interval]] = {}
    for errors in found:
        classifier = errors.outcomes.classifier
        for corruption in errors.corruptions:
            cell = cells.setdefault((known.get(corruption, UNKNOWN), corruption, label(corruption)), {})
            cell[classifier] = errors.corruptions[corruption]
        mean = Interval(1 - errors.mean.value, 1 - errors.mean.high, 1 - errors.mean.low)
        cells.setdefault((OVERALL, "mean", "mean"), {})[classifier] = mean
        if errors.outcomes.clean is not None:
            clean = statistics.share(errors.outcomes.clean["correct"])
            cells.setdefault((OVERALL, "clean", "clean images"), {})[classifier] = clean
    names = order(known, [corruption for errors in found for corruption in errors.corruptions])
    ordered = sorted(cells, key=lambda key: (names.index(key[1]) if key[1] in names else len(names), key[1]))
    groups = [[key for key in ordered if key[0] == family] for family in dict.fromkeys(key[0] for key in ordered)]
    columns = [o.classifier for o in members]
    values = {key: [cells[key].get(c, statistics.NOTHING).value for c in columns] for key in ordered}
    low = math.floor(10 * np.nanmin([*values.values()])) / 10
    low = min(low, 0.9)
    left, foot = max(len(key[2]) for key in ordered), LETTER * 0.75 * max(map(len, columns))
    height = 0.6 + ROW * len(ordered) + 0.3 * len(groups) + foot
    with canvas(max(1.9 + CELL * len(columns) + LETTER * left, 4), height) as figure:
        heights = [len(group) for group in groups]
        axes = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        image: Any = None
        for axis, group in zip(axes, groups, strict=True):
            image = _cells(axis, np.array([values[key] for key in group]), low)
            axis.set_yticks(range(len(group)), [key[2] for key in group])
            axis.set_title(group[0][0] if group[0][0] != UNKNOWN or len(groups) > 2 else "corruptions", loc="left")
        axes[-1].set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")
        bar = figure.colorbar(image, ax=axes.tolist(), shrink=min(1, 3 / height), aspect=25, label="accuracy [%]")
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
        png, vector = render(figure)
    rows = []
    for outcomes in members:
        for key in ordered:
            value = cells[key].get(outcomes.classifier, statistics.NOTHING)
            rows.append(record(outcomes, family=key[0], corruption=key[1], **limits(value)))
    caption = (
        f"Accuracy in percent, mean over severities, on {members[0].dataset}{what}, "
        f"{count([errors.n for errors in found])} that every view has. Darker is more accurate; the colours begin at "
        f"{100 * low:.0f} %. –: not measured. 95 % intervals of all cells (bootstrap over images, all views of an "
        "image together; Wilson for clean images) stand in the file of numbers."
    )
    data = pd.DataFrame(rows)
    means = data[data["corruption"] == "mean"]
    alt = f"Heat map of {len(ordered)} rows by {len(columns)} classifiers. " + extremes(means, "Mean over corruptions")
    return Chart(name, "Accuracy by corruption", caption, alt, png, vector, data)


def _cells(axis: Axes, shares: Any, low: float) -> Any:
    colours = mpl.colormaps[COLOURS].with_extremes(bad=MISSING)
    looks: dict[str, Any] = {"cmap": colours, "vmin": low, "vmax": 1, "aspect": "auto", "interpolation": "nearest"}
    image = axis.imshow(np.ma.masked_invalid(shares), **looks)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    for (row, column), share in np.ndenumerate(shares):
        text = "–" if math.isnan(share) else f"{100 * share:.1f}"
        colour = "black" if math.isnan(share) else ink(colours((share - low) / (1 - low)))
        axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
    return image


def by_family(found: Sequence[Errors], look: Look, name: str, what: str) -> Chart | None:
    """Accuracy per family; None where there are not several."""
    members = [errors.outcomes for errors in found]
    known = families(members)
    corruptions = order(known, [corruption for errors in found for corruption in errors.corruptions])
    names = list(dict.fromkeys(known.get(corruption, UNKNOWN) for corruption in corruptions))
    if len(names) < 2:
        return None
    rows = []
    classifiers = [errors.outcomes.classifier for errors in found]
    across = _across(len(names))
    height = (0.9 + 0.22 * len(found)) * math.ceil(len(names) / across)
    with canvas(WIDTH + beside(classifiers), height) as figure:
        axes = panels(figure, len(names), across, sharex=True, sharey=True)
        for axis, family in zip(axes, names, strict=True):
            for place, errors in enumerate(found):
                value = errors.families.get(family, statistics.NOTHING)
                if not math.isnan(value.value):
                    errorbar(axis, place, value, look(errors.outcomes), horizontal=True)
                size = sum(known.get(corruption, UNKNOWN) == family for corruption in errors.corruptions)
                rows.append(record(errors.outcomes, family=family, corruptions=size, n=errors.n, **limits(value)))
            axis.set_title(f"{family} ({max(row['corruptions'] for row in rows if row['family'] == family)})")
        for axis in lowest(axes, across):
            axis.set_xlabel("accuracy [%]")
        axes[0].set_yticks(range(len(found)), classifiers)
        axes[0].set_ylim(len(found) - 0.5, -0.5)
        png, vector = render(figure)
    data = pd.DataFrame(rows)
    caption = (
        f"Accuracy by family of corruptions (in brackets: how many), mean over corruptions and severities, on "
        f"{members[0].dataset}{what}, {count(data['n'].tolist())}. Bars: 95 % intervals (bootstrap over images, all "
        f"views of an image together). {DOTS} The axis need not start at 0."
    )
    alt = f"Dot plot of accuracy for {len(names)} families and {len(members)} classifiers. " + " ".join(
        extremes(data[data["family"] == family], family) for family in names
    )
    return Chart(name, "Accuracy by family", caption, alt, png, vector, data)


def shifted_calibration(
    members: Sequence[Outcomes], found: Mapping[str, Mapping[int, Interval]], look: Look, name: str, what: str
) -> Chart | None:
    """Calibration error against severity; None where no confidence is known."""
    rows = [
        record(o, severity=severity, **limits(value))
        for o in members
        for severity, value in found[o.classifier].items()
        if not math.isnan(value.value)
    ]
    if not any(row["severity"] for row in rows):
        return None
    data = pd.DataFrame(rows)
    with canvas(6.5, 3.4 + look.room_of(6.5)) as figure:
        (axis,) = panels(figure, 1, 1)
        for outcomes in members:
            mine = data[data["classifier"] == outcomes.classifier]
            if len(mine):
                _curve(axis, mine, look(outcomes), veil(len(members)))
        severities = sorted(set(data["severity"]))
        axis.set_xticks(severities, ["clean" if s == 0 else str(s) for s in severities])
        axis.set_ylim(0, None)
        axis.set_xlabel("severity")
        axis.set_ylabel("calibration error [%]")
        look.legend(figure, markersize=4)
        png, vector = render(figure)
    sizes = [len(o.corrupted) for o in members if o.classifier in set(data["classifier"])]
    caption = (
        f"Expected calibration error (15 equal-width bins of confidence) against severity on {members[0].dataset}"
        f"{what}, {count(sizes)} a corruption: the error under each corruption, mean over corruptions. Lower is "
        "better. With few images it is biased upwards, for every classifier alike. Bands: 95 % intervals (1.96 "
        f"bootstrap standard errors over images; they do not account for the bias). {CODING}"
    )
    last = data[data["severity"] == max(severities)]
    alt = f"Line chart of calibration error against severity, {len(members)} classifiers. " + extremes(
        last, f"At severity {max(severities)}"
    )
    return Chart(name, "Calibration under corruption", caption, alt, png, vector, data)
