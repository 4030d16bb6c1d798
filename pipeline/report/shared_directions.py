"""Curved directions that points of the boundary share: what lies in them, and what noise in them does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipeline.report import scales, statistics
from pipeline.report.blocks import bare
from pipeline.report.claims import Claim, judge
from pipeline.report.curvature import SECTION as CURVATURE
from pipeline.report.leaderboard import NUMBER, slug
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import Table, estimate, whole, words
from pipeline.report.rendering import number
from pipeline.report.statistics import Interval
from pipeline.report.style import COLOURS, WIDTH, Chart, Look, beside, canvas, count, record, render

KIND = "shared_directions"
SECTION = CURVATURE
TEXT = (
    "Directions in which the boundary is curved near one half of the images are also curved near the other half: "
    "perturbations lie in them more than by chance, and noise in them flips labels more often than noise elsewhere."
)
# kind of noise -> its name, colour and marker
KINDS: Mapping[str, tuple[str, str, str]] = {
    "shared": ("shared curved directions", COLOURS[1], "o"),
    "random": ("any direction", COLOURS[0], "^"),
    "flat": ("flat directions", COLOURS[2], "s"),
}


class Found(NamedTuple):
    """What was measured on the test images of one classifier.

    Attributes:
        outcomes: the classifier.
        measurement: id of the measurement.
        view: id of the attack.
        rows: of test images whose boundary was found.
        projected: median length of a perturbation's part in the shared subspace over its own length.
        chance: what it would be for random perturbations.
        flips: kind of noise -> share of draws that flip the label, with its interval over images.
        curvatures: kind of direction -> median over images of the mean |curvature|.
        ratio: flips by shared over flips by flat noise.
    """

    outcomes: Outcomes
    measurement: str
    view: str
    rows: pd.DataFrame
    projected: Interval
    chance: float
    flips: Mapping[str, Interval]
    curvatures: Mapping[str, Interval]
    ratio: Interval


def gather(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> list[Found]:
    """What every classifier's test images say, in the order of the classifiers."""
    known = {(o.dataset, o.classifier): o for o in classifiers}
    place = {key: at for at, key in enumerate(known)}
    tested = rows[(rows["role"] == "test") & rows["converged"].astype(bool)]
    found = []
    for (dataset, classifier, measurement, view), part in tested.groupby(
        ["dataset", "classifier", "measurement", "view"]
    ):
        key = (str(dataset), str(classifier))
        names = (*key, str(measurement), str(view))
        found.append((place.get(key, len(place)), _measure(part, known.get(key) or bare(part), names, seed)))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]


