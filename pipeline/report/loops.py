"""Simple connectedness of classification regions: loops inside a class that can be filled inside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from pipeline.report import statistics
from pipeline.report.claims import Claim, judge
from pipeline.report.leaderboard import NUMBER
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import Table, estimate, whole, words
from pipeline.report.regions import SECTION as REGIONS
from pipeline.report.regions import by_measurement, members, of, style_of
from pipeline.report.statistics import Interval
from pipeline.report.style import DOTS, WIDTH, Chart, Look, beside, canvas, errorbar, panels, record, render

KIND = "loops"
SECTION = REGIONS
TEXT = (
    "Four images of one predicted class are joined by paths inside the class to a loop, and the loop is filled by a "
    "surface inside the class: its Coons patch, or a mesh of quads that goes round what is in the way. In a region "
    "without holes every loop can be filled. A surface that is not found may still exist."
)
FILLED = 0.9  # limit of the claim


class Result(NamedTuple):
    """Loops of one classifier.

    Attributes:
        outcomes: of the classifier.
        groups: of four images.
        n: groups that paths join to a loop.
        filled: share of those that a surface fills.
        patch: share of those that their Coons patch fills.
        quads: mean number of quads of the surfaces.
        deviation: mean distance of the surfaces from the Coons patch, over a quarter of the loop's length.
    """

    outcomes: Outcomes
    groups: int
    n: int
    filled: Interval
    patch: Interval
    quads: Interval
    deviation: Interval


def results(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> list[Result]:
    """Loops by classifier; rows are those of one measurement."""
    found = []
    for outcomes in members(rows, classifiers):
        own = of(rows, outcomes)
        loops = own[own["loop_connected"].astype(bool)]
        done = loops[loops["converged"].astype(bool)]
        means = []
        for name in ("quads", "deviation"):
            names = (outcomes.dataset, outcomes.classifier, str(own["measurement"].iloc[0]), name)
            values = done[name].to_numpy(dtype=float)
            means.append(statistics.bootstrap(values, statistics.mean, seed=statistics.stream(seed, *names)))
        shares = (statistics.share(loops["converged"].astype(bool)), statistics.share(loops["patch"].eq(True)))
        found.append(Result(outcomes, len(own), len(loops), *shares, *means))
    return found


def draw(rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Per measurement: the shares of loops that are filled, by any surface and by the Coons patch."""
    for _, name, own in by_measurement(rows, KIND):
        yield _chart(results(own, classifiers, seed), look, name)


def _chart(found: Sequence[Result], look: Look, name: str) -> Chart:
    names = [result.outcomes.classifier for result in found]
    titles = ("filled inside the class", "filled by the Coons patch")
    with canvas(WIDTH + beside(names), 0.9 + 0.3 * len(found)) as figure:
        axes = panels(figure, 2, 2, sharex=True, sharey=True)
        for place, result in enumerate(found):
            style = style_of(look, result.outcomes)
            for axis, value in zip(axes, (result.filled, result.patch), strict=True):
                if result.n:
                    errorbar(axis, place, value, style, horizontal=True)
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(title)
            axis.set_xlabel("share of loops [%]")
            axis.set_xlim(-3, 103)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        png, vector = render(figure)
    data = pd.DataFrame(map(_record, found))
    least, most = min(result.n for result in found), max(result.n for result in found)
    sizes = f"n = {least} loops" if least == most else f"n = {least} to {most} loops"
    caption = (
        f"Loops through four images of one predicted class on {found[0].outcomes.dataset} ({sizes} a classifier): "
        "share filled by a surface that stays in the class, and by the Coons patch of the loop, the surface between "
        f"its sides that needs no search. Bars: 95 % Wilson intervals. {DOTS} After Swaminathan and "
        "Akgün, 2026."
    )
    known = sorted((result for result in found if result.n), key=lambda result: result.filled.value)
    alt = f"Dot plot with intervals for {len(found)} classifiers. " + (
        f"Filled: from {100 * known[0].filled.value:.1f} % ({known[0].outcomes.classifier}) to "
        f"{100 * known[-1].filled.value:.1f} % ({known[-1].outcomes.classifier})."
        if known
        else "No loop was closed."
    )
    return Chart(name, "Filled loops", caption, alt, png, vector, data, SECTION, _table(found))


def _record(result: Result) -> dict[str, Any]:
    own: dict[str, Any] = {"groups": result.groups, "n": result.n}
    for name in ("filled", "patch", "quads", "deviation"):
        value: Interval = getattr(result, name)
        own |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    return record(result.outcomes, **own)


def _table(found: Sequence[Result]) -> Table:
    headers = (
        "Classifier",
        "Groups of four",
        "Closed loops",
        "Filled [%]",
        "By the Coons patch [%]",
        "Mean quads",
        "Mean distance from the Coons patch / quarter of the loop",
    )
    lines = []
    for result in found:
        counts = [whole(result.groups), whole(result.n)]
        shares = [estimate(result.filled), estimate(result.patch)]
        means = [estimate(result.quads, NUMBER), estimate(result.deviation, NUMBER)]
        lines.append([*words(result.outcomes.classifier), *counts, *shares, *means])
    return Table(headers, lines)


def claims(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Claim]:
    """Regions are simply connected: loops can be filled."""
    for _, _, part in by_measurement(rows, KIND):
        for result in results(part, classifiers, seed):
            if result.n:
                about = (result.outcomes.dataset, result.outcomes.classifier)
                text, verdict = "share of loops filled inside the class", judge(result.filled, above=FILLED)
                yield Claim("simply_connected", *about, text, result.n, result.filled, "share", verdict)
