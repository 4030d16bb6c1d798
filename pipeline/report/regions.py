"""Connectivity of classification regions: pairs joined inside their class, and how far the paths go round."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from pipeline.report import scales, statistics
from pipeline.report.claims import Claim, judge
from pipeline.report.leaderboard import NUMBER, slug
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import Table, estimate, whole, words
from pipeline.report.statistics import Interval
from pipeline.report.style import CODING, DOTS, WIDTH, Chart, Look, beside, canvas, panels, record, render

KIND = "regions"
SECTION = "Classification regions"
TEXT = (
    "Pairs of points of one predicted class are joined by a path that stays in the class: the straight segment if it "
    "does, else one found by pushing middles of segments into the class. A pair counts as connected if its path also "
    "holds when it is sampled ten times as densely. A path that is not found may still exist."
)
NAMES = {"image": "two images", "perturbed": "perturbed into the class", "noise": "noise pushed into the class"}
NAMED = ("dataset", "classifier", "architecture", "training")
GREY = {"color": "#8A8A8A", "linestyle": "-", "marker": "o"}
FEWEST = 5  # paths of which a curve is drawn
CONNECTED, STRAIGHT, SHORT = 0.98, 0.98, 0.001  # limits of the claims


class Group(NamedTuple):
    """What became of the pairs of one kind on one classifier.

    Attributes:
        outcomes: of the classifier.
        kind: of pairs, in words.
        n: pairs whose ends lie in the class.
        connected: share joined by a path that holds.
        straight: share joined by the straight segment.
        excess: (b,) length over distance, minus 1, of the paths that hold and are not straight.
        median: of that.
        anchors: median number of their anchors.
    """

    outcomes: Outcomes
    kind: str
    n: int
    connected: Interval
    straight: Interval
    excess: statistics.Array
    median: Interval
    anchors: Interval


def members(rows: pd.DataFrame, classifiers: Sequence[Outcomes]) -> list[Outcomes]:
    """Outcomes of the classifiers that have rows, in their order; then those that have nothing else measured."""
    keys = rows[["dataset", "classifier"]].drop_duplicates()
    present = set(keys.itertuples(index=False, name=None))
    found = [o for o in classifiers if (o.dataset, o.classifier) in present]
    known = {(o.dataset, o.classifier) for o in found}
    for first in rows.drop_duplicates(["dataset", "classifier"]).to_dict("records"):
        if (first["dataset"], first["classifier"]) not in known:
            seed = None if pd.isna(first["seed"]) else int(first["seed"])
            dataset, classifier, architecture, training = (str(first[name]) for name in NAMED)
            found.append(Outcomes(dataset, classifier, architecture, training, seed))
    return found


def style_of(look: Look, outcomes: Outcomes) -> Mapping[str, Any]:
    """The look of a classifier; grey if it is in no other table."""
    try:
        return look(outcomes)
    except ValueError:
        return GREY


def by_measurement(rows: pd.DataFrame, name: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Per measurement: its id, a name for its charts that no other has, and its rows."""
    ids = sorted(set(rows["measurement"]))
    for measurement in ids:
        own = rows[rows["measurement"] == measurement]
        yield str(measurement), name if len(ids) == 1 else f"{name}_{slug(str(measurement))}", own


def of(rows: pd.DataFrame, outcomes: Outcomes) -> pd.DataFrame:
    """The rows of one classifier."""
    return rows[(rows["dataset"] == outcomes.dataset) & (rows["classifier"] == outcomes.classifier)]


def _holding(rows: pd.DataFrame) -> pd.DataFrame:
    """Pairs whose ends lie in the class, with `held` (joined by a path that holds) and `bent` (not a straight one)."""
    rows = rows[rows["entered"].astype(bool)]
    held = rows["converged"].eq(True) & rows["verified"].eq(True)
    straight = rows["straight"].eq(True)
    return rows.assign(held=held, straight=held & straight, bent=held & ~straight)


