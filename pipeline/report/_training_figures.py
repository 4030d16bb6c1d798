"""Figures and tables of trainings over their seeds, and what they show."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report import statistics
from pipeline.report.leaderboard import SHARE
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import Cell, Table, estimate, whole, words
from pipeline.report.pairwise import chance, gap_cell
from pipeline.report.rendering import interval, signed
from pipeline.report.statistics import Array, Interval
from pipeline.report.style import DOTS, Chart, Look, beside, canvas, count, dodge, panels, record, render

COLOUR = "#0072B2"
ACROSS, LETTERS = 3, 34  # panels in a row, and letters of a line below them
OPEN = 0.5  # of the seeds' range, shown beyond them on either side


class Measure(NamedTuple):
    """A number of a classifier, made from one value per sample.

    Attributes:
        header: with the unit.
        kind: `share` or `number`, as in the leaderboard.
        values: of a classifier, indexed by sample; None if it was not measured.
    """

    header: str
    kind: str
    values: Callable[[Outcomes], pd.Series[Any] | None]

    @property
    def statistic(self) -> Callable[[Array], Array]:
        """Mean of shares, median of numbers."""
        return statistics.mean if self.kind == SHARE else statistics.median


class Training(NamedTuple):
    """A training's classifiers in one measure, on the samples that all of them have.

    Attributes:
        members: classifiers, one per seed.
        measure: what is measured.
        table: values, sample x seed.
        each: number of each seed, with its interval for other images.
        mean: over seeds, with its interval for other images and seeds.
        deviation: over seeds, of the numbers on these images.
    """

    members: Sequence[Outcomes]
    measure: Measure
    table: pd.DataFrame
    each: Sequence[Interval]
    mean: Interval
    deviation: Interval

    @property
    def name(self) -> str:
        """Of architecture and training."""
        return f"{self.members[0].architecture}, {self.members[0].training}"


class Gap(NamedTuple):
    """One training minus another of the same architecture, over seeds.

    Attributes:
        one: the one.
        other: the other.
        n: samples that all classifiers of both have.
        gap: the difference with its interval for other images and seeds.
        p: of no difference.
        adjusted: by Holm's method over all such differences of the data set.
    """

    one: Training
    other: Training
    n: int
    gap: Interval
    p: float
    adjusted: float

    @property
    def verdict(self) -> str:
        """In a word; every measure compared is better when higher."""
        if not self.adjusted < 1 - statistics.LEVEL:
            return "no difference shown"
        return "higher" if self.gap.value > 0 else "lower"


def overview(found: Sequence[Training], look: Look) -> Chart:
    """Every training and its seeds, one panel per measure, of one data set."""
    names = list(dict.fromkeys(training.name for training in found))
    headers = list(dict.fromkeys(training.measure.header for training in found))
    with _panels(len(headers), names, 0.42) as (figure, axes):
        for axis, header in zip(axes, headers, strict=True):
            own = [training for training in found if training.measure.header == header]
            scale = _scale(own[0].measure)
            _limit(axis, [v for t in own for v in t.each], [t.mean for t in own], scale)
            for training in own:
                _seeds(axis, names.index(training.name), training, look, scale)
            axis.set_xlabel(_broken(header))
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(len(names) - 0.5, -0.5)
        png, svg = render(figure)
    data = pd.DataFrame([row for training in found for row in _records(training)])
    sizes = sorted({len(training.members) for training in found})
    caption = (
        f"Trainings on {found[0].members[0].dataset} over their seeds ({count([len(t.table) for t in found])} that all "
        f"seeds of a training have; {' to '.join(str(n) for n in dict.fromkeys((sizes[0], sizes[-1])))} seeds each). "
        "Small markers: each seed's classifier, with its 95 % interval for other images (Wilson for shares of images, "
        "bootstrap for means over corruptions and for medians). Diamonds: mean over seeds, with the 95 % interval for "
        "other images and other seeds; an arrow means that it goes on, and the table has it in full. The standard "
        "deviation is over seeds, of the numbers on these images, with its chi-square interval. "
        f"{DOTS}"
    )
    alt = f"Dot plots of {len(names)} trainings in {len(headers)} measures. " + "; ".join(
        f"{t.measure.header}: {t.name} {interval(t.mean, t.measure.kind)}" for t in found
    )
    table = _table(found, names, headers)
    return Chart("trainings", "Trainings over seeds", caption, alt, png, svg, data, table=table)


def against(found: Sequence[Gap]) -> Chart:
    """Differences of trainings, one panel per measure, of one data set."""
    names = list(dict.fromkeys(_pair(gap) for gap in found))
    headers = list(dict.fromkeys(gap.one.measure.header for gap in found))
    with _panels(len(headers), names, 0.26) as (figure, axes):
        for axis, header in zip(axes, headers, strict=True):
            own = [gap for gap in found if gap.one.measure.header == header]
            scale = _scale(own[0].one.measure)
            _limit(axis, [Interval(gap.gap.value, 0.0, 0.0) for gap in own], [gap.gap for gap in own], scale)
            axis.axvline(0, color="#555555", linewidth=0.8)
            for gap in own:
                face = COLOUR if gap.adjusted < 1 - statistics.LEVEL else "white"
                _bar(axis, names.index(_pair(gap)), gap.gap, scale, COLOUR, {"marker": "o", "mfc": face})
            axis.set_xlabel(_broken(_points(header)))
            axis.set_yticks(range(len(names)), names)
            axis.set_ylim(len(names) - 0.5, -0.5)
        png, svg = render(figure)
    data = pd.DataFrame(map(_gap_record, found))
    real = [gap for gap in found if gap.adjusted < 1 - statistics.LEVEL]
    caption = (
        f"Trainings of one architecture against each other on {found[0].one.members[0].dataset}, mean over seeds, with "
        "95 % intervals for other images and other seeds: paired over images "
        f"({count([gap.n for gap in found])}), with the seeds of each training as independent draws. An arrow means "
        "that the interval goes on. Filled: p < 0.05 by Holm's method over all of them. Two seeds a training show "
        "large differences alone; hollow does not mean that there is none."
    )
    alt = f"Dot plots of {len(found)} differences of trainings, {len(real)} of them told from 0. " + "; ".join(
        f"{gap.one.measure.header}: {_pair(gap)} {signed(gap.gap.value, gap.one.measure.kind)}" for gap in real
    )
    title = "Differences of trainings over seeds"
    return Chart("trainings_apart", title, caption, alt.strip(), png, svg, data, table=_gap_table(found))


@contextmanager
def _panels(number: int, names: Sequence[str], height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """Panels with a row of that many inches for each name."""
    across = min(ACROSS, number)
    with canvas(
        3.2 + 2.6 * across + beside(names), math.ceil(number / across) * (0.75 + height * len(names))
    ) as figure:
        yield figure, panels(figure, number, across, sharey=True)


def _broken(header: str) -> str:
    """In lines, the unit in one piece."""
    text, bracket, unit = header.partition("[")
    return textwrap.fill(text + bracket + unit.replace(" ", "\u00a0"), LETTERS)


def _pair(gap: Gap) -> str:
    one, other = gap.one.members[0], gap.other.members[0]
    return f"{one.architecture}, {one.training} − {other.training}"


def _points(header: str) -> str:
    return f"difference in {header[0].lower()}{header[1:]}".replace("[%]", "[points]")


def _scale(measure: Measure) -> float:
    return 100.0 if measure.kind == SHARE else 1.0


def _limit(axis: Axes, inner: Sequence[Interval], outer: Sequence[Interval], scale: float) -> None:
    """Show all that is within `inner`, and of `outer`, which may be many times wider, not much more."""
    near = [part for value in inner for part in value if math.isfinite(part)] or [0.0]
    far = [part for value in outer for part in value if math.isfinite(part)] + near
    room = OPEN * (max(near) - min(near)) or 0.05
    low, high = max(min(far), min(near) - room), min(max(far), max(near) + room)
    pad = 0.04 * (high - low) or 0.01
    axis.set_xlim(scale * (low - pad), scale * (high + pad))


def _seeds(axis: Axes, row: int, training: Training, look: Look, scale: float) -> None:
    style = look(training.members[0])
    for offset, value in zip(dodge(len(training.each), 0.3), training.each, strict=True):
        marker = {"marker": style["marker"], "markersize": 3.5}
        _bar(axis, row + 0.2 + offset, value, scale, style["color"], marker, width=0.8)
    _bar(axis, row - 0.2, training.mean, scale, style["color"], {"marker": "D", "mfc": "white"}, width=2)


def _bar(
    axis: Axes, row: float, value: Interval, scale: float, colour: str, marker: dict[str, Any], width: float = 1.4
) -> None:
    """A number with its interval, cut where the axis ends, with an arrow there; one that is infinite is not shown."""
    place, low, high = (scale * part for part in value)
    left, right = axis.get_xlim()
    if not math.isfinite(place):
        return
    look: dict[str, Any] = {"color": colour, "markersize": 5, "zorder": 4} | marker
    if not math.isnan(low):
        axis.hlines(row, max(low, left), min(high, right), color=colour, linewidth=width)
        for end, cut, arrow in ((left, low < left, "<"), (right, high > right, ">")):
            if cut:
                axis.plot(end, row, marker=arrow, color=colour, markersize=3 + width, clip_on=False)
    axis.plot(place, row, **look)


def _records(training: Training) -> Iterator[dict[str, Any]]:
    """Rows of the figure's numbers: each seed's, then the training's with no seed."""
    own = {"measure": training.measure.header, "n": len(training.table)}
    for outcomes, value in zip(training.members, training.each, strict=True):
        yield record(outcomes, **own, value=value.value, low=value.low, high=value.high)
    spread = {"seeds": len(training.members), "sd": training.deviation.value}
    spread |= {"sd_low": training.deviation.low, "sd_high": training.deviation.high}
    whom = record(training.members[0]) | {"classifier": None, "seed": None}
    yield whom | own | dict(zip(("value", "low", "high"), training.mean, strict=True)) | spread


