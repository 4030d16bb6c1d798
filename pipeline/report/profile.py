"""The profile of a classifier: how what is measured of each sample hangs together, and what goes with robustness."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipeline.report import statistics
from pipeline.report._associations import Across, Correlations, across, adjusted, correlations
from pipeline.report._profile_rows import is_share, joined, label, meanings, quantities
from pipeline.report.leaderboard import NUMBER
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import Cell, Table, estimate, whole, words
from pipeline.report.rendering import number
from pipeline.report.style import WIDTH, Chart, Look, canvas, ink, panels, render

__all__ = ["SECTION", "TEXT", "draw", "joined", "meanings"]

SECTION = "Profile"
TEXT = (
    "Everything that is measured of a sample stands in one row, so that it can be compared: which quantities go "
    "together, sample by sample, and which of them tell how far a sample is from being fooled. Rank correlations say "
    "what goes along with what, not what causes what."
)
TARGETS = ("smallest_l2", "smallest_linf", "smallest_l0")
COLOURS, MISSING, FAINT = "RdBu", "#ececec", "#666666"
CELL, LETTER = 0.4, 0.07  # inches: side of a cell, width of a letter
FEW = 4  # classifiers, the fewest for a correlation over them


def draw(tables: Mapping[str, pd.DataFrame], classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Correlations of all quantities, and of each with the smallest perturbation, for one data set.

    Args:
        tables: kind of measurement -> collected table.
        classifiers: of one data set.
        look: colours and markers.
        seed: of the bootstrap.
    """
    frame = joined(tables, classifiers)
    members = [o for o in classifiers if o.classifier in set(frame["classifier"])]
    names = [name for name in quantities(frame) if name != "correct"]
    # of images that are misclassified anyway the smallest perturbation is 0, whatever else they are
    inside = frame[frame["correct"] == 1] if "correct" in frame else frame
    parts = [inside[inside["classifier"] == o.classifier].set_index("sample")[names] for o in members]
    if not members or not any(len(part) for part in parts):
        return
    found = correlations(parts, statistics.stream(seed, members[0].dataset, "profile"))
    pairs = ~np.isnan(found.mean) & ~np.eye(len(names), dtype=bool)
    shown = [name for place, name in enumerate(names) if pairs[place].any()]
    if len(shown) < 2:
        return
    chosen = ", of those it classifies correctly" if "correct" in frame else ""
    yield _matrix(found, shown, members, chosen)
    target = next((name for name in TARGETS if name in shown), None)
    if target is not None:
        yield _predictors(found, [n for n in shown if n != target], target, frame, members, look, seed, chosen)