def groups(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> list[Group]:
    """Pairs by classifier and kind; rows are those of one measurement."""
    rows = _holding(rows)
    attacked = rows["view"] != "clean"
    kind = rows["kind"].map(NAMES).where(~attacked, "perturbed by " + rows["view"].astype(str))
    found = []
    for name in dict.fromkeys(sorted(set(kind), key=lambda own: ([*NAMES.values(), own].index(own), own))):
        for outcomes in members(rows, classifiers):
            own = of(rows[kind == name], outcomes)
            if not len(own):
                continue
            bent = own[own["bent"] & own["ratio"].notna()]
            excess = np.maximum(bent["ratio"].to_numpy(dtype=float) - 1, 0)
            draws = [
                statistics.stream(
                    seed, outcomes.dataset, outcomes.classifier, str(own["measurement"].iloc[0]), name, of_
                )
                for of_ in ("excess", "anchors")
            ]
            median = statistics.bootstrap(excess, statistics.median, seed=draws[0])
            anchors = statistics.bootstrap(bent["anchors"].to_numpy(dtype=float), statistics.median, seed=draws[1])
            shares = (statistics.share(own["held"]), statistics.share(own["straight"]))
            found.append(Group(outcomes, name, len(own), *shares, excess, median, anchors))
    return found


def draw(rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Per measurement: shares of the pairs that are connected, and lengths of the paths that are not straight."""
    for _, name, own in by_measurement(rows, KIND):
        found = groups(own, classifiers, seed)
        if not found:
            continue
        yield _shares(found, look, name)
        if any(len(group.excess) >= FEWEST for group in found):
            yield _detours(found, look, f"{name}_detours")


def _sizes(found: Sequence[Group]) -> str:
    low, high = min(group.n for group in found), max(group.n for group in found)
    return f"n = {low} pairs" if low == high else f"n = {low} to {high} pairs"


def _shares(found: Sequence[Group], look: Look, name: str) -> Chart:
    kinds = list(dict.fromkeys(group.kind for group in found))
    names = list(dict.fromkeys(group.outcomes.classifier for group in found))
    across = min(len(kinds), 3)
    with canvas(WIDTH + beside(names), 0.9 + math.ceil(len(kinds) / 3) * (0.6 + 0.34 * len(names))) as figure:
        for axis, kind in zip(panels(figure, len(kinds), across, sharex=True, sharey=True), kinds, strict=True):
            for group in found:
                if group.kind == kind:
                    style = style_of(look, group.outcomes)
                    place = names.index(group.outcomes.classifier)
                    for value, shift, face in (
                        (group.connected, -0.15, style["color"]),
                        (group.straight, 0.15, "white"),
                    ):
                        arms = [[100 * (value.value - value.low)], [100 * (value.high - value.value)]]
                        points = {"color": style["color"], "marker": style["marker"], "markerfacecolor": face}
                        points |= {"markersize": 5, "linestyle": "none", "elinewidth": 1.2, "capsize": 2}
                        axis.errorbar([100 * value.value], [place + shift], xerr=arms, **points)
            axis.set_title(kind)
            axis.set_xlabel("share of pairs [%]")
            axis.set_xlim(-3, 103)
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.set_yticks(range(len(names)), names)
        handles = [
            Line2D([], [], color="#444444", marker="o", linestyle="none", markerfacecolor=face)
            for face in ("#444444", "white")
        ]
        labels = ["connected by a path inside the class", "connected by the straight segment"]
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
        png, vector = render(figure)
    data = pd.DataFrame(map(_record, found))
    caption = (
        f"Pairs of points of one predicted class on {found[0].outcomes.dataset} ({_sizes(found)} a point): share "
        "joined by a path that stays in the class (filled) and by the straight segment (open). Paths count if they "
        f"hold at ten times as many samples. Bars: 95 % Wilson intervals. {DOTS} After Fawzi "
        "et al., CVPR 2018."
    )
    ends = sorted(found, key=lambda group: group.connected.value)
    alt = f"Dot plot with intervals for {len(names)} classifiers and {len(kinds)} kinds of pairs. Connected: from " + (
        " to ".join(
            f"{100 * group.connected.value:.1f} % ({group.outcomes.classifier}, {group.kind})"
            for group in (ends[0], ends[-1])
        )
    )
    return Chart(name, "Connected pairs", caption, alt + ".", png, vector, data, SECTION, _table(found))


def _detours(found: Sequence[Group], look: Look, name: str) -> Chart:
    shown = [group for group in found if len(group.excess) >= FEWEST]
    kinds = list(dict.fromkeys(group.kind for group in shown))
    least = 1e-7  # below it, length over distance is rounding
    rows = []
    with canvas(WIDTH, 1.1 + look.room + 2.3 * math.ceil(len(kinds) / 3)) as figure:
        axes = panels(figure, len(kinds), 3, sharex=True, sharey=True)
        for axis, kind in zip(axes, kinds, strict=True):
            for group in (group for group in shown if group.kind == kind):
                values = np.sort(np.maximum(group.excess, least))
                shares = np.arange(1, len(values) + 1) / len(values)
                style = style_of(look, group.outcomes)
                steps = (np.insert(values, 0, values[0]), 100 * np.insert(shares, 0, 0))
                marks = {"markersize": 3.5, "markevery": (1, max(1, len(values) // 4))}
                axis.step(*steps, where="post", **{**style, **marks})
                rows += [
                    record(group.outcomes, kind=kind, excess=float(value), share=float(share))
                    for value, share in zip(np.sort(group.excess), shares, strict=True)
                ]
            axis.axvline(SHORT, color="#999999", linewidth=0.8, linestyle=":")
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(numticks=5))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(scales.power)
            axis.set_title(kind)
            axis.set_xlabel("length / distance − 1")
            axis.set_ylim(0, 104)
        look.ylabel(figure, "share of bent paths [%]")
        look.legend(figure, markersize=4)
        png, vector = render(figure)
    counts = [len(group.excess) for group in shown]
    span = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(min(counts))
    caption = (
        f"Paths on {found[0].outcomes.dataset} that are not straight: how much longer than the distance of their ends "
        f"they are (n = {span} paths a curve; share of them that are at most so much longer). Curves of fewer than "
        f"{FEWEST} paths are left out. The horizontal axis is logarithmic; dotted: 0.1 %. Medians with 95 % bootstrap "
        f"intervals stand in the table above. {CODING}"
    )
    longest = max(shown, key=lambda group: group.excess.max(initial=-1))
    alt = (
        f"Distribution functions, one panel for each of {len(kinds)} kinds of pairs. The longest detour is "
        f"{100 * longest.excess.max():.3g} % ({longest.outcomes.classifier}, {longest.kind})."
    )
    return Chart(name, "Lengths of bent paths", caption, alt, png, vector, pd.DataFrame(rows), SECTION)


def _record(group: Group) -> dict[str, Any]:
    own: dict[str, Any] = {"kind": group.kind, "n": group.n}
    for name in ("connected", "straight", "median", "anchors"):
        value: Interval = getattr(group, name)
        label = "median_excess" if name == "median" else name
        own |= {label: value.value, f"{label}_low": value.low, f"{label}_high": value.high}
    return record(group.outcomes, **own)


def _table(found: Sequence[Group]) -> Table:
    headers = (
        "Classifier",
        "Pairs",
        "n",
        "Connected [%]",
        "Straight [%]",
        "Bent paths",
        "Median anchors of bent paths",
        "Median of their length / distance − 1",
    )
    lines = []
    for group in found:
        shares = [estimate(group.connected), estimate(group.straight)]
        numbers = [estimate(group.anchors, NUMBER), estimate(group.median, NUMBER)]
        names = words(group.outcomes.classifier, group.kind)
        lines.append([*names, whole(group.n), *shares, whole(len(group.excess)), *numbers])
    return Table(headers, lines)


def claims(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Claim]:
    """Regions are connected and not convex (pairs of all kinds), and their paths nearly straight (pairs of images)."""
    for measurement, _, part in by_measurement(rows, KIND):
        part = _holding(part)
        for outcomes in members(part, classifiers):
            own = of(part, outcomes)
            about = (outcomes.dataset, outcomes.classifier)
            connected = statistics.share(own["held"])
            text = f"share of pairs connected ({', '.join(sorted(set(own['kind'])))})"
            verdict = judge(connected, above=CONNECTED)
            yield Claim("connected", *about, text, len(own), connected, "share", verdict)
            straight = statistics.share(own["straight"])
            text, verdict = "share of the same pairs joined by the segment", judge(straight, below=STRAIGHT)
            yield Claim("not_convex", *about, text, len(own), straight, "share", verdict)
            images = own[own["kind"] == "image"]
            if not len(images):
                continue
            # where no path is bent, all of them are as short as can be
            paths = images[images["bent"] if images["bent"].any() else images["held"]]
            excess = np.maximum(paths["ratio"].dropna().to_numpy(dtype=float) - 1, 0)
            stream = statistics.stream(seed, *about, measurement, "claim")
            median = statistics.bootstrap(excess, statistics.median, seed=stream)
            what = "bent paths" if images["bent"].any() else "paths, none of them bent"
            text = f"median of length / distance − 1 of the {what} between images"
            yield Claim("nearly_straight", *about, text, len(excess), median, "number", judge(median, below=SHORT))
