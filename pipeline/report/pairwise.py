"""Whether the differences behind the ranks are real: every classifier of a data set against every other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipeline.report import statistics
from pipeline.report.comparisons import MOST, Comparison, pairs
from pipeline.report.outcomes import BROUGHT, Outcomes
from pipeline.report.pagetables import Cell, Table, sort_key, whole, words
from pipeline.report.rendering import signed
from pipeline.report.statistics import Interval
from pipeline.report.style import Chart, Look, Vector, beside, canvas, ink, panels, render

SECTION = "Is the difference real?"
TEXT = (
    "Two classifiers that saw the same images are told apart by the images that one of them gets right and the other "
    "does not. Where such images are few, the higher number may be chance, and the rank is not decided: no difference "
    "shown does not mean that there is none. These intervals and tests are about other images for the same "
    "classifiers; another training seed makes another classifier."
)
COLOURS, FAINT = "Blues", "#ececec"
WIDE, HIGH, LETTER = 0.92, 0.5, 0.075  # inches: a cell, and the width of a letter


def draw(classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Differences in what the classifiers of one data set are ranked by; none where there is but one.

    Args:
        classifiers: of one data set.
        look: unused here, as a cell is about two of them.
        seed: of the bootstrap.
    """
    del look
    found = pairs(classifiers, seed)
    if not found:
        return
    order = list(dict.fromkeys(name for gap in found for name in (gap.classifier, gap.reference)))
    matrix = len(found) == len(order) * (len(order) - 1) // 2
    png, svg = _matrix(found, order) if matrix else _forest(found)
    what = _header(found[0]).removeprefix("difference in ").removesuffix(" [points]")
    real = sum(gap.adjusted < 1 - statistics.LEVEL for gap in found)
    shown = (
        "Row minus column, ordered by rank; blue and *: p < 0.05, grey: no difference shown."
        if matrix
        else f"Of more than {MOST} classifiers neighbours in rank alone are shown, the higher one minus the lower one; "
        "filled and *: p < 0.05, hollow: no difference shown."
    )
    caption = (
        f"Differences in {what} on {found[0].dataset}, in points, with 95 % intervals (Bonett and Price's, paired, "
        f"each for itself; n = {found[0].n} images that all have). "
        f"{shown} Exact McNemar tests, adjusted by Holm's method over all pairs of "
        f"the data set. {_seeds(classifiers)}"
    )
    alt = (
        f"{'Matrix' if matrix else 'Dot plot'} of {len(found)} pairs of {len(order)} classifiers, {real} of them told "
    )
    alt += "apart. " + "; ".join(
        f"{gap.classifier} and {gap.reference} {signed(gap.gap.value, gap.kind)}"
        for gap in found
        if gap.adjusted < 1 - statistics.LEVEL
    )
    title = f"Differences in {what}"
    yield Chart("pairs", title, caption, alt.strip(), png, svg, _data(found), SECTION, _table(found))


def gap_cell(gap: Interval, kind: str) -> Cell:
    """A cell with a difference and its interval."""
    return Cell(
        signed(gap.value, kind), sort_key(gap.value), f"[{signed(gap.low, kind)}, {signed(gap.high, kind)}]", True
    )


def chance(p: float) -> Cell:
    """A cell with a p-value."""
    if p != p:
        return Cell("–", "", numeric=True)
    return Cell(f"{p:.3f}" if p >= 0.001 else "< 0.001", p, numeric=True)


def _seeds(classifiers: Sequence[Outcomes]) -> str:
    kinds = [(o.architecture, o.training) for o in classifiers if o.training != BROUGHT]
    if kinds and len(set(kinds)) == len(kinds):
        return "One seed a training: nothing is known of how far other seeds would spread."
    return ""