def _matrix(found: Correlations, shown: Sequence[str], members: Sequence[Outcomes], chosen: str) -> Chart:
    """Lower triangle of the correlations."""
    labels = [label(name) for name in shown]
    room = LETTER * max(map(len, labels))
    side = CELL * (len(shown) - 1)
    rows = []
    with canvas(room + side + 1.4, 0.75 * room + side + 0.8) as figure:
        (axis,) = panels(figure, 1, 1)
        values, shade = np.full((len(shown) - 1, len(shown) - 1), np.nan), mpl.colormaps[COLOURS]
        for row, one in enumerate(shown[1:]):
            for column, other in enumerate(shown[: row + 1]):
                value = found.interval(one, other)
                clear = value.low > 0 or value.high < 0
                n = int(found.n[found.columns.index(one), found.columns.index(other)])
                cell = {"first": one, "second": other, "classifiers": _defined(found, one, other), "n": n}
                rows.append(cell | {"correlation": value.value, "low": value.low, "high": value.high})
                values[row, column] = value.value if clear else np.nan
                text = "–" if math.isnan(value.value) else f"{round(value.value, 2) + 0.0:.2f}".replace("-", "−")
                text = text.replace("0.", ".")
                colour = ink(shade(0.5 + 0.5 * value.value)) if clear else FAINT
                axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
        triangle = np.ma.masked_array(values, mask=np.triu(np.ones_like(values, dtype=bool), 1))
        grey = np.ma.masked_array(np.ones_like(values), mask=triangle.mask | ~np.isnan(values))
        axis.imshow(grey, cmap=mpl.colors.ListedColormap([MISSING]), interpolation="nearest")
        image = axis.imshow(np.ma.masked_invalid(triangle), cmap=COLOURS, vmin=-1, vmax=1, interpolation="nearest")
        axis.grid(False)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        axis.set_xticks(range(len(shown) - 1), labels[:-1], rotation=40, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(shown) - 1), labels[1:])
        figure.colorbar(image, ax=axis, shrink=0.5, label="rank correlation", aspect=25)
        png, vector = render(figure)
    data = pd.DataFrame(rows)
    caption = (
        f"Spearman's rank correlations over samples on {members[0].dataset}, mean of {len(members)} classifiers (fewer "
        f"where a quantity is the same for all samples), {_counted(data)}{chosen}. Grey: the 95 % interval holds 0 "
        "(bootstrap over images, the same ones for all classifiers; for single cells, not adjusted for their number). "
        "–: no correlation. Norms and margins that were not found rank as the largest. Intervals of all cells stand in "
        "the file of numbers."
    )
    apart = data[(data["low"] > 0) | (data["high"] < 0)]
    strong = apart.reindex(apart["correlation"].abs().sort_values(ascending=False, kind="stable").index)[:5]
    alt = f"Heat map of the correlations of {len(shown)} quantities. Strongest: " + "; ".join(
        f"{label(str(r['first']))} and {label(str(r['second']))} {r['correlation']:.2f}"
        for r in strong.to_dict("records")
    )
    return Chart("profile_correlations", "What goes together", caption, alt, png, vector, data, SECTION)


def _predictors(
    found: Correlations,
    names: Sequence[str],
    target: str,
    frame: pd.DataFrame,
    members: Sequence[Outcomes],
    look: Look,
    seed: int,
    chosen: str,
) -> Chart:
    """Every quantity against the smallest perturbation: over samples, and over classifiers if there are enough."""
    place = found.columns.index(target)
    chances = adjusted({name: float(found.p[place, found.columns.index(name)]) for name in names})
    summary = summaries(frame, [*names, "correct", target], members)
    stream = statistics.stream(seed, members[0].dataset, "profile", "across")
    over = {name: across(summary[name], summary[target], stream) for name in [*names, "correct"] if name in summary}
    wide = any(not math.isnan(result.value) for result in over.values())
    listed = [*names, *(["correct"] if wide and "correct" in over else [])]
    width = WIDTH if wide else 6.0
    with canvas(width, 1.2 + look.room_of(width) + 0.24 * len(listed)) as figure:
        axes = panels(figure, 1 + wide, 2, sharey=True)
        for row, name in enumerate(listed):
            if name in names:
                _within(axes[0], row, found, name, place, members, look)
            if wide:
                _over(axes[1], row, over[name])
        for axis, title in zip(axes, ("over samples, within classifiers", "over classifiers"), strict=False):
            axis.axvline(0, color="#555555", linewidth=0.8)
            axis.set_xlim(-1.05, 1.05)
            axis.set_title(title)
            axis.set_xlabel(f"rank correlation with the {label(target)}")
        axes[0].set_yticks(range(len(listed)), [label(name) for name in listed])
        axes[0].set_ylim(len(listed) - 0.5, -0.5)
        look.legend(figure, linestyle="none")
        png, vector = render(figure)
    rows = []
    for name in listed:
        value = found.interval(name, target) if name in names else statistics.NOTHING
        n = int(found.n[place, found.columns.index(name)]) if name in names else 0
        result = over.get(name, Across(math.nan, math.nan, math.nan, 0))
        own = {"quantity": name, "target": target, "n": n, "correlation": value.value, "low": value.low}
        own |= {"high": value.high, "p_holm": chances.get(name, math.nan), "classifiers": result.n}
        rows.append(own | {"across": result.value, "across_chance": result.chance, "across_p": result.p})
    data = pd.DataFrame(rows)
    caption = (
        f"What goes along with the {label(target)} that any attack found on {members[0].dataset}: Spearman's rank "
        f"correlations. Left: over samples ({_counted(data)}{chosen}), small markers for each classifier, "
        "diamonds for their mean with its 95 % interval (bootstrap over images)."
    )
    if wide:
        caption += (
            f" Right: over only {max(r.n for r in over.values())} classifiers, of their medians (means of shares) over "
            "all samples; grey: what 95 % of the orders of the classifiers give by chance (permutations), not adjusted "
            "for the number of quantities. Architectures and trainings are mixed there."
        )
    ordered = data.dropna(subset=["correlation"]).sort_values("correlation", kind="stable").to_dict("records")
    alt = f"Dot plot of {len(listed)} quantities. " + (
        f"Over samples from {ordered[0]['correlation']:.2f} ({label(str(ordered[0]['quantity']))}) to "
        f"{ordered[-1]['correlation']:.2f} ({label(str(ordered[-1]['quantity']))})."
    )
    title = f"What goes along with the {label(target)}"
    return Chart("profile_robustness", title, caption, alt, png, vector, data, SECTION, _table(data, wide))