def draw(rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Perturbations, curvatures and noise in the shared directions, a figure per measurement and attack.

    Args:
        rows: of one data set.
        classifiers: of the data set.
        look: not used: classifiers are named on the axis, colours stand for directions.
        seed: of the bootstrap.
    """
    everything = gather(rows, classifiers, seed)
    groups = sorted({(f.measurement, f.view) for f in everything})
    for measurement, view in groups:
        members = [f for f in everything if (f.measurement, f.view) == (measurement, view)]
        single = len({v for m, v in groups if m == measurement}) == 1
        yield _chart(members, slug(measurement) if single else slug(measurement, view))


def claims(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Claim]:
    """Whether perturbations lie in shared curved directions, and whether noise in these flips labels more often.

    Args:
        rows: of all data sets.
        classifiers: of all data sets.
        seed: of the bootstrap.
    """
    for found in gather(rows, classifiers, seed):
        o, n = found.outcomes, len(found.rows)
        where = f"{found.measurement}, {found.view}"
        beyond = Interval(*(part / found.chance for part in found.projected))
        what = f"length of the perturbation in shared directions over that by chance, median ({where})"
        yield Claim("shared_directions", o.dataset, o.classifier, what, n, beyond, NUMBER, judge(beyond, above=2))
        what = f"labels flipped by noise in shared directions over those in flat ones ({where})"
        yield Claim("curved_noise", o.dataset, o.classifier, what, n, found.ratio, NUMBER, judge(found.ratio, above=3))


def _measure(rows: pd.DataFrame, outcomes: Outcomes, names: tuple[str, ...], seed: int) -> Found:
    def stream(quantity: str) -> int:
        return statistics.stream(seed, *names, quantity)

    def median(column: str) -> Interval:
        return statistics.bootstrap(rows[column].to_numpy(dtype=float), statistics.median, seed=stream(column))

    shares = {kind: (rows[f"flips_{kind}"] / rows["draws"]).to_numpy(dtype=float) for kind in KINDS}
    flips = {kind: _share(values, stream(f"flips {kind}")) for kind, values in shares.items()}
    return Found(
        outcomes,
        names[2],
        names[3],
        rows,
        median("projected"),
        float(rows["chance"].iloc[0]),
        flips,
        {kind: median(f"curvature_{kind}") for kind in KINDS},
        _ratio(shares["shared"], shares["flat"], flips, stream("ratio")),
    )


def _share(values: Any, seed: int) -> Interval:
    """Mean over images; where no draw or every draw flips, Wilson's interval with the images as trials."""
    if values.min() == values.max() and values[0] in (0, 1):
        return statistics.wilson(int(values.sum()), len(values))
    return statistics.bootstrap(values, statistics.mean, seed=seed)


def _ratio(above: Any, below: Any, flips: Mapping[str, Interval], seed: int) -> Interval:
    """Ratio of two means, images drawn together; without a flip below, only a lower limit from the limits of both."""

    def quotient(pairs: Any) -> Any:
        one, other = pairs.mean(axis=-2)[..., 0], pairs.mean(axis=-2)[..., 1]
        nothing = np.where(one > 0, math.inf, 1.0)
        return np.divide(one, other, out=nothing, where=other > 0)

    if not below.any():
        if not above.any():
            return statistics.NOTHING
        return Interval(math.inf, flips["shared"].low / flips["flat"].high, math.inf)
    return statistics.bootstrap(np.stack([above, below], axis=-1), quotient, seed=seed)


def _chart(members: Sequence[Found], name: str) -> Chart:
    places = np.arange(len(members))[::-1]
    with canvas(WIDTH + beside([f.outcomes.classifier for f in members]), 1.5 + 0.36 * len(members)) as figure:
        axes = figure.subplots(1, 3, sharey=True)
        for place, found in zip(places, members, strict=True):
            _point(axes[0], place, found.projected, 1, COLOURS[1], "o")
            axes[0].plot([found.chance] * 2, [place - 0.3, place + 0.3], color="#666666", linewidth=1.5)
            for offset, (kind, (_, colour, marker)) in zip((0.22, 0, -0.22), KINDS.items(), strict=True):
                _point(axes[1], place + offset, found.curvatures[kind], 1, colour, marker)
                _point(axes[2], place + offset, found.flips[kind], 100, colour, marker)
        axes[0].set_yticks(places, [f.outcomes.classifier for f in members])
        axes[0].set_ylim(-0.6, len(members) - 0.4)
        axes[0].set_xlim(0, 1)
        axes[0].set_xlabel("part of the perturbation\nin shared directions (bar: by chance)")
        curvatures = [end for f in members for value in f.curvatures.values() for end in value]
        scales.logarithmic(axes[1], curvatures, "x")
        axes[1].set_xlabel("mean |curvature| along directions\n[1 / pixel range]")
        axes[2].set_xlim(left=-2)
        axes[2].set_xlabel("labels flipped by noise [%]")
        for axis in axes:
            axis.grid(axis="y", visible=False)
        handles = [
            axes[2].plot([], [], color=colour, marker=marker, linestyle="none", label=label)[0]
            for label, colour, marker in KINDS.values()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        png, vector = render(figure)
    first = members[0]
    data = pd.DataFrame(map(_record, members))
    caption = (
        f"Directions in which the boundary is curved near the perturbations of {first.view} on "
        f"{first.outcomes.dataset}, found on one half of the images ({_span(data['points'])} points, "
        f"{_span(data['dimension'])} dimensions) and measured on the other ({count(data['n'].tolist())}). Left: length "
        "of a perturbation's part in the subspace over its own, median; grey bars: of a random one. Middle: mean "
        "|curvature| along random directions, median over images; the axis is logarithmic. Right: label flips by noise "
        f"of {_span(data['noise_over_distance'])} times each image's distance to the boundary. 95 % bootstrap "
        "intervals over images; where no draw flips a label, Wilson's with the images as trials."
    )
    alt = "Perturbations in shared directions, and chance: " + "; ".join(
        f"{f.outcomes.classifier} {number(f.projected.value, NUMBER)}, {number(f.chance, NUMBER)}" for f in members
    )
    title = f"Shared curved directions ({first.measurement}, {first.view})"
    return Chart(name, title, caption, alt + ".", png, vector, data, SECTION, _table(members))


def _point(axis: Axes, place: float, value: Interval, scale: float, colour: str, marker: str) -> None:
    arms = [[scale * (value.value - value.low)], [scale * (value.high - value.value)]]
    look: dict[str, Any] = {"linestyle": "none", "markersize": 5, "elinewidth": 1.3, "capsize": 2}
    axis.errorbar([scale * value.value], [place], xerr=arms, color=colour, marker=marker, **look)


def _span(values: pd.Series[Any]) -> str:
    low, high = (f"{value:.3g}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _record(found: Found) -> dict[str, Any]:
    rows = found.rows
    own: dict[str, Any] = {"n": len(rows), "points": int(rows["points"].iloc[0]), "chance": found.chance}
    own["dimension"] = int(rows["dimension"].iloc[0])
    own["noise_over_distance"] = float((rows["noise"] / rows["distance"]).median())
    numbers = {"projected": found.projected, "ratio": found.ratio}
    numbers |= {f"flips_{kind}": value for kind, value in found.flips.items()}
    numbers |= {f"curvature_{kind}": value for kind, value in found.curvatures.items()}
    for name, value in numbers.items():
        own |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    return record(found.outcomes, **own)


def _table(members: Sequence[Found]) -> Table:
    headers = (
        "Classifier",
        "n",
        "Perturbation in shared directions",
        "By chance",
        *(f"Flips, {label} [%]" for label, _, _ in KINDS.values()),
        "Flips, shared over flat",
    )
    lines = []
    for f in members:
        chance = words(number(f.chance, NUMBER))
        flips = [estimate(f.flips[kind]) for kind in KINDS]
        projected, ratio = estimate(f.projected, NUMBER), estimate(f.ratio, NUMBER)
        lines.append([*words(f.outcomes.classifier), whole(len(f.rows)), projected, *chance, *flips, ratio])
    return Table(headers, lines)
