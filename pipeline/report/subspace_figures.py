"""Figures of margins in subspaces: a panel per data set, and against the size of a second feature."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from pipeline.report.claims import CLAIMS
from pipeline.report.leaderboard import NUMBER, slug
from pipeline.report.pagetables import Table, estimate, whole, words
from pipeline.report.rendering import number
from pipeline.report.scales import in_a_row, logarithmic, points
from pipeline.report.statistics import Interval
from pipeline.report.style import CODING, DOTS, WIDTH, Chart, Look, canvas, count, dodge, panels, record, render
from pipeline.report.subspaces import COMPLEMENT, FIRST, SECOND, Subspaces, Synthetic

KINDS = {  # (kind, number) -> on the axis, in words
    FIRST: ("feature", "along the direction that tells the classes apart"),
    SECOND: ("second feature", "along the second feature"),
    COMPLEMENT: ("orthogonal", "in random subspaces orthogonal to it"),
    ("random", 0): ("random", "in random subspaces"),
    ("given", 0): ("given", "in the given subspace"),
}
INTERVALS = "Bars: 95 % bootstrap intervals over samples, a triangle at the edge: an infinite median."
GREY = "#767676"
TILT: Any = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
Medians = Mapping[tuple[str, int], tuple[Interval, int]]


def margins(shown: Sequence[Subspaces], known: Mapping[str, Synthetic], look: Look, section: str, seed: int) -> Chart:
    """Median margin per kind of subspace, a panel per data set.

    Args:
        shown: of one measurement, not empty.
        known: features of the synthetic data sets.
        look: colours and markers.
        section: of the page.
        seed: of the bootstrap.
    """
    datasets = list(dict.fromkeys(s.outcomes.dataset for s in shown))
    kinds = [kind for kind in KINDS if any(kind in s.margins for s in shown)]
    found = {s: {kind: s.median(kind, seed) for kind in kinds if kind in s.margins} for s in shown}
    sizes = [known[dataset].epsilon for dataset in datasets if dataset in known]
    across = in_a_row(len(datasets))
    width = max(5.5, WIDTH * across / 3)
    height = 0.9 + look.room_of(width) + 2.7 * math.ceil(len(datasets) / across)
    with canvas(width, height) as figure:
        axes = panels(figure, len(datasets), across, sharex=True, sharey=True)
        logarithmic(axes[0], [*sizes, *(end for medians in found.values() for v, _ in medians.values() for end in v)])
        for axis, dataset in zip(axes, datasets, strict=True):
            mine = [s for s in shown if s.outcomes.dataset == dataset]
            for s, shift in zip(mine, dodge(len(mine), min(0.5, 0.1 * len(mine))), strict=True):
                places = [place + shift for place, kind in enumerate(kinds) if kind in found[s]]
                style = look(s.outcomes) | {"linestyle": "none", "markersize": 5}
                points(axis, places, [found[s][kind][0] for kind in kinds if kind in found[s]], style)
            axis.set_title(dataset)
            axis.set_xticks(range(len(kinds)), [KINDS[kind][0] for kind in kinds], **TILT)
            axis.set_xlim(-0.5, len(kinds) - 0.5)
            if dataset in known:
                _mark(axis, known[dataset].epsilon)
        look.ylabel(figure, "median ℓ₂ margin")
        look.legend(figure, linestyle="none", markersize=5)
        png, vector = render(figure)
    measurement = shown[0].measurement
    data = pd.DataFrame([line for s in shown for line in _records(s, found[s], known)])
    words_of = ", ".join(f"{KINDS[kind][1]} ({_dimensions(shown, kind)})" for kind in kinds)
    claim = f"Claims: {CLAIMS['discriminative'][1]}. {CLAIMS['orthogonal'][1]}. " if FIRST in kinds else ""
    dashed = "Dashed: epsilon, the distance of the data from the plane between the classes. " if sizes else ""
    caption = (
        f"{claim}Median ℓ₂ margin {words_of}; {measurement}, {_samples(found)} (those classified correctly). The axis "
        f"of margins, in units of the data, is logarithmic. {dashed}{INTERVALS} {DOTS}"
    )
    title = "Margins in subspaces" if FIRST not in kinds else "Margins along and orthogonal to the feature"
    alt = f"{title}, {', '.join(datasets)}. " + "; ".join(
        f"{s.outcomes.dataset}, {s.outcomes.classifier}: "
        + ", ".join(f"{KINDS[kind][0]} {number(v.value, NUMBER)}" for kind, (v, _) in found[s].items())
        for s in shown
    )
    table = _table(shown, kinds, found)
    return Chart(f"subspaces_{slug(measurement)}", title, caption, alt, png, vector, data, section, table)


def elasticity(
    shown: Sequence[Subspaces], known: Mapping[str, Synthetic], look: Look, section: str, seed: int
) -> Chart:
    """Median margin along the second feature against its size, of data sets that differ in it alone.

    Args:
        shown: of one measurement; at least one of the data sets has a second feature.
        known: features of the data sets.
        look: colours and markers.
        section: of the page.
        seed: of the bootstrap.
    """
    shown = sorted(shown, key=lambda s: known[s.outcomes.dataset].rho)
    sizes = sorted({known[s.outcomes.dataset].rho for s in shown})
    epsilon = known[shown[0].outcomes.dataset].epsilon
    kinds = (SECOND, COMPLEMENT)
    found = {s: {kind: s.median(kind, seed) for kind in kinds if kind in s.margins} for s in shown}
    widest = [(place, (epsilon**2 + rho**2) / rho) for place, rho in enumerate(sizes) if rho]
    own = [(place, rho) for place, rho in enumerate(sizes) if rho]
    names = list(dict.fromkeys(s.outcomes.classifier for s in shown))
    with canvas(6.5, 4.6 + look.room_of(6.5)) as figure:
        axis = panels(figure, 1, 1)[0]
        ends = [end for medians in found.values() for v, _ in medians.values() for end in v]
        logarithmic(axis, [*ends, *(value for _, value in (*widest, *own))])
        axis.plot(*zip(*own, strict=True), color=GREY, linestyle="--", label="size of the second feature")
        axis.plot(*zip(*widest, strict=True), color=GREY, linestyle=":", label="linear classifier of widest margin")
        for name, shift in zip(names, dodge(len(names), 0.25), strict=True):
            mine = [s for s in shown if s.outcomes.classifier == name]
            style = look(mine[0].outcomes) | {"markersize": 5}
            for kind, open_ in ((SECOND, {}), (COMPLEMENT, {"markerfacecolor": "white", "linewidth": 0.8})):
                have = [s for s in mine if kind in found[s]]
                places = [sizes.index(known[s.outcomes.dataset].rho) + shift for s in have]
                points(axis, places, [found[s][kind][0] for s in have], style | open_)
        axis.set_xticks(range(len(sizes)), [f"{rho:g}" for rho in sizes])
        axis.set_xlabel("size of the second feature (rho)")
        axis.set_ylabel("median ℓ₂ margin")
        axis.legend(loc="best")
        look.legend(figure, markersize=5)
        png, vector = render(figure)
    datasets = list(dict.fromkeys(s.outcomes.dataset for s in shown))
    data = pd.DataFrame([line for s in shown for line in _records(s, found[s], known)])
    caption = (
        f"Claim: {CLAIMS['elasticity'][1]}. Filled: median ℓ₂ margin along the second feature; hollow: in random "
        f"subspaces ({_dimensions(shown, COMPLEMENT)}) orthogonal to both features; {', '.join(datasets)}, which "
        f"differ in rho alone (epsilon = {epsilon:g}), {_samples(found)} (those classified correctly). The axis of "
        "margins, in units of the data, is logarithmic. Dashed: rho; dotted: the margin along the second feature of "
        "the linear classifier of widest margin, (epsilon² + rho²) / rho, which has no reason to go near rho. "
        f"{INTERVALS} {CODING}"
    )
    title = "Margin along a second feature"
    alt = f"{title} of size {', '.join(f'{rho:g}' for rho in sizes)}. " + "; ".join(
        f"{s.outcomes.dataset}, {s.outcomes.classifier}: {number(found[s][SECOND][0].value, NUMBER)}"
        for s in shown
        if SECOND in found[s]
    )
    name = f"elasticity_{slug(datasets[0])}_{slug(shown[0].measurement)}"
    return Chart(name, title, caption, alt, png, vector, data, section, _table(shown, kinds, found))


def _mark(axis: Axes, epsilon: float) -> None:
    axis.axhline(epsilon, color=GREY, linestyle="--", linewidth=1, zorder=0)
    edge = axis.get_yaxis_transform()  # across the axis, along the data
    axis.text(0.99, epsilon * 1.06, f"epsilon = {epsilon:g}", transform=edge, ha="right", fontsize=8, color=GREY)


def _records(s: Subspaces, medians: Medians, known: Mapping[str, Synthetic]) -> Iterator[dict[str, Any]]:
    feature = known.get(s.outcomes.dataset)
    for (kind, place), (value, n) in medians.items():
        own: dict[str, Any] = {"measurement": s.measurement, "subspace": kind, "index": place, "n": n}
        own |= {"dimension": s.dimensions[kind, place], "median": value.value, "low": value.low, "high": value.high}
        own |= {} if feature is None else feature._asdict()
        yield record(s.outcomes, **own)


def _dimensions(shown: Sequence[Subspaces], kind: tuple[str, int]) -> str:
    sizes = sorted({s.dimensions[kind] for s in shown if kind in s.dimensions})
    numbers = sorted({s.margins[kind].shape[1] for s in shown if kind in s.margins})
    if not sizes:
        return "not measured"
    each = " or ".join(map(str, sizes)) + (" dimension" if sizes == [1] else " dimensions")
    return each if numbers == [1] else f"{' or '.join(map(str, numbers))} of {each}"


def _samples(found: Mapping[Subspaces, Medians]) -> str:
    return count([n for medians in found.values() for _, n in medians.values()]).replace("images", "samples")


def _table(shown: Sequence[Subspaces], kinds: Sequence[tuple[str, int]], found: Mapping[Subspaces, Medians]) -> Table:
    headers = (
        "Classifier",
        "Data set",
        "n",
        *(f"Median margin, {KINDS[kind][0]}" for kind in kinds),
    )
    rows = []
    for s in shown:
        n = max(n for _, n in found[s].values())
        numbers = [found[s].get(kind, (Interval(math.nan, math.nan, math.nan), 0))[0] for kind in kinds]
        line = [*words(s.outcomes.classifier, s.outcomes.dataset), whole(n)]
        rows.append([*line, *(estimate(value, NUMBER) for value in numbers)])
    return Table(headers, rows)