def _matrix(found: Sequence[Comparison], order: Sequence[str]) -> tuple[bytes, Vector]:
    """Upper triangle: rows without the last, columns without the first one."""
    size = len(order) - 1
    shares, texts = np.full((size, size), np.nan), [[""] * size for _ in range(size)]
    largest = max(gap.gap.value for gap in found) or 1.0
    for gap in found:
        row, column = order.index(gap.classifier), order.index(gap.reference) - 1
        real = gap.adjusted < 1 - statistics.LEVEL
        shares[row, column] = gap.gap.value / largest if real else -1
        limits = f"[{signed(gap.gap.low, gap.kind)}, {signed(gap.gap.high, gap.kind)}]"
        texts[row][column] = f"{signed(gap.gap.value, gap.kind)}{'*' * real}\n{limits}"
    letters = LETTER * max(map(len, order))
    with canvas(0.6 + letters + WIDE * max(size, 2), 0.6 + 0.7 * letters + HIGH * size) as figure:
        (axis,) = panels(figure, 1, 1)
        # A real difference, however small beside the largest, is no shade of white.
        colours = mpl.colors.LinearSegmentedColormap.from_list("part", mpl.colormaps[COLOURS](np.linspace(0.25, 1, 64)))
        image = np.ma.masked_invalid(shares)
        axis.imshow(image, cmap=colours.with_extremes(under=FAINT, bad="white"), vmin=0, vmax=1, aspect="auto")
        for row in range(size):
            for column in range(row, size):
                colour = "black" if shares[row, column] < 0 else ink(colours(shares[row, column]))
                axis.text(column, row, texts[row][column], ha="center", va="center", color=colour, fontsize=7)
        axis.set_xticks(range(size), order[1:], rotation=40, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(size), order[:-1])
        _bare(axis)
        return render(figure)


def _forest(found: Sequence[Comparison]) -> tuple[bytes, Vector]:
    """One line per pair of neighbours."""
    names = [f"{gap.classifier} − {gap.reference}" for gap in found]
    with canvas(6.0 + beside(names), 0.9 + 0.24 * len(found)) as figure:
        (axis,) = panels(figure, 1, 1)
        for place, gap in enumerate(found):
            value, low, high = (100 * part for part in gap.gap)
            real = gap.adjusted < 1 - statistics.LEVEL
            face = "#0072B2" if real else "white"
            arms = [[value - low], [high - value]]
            axis.errorbar([value], [place], xerr=arms, fmt="o", color="#0072B2", mfc=face, markersize=5, capsize=2)
            axis.text(high, place, "  *" if real else "", va="center")
        axis.axvline(0, color="#555555", linewidth=0.8)
        axis.set_yticks(range(len(found)), names)
        axis.set_ylim(len(found) - 0.5, -0.5)
        axis.set_xlabel(_header(found[0]))
        return render(figure)


def _header(gap: Comparison) -> str:
    return f"difference in {gap.measure[0].lower()}{gap.measure[1:]}".replace("[%]", "[points]")


def _bare(axis: Axes) -> None:
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def _data(found: Sequence[Comparison]) -> pd.DataFrame:
    rows = []
    for gap in found:
        keys: dict[str, Any] = {
            "dataset": gap.dataset,
            "classifier": gap.classifier,
            "other": gap.reference,
            "measure": gap.measure,
        }
        own = {"n": gap.n, "difference": gap.gap.value, "low": gap.gap.low, "high": gap.gap.high}
        rows.append({**keys, **own, "p": gap.p, "p_holm": gap.adjusted})
    return pd.DataFrame(rows)


def _table(found: Sequence[Comparison]) -> Table:
    difference = _header(found[0])
    headers = ("Classifier", "Against", difference[0].upper() + difference[1:], "n", "p", "p, Holm", "Reading")
    rows = [
        [
            *words(gap.classifier, gap.reference),
            gap_cell(gap.gap, gap.kind),
            whole(gap.n),
            chance(gap.p),
            chance(gap.adjusted),
            *words(gap.verdict),
        ]
        for gap in found
    ]
    return Table(headers, rows)