def _within(
    axis: Axes, row: int, found: Correlations, name: str, place: int, members: Sequence[Outcomes], look: Look
) -> None:
    column = found.columns.index(name)
    for outcomes, matrix in zip(members, found.each, strict=True):
        axis.plot(matrix[place, column], row, alpha=0.75, **(look(outcomes) | {"linestyle": "none", "markersize": 3.5}))
    mean, low, high = (float(part[place, column]) for part in (found.mean, found.low, found.high))
    arms = [[mean - low], [high - mean]]
    axis.errorbar([mean], [row], xerr=arms, fmt="D", color="black", markersize=4.5, capsize=2.5, mfc="white", zorder=3)


def _over(axis: Axes, row: int, result: Across) -> None:
    if not math.isnan(result.value):
        axis.barh(row, 2 * result.chance, left=-result.chance, height=0.5, color="#dcdcdc")
        axis.plot(result.value, row, "o", color="black", markersize=4.5, zorder=3)


def summaries(frame: pd.DataFrame, names: Sequence[str], members: Sequence[Outcomes]) -> pd.DataFrame:
    """One row per classifier: the mean of shares and the median of all else, over its samples; NaN without any."""
    rows = []
    for outcomes in members:
        mine = frame[frame["classifier"] == outcomes.classifier]
        known = {name: mine[name].dropna() for name in names if name in mine}
        rows.append({name: v.mean() if is_share(name) else v.median() for name, v in known.items()})
    return pd.DataFrame(rows)


def _table(data: pd.DataFrame, wide: bool) -> Table:
    headers = ["Quantity", "n", "Rank correlation over samples", "p, Holm"]
    headers += ["Rank correlation over classifiers", "p, permutations", "Classifiers"] if wide else []
    lines = []
    for row in data.to_dict("records"):
        value = statistics.Interval(row["correlation"], row["low"], row["high"])
        cells = [*words(label(str(row["quantity"]))), whole(row["n"]), estimate(value, NUMBER), _chance(row["p_holm"])]
        if wide:
            over = row["across"]
            cells += [Cell(number(over, NUMBER), "" if math.isnan(over) else over, numeric=True)]
            cells += [_chance(row["across_p"]), whole(row["classifiers"])]
        lines.append(cells)
    return Table(headers, lines)


def _chance(p: float) -> Cell:
    if math.isnan(p):
        return Cell("–", "", numeric=True)
    return Cell(f"{p:.3f}" if p >= 0.001 else "< 0.001", p, numeric=True)


def _defined(found: Correlations, one: str, other: str) -> int:
    """Classifiers that have a correlation of two columns."""
    values = found.each[:, found.columns.index(one), found.columns.index(other)]
    return int((~np.isnan(values)).sum())


def _counted(data: pd.DataFrame) -> str:
    """How many samples the correlations are over, each in the classifier with the fewest."""
    known = data.loc[data["n"] > 0, "n"]
    sizes = f"{known.min()} to {known.max()}" if known.min() < known.max() else str(known.min())
    return f"n = {sizes} images or more of each classifier"