def _gap_record(gap: Gap) -> dict[str, Any]:
    first = gap.one.members[0]
    keys: dict[str, Any] = {"dataset": first.dataset, "architecture": first.architecture, "training": first.training}
    keys |= {"against": gap.other.members[0].training, "measure": gap.one.measure.header, "n": gap.n}
    keys |= {"seeds": len(gap.one.members), "seeds_against": len(gap.other.members)}
    return keys | {**dict(zip(("difference", "low", "high"), gap.gap, strict=True)), "p": gap.p, "p_holm": gap.adjusted}


def _table(found: Sequence[Training], names: Sequence[str], headers: Sequence[str]) -> Table:
    """One row per training; seeds and images are those of the measure with the most."""
    lines = []
    for name in names:
        own = {training.measure.header: training for training in found if training.name == name}
        first = next(iter(own.values())).members[0]
        line = [*words(first.architecture, first.training), whole(max(len(t.members) for t in own.values()))]
        line.append(whole(max(len(t.table) for t in own.values())))
        for header in headers:
            if header in own:
                kind = own[header].measure.kind
                line += [estimate(own[header].mean, kind), estimate(own[header].deviation, kind)]
            else:
                line += [Cell("–", numeric=True)] * 2
        lines.append(line)
    parts = [part for header in headers for part in (header, f"SD over seeds, {_points(header)[14:]}")]
    return Table(["Architecture", "Training", "Seeds", "n", *parts], lines)


def _gap_table(found: Sequence[Gap]) -> Table:
    headers = ("Architecture", "Training", "Against", "Measure", "Seeds", "n", "Difference", "p", "p, Holm", "Reading")
    rows = []
    for gap in found:
        one, other = gap.one.members[0], gap.other.members[0]
        sizes = f"{len(gap.one.members)}, {len(gap.other.members)}"
        names = words(one.architecture, one.training, other.training, gap.one.measure.header, sizes)
        numbers = [whole(gap.n), gap_cell(gap.gap, gap.one.measure.kind), chance(gap.p), chance(gap.adjusted)]
        rows.append([*names, *numbers, *words(gap.verdict)])
    return Table(headers, rows)
