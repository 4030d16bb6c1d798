"""Invariance: accuracy and agreement along orbits of the images, and relative stability to smooth deformations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from pipeline.report import scales, statistics
from pipeline.report.claims import Claim
from pipeline.report.leaderboard import NUMBER, slug
from pipeline.report.outcomes import Outcomes
from pipeline.report.pagetables import Cell, Table, estimate, whole, words
from pipeline.report.statistics import NOTHING, Interval
from pipeline.report.style import (
    CODING,
    WIDTH,
    Chart,
    Look,
    canvas,
    count,
    extremes,
    limits,
    panels,
    record,
    render,
    veil,
)

KIND = "invariance"
SECTION = "Invariance"
TEXT = (
    "Each image is turned, shifted, scaled, recoloured and smoothly deformed. Accuracy is of the transformed images, "
    "agreement the share that keep the prediction of the clean image; both in the mean over the orbit and in its worst "
    "element. Relative stability compares smooth deformations with noise of the same norm: below 1, the classifier "
    "hardly sees what is only deformed."
)
UNITS = {
    "rotation": "angle [degrees]",
    "translation": "shift / side",
    "scale": "s; factors 1 + s\nand 1 / (1 + s)",
    "colour": "s; factors 1 + s\nand 1 / (1 + s)",
    "diffeomorphism": "displacement / side",
}
DEFORMATION = "diffeomorphism"
MEASURES = {"correct": "accuracy", "agrees": "agreement"}
ROWS = {"mean": "mean of the orbit", "worst": "worst in the orbit"}


def draw(rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Accuracy, agreement and relative stability of the classifiers of one data set.

    Args:
        rows: the collected table of one data set.
        classifiers: of the data set; those without rows are left out.
        look: colours and markers.
        seed: of the bootstrap.
    """
    names = sorted(set(rows["measurement"]))
    for name in names:
        mine = rows[rows["measurement"] == name]
        members = [o for o in classifiers if o.classifier in set(mine["classifier"])]
        if not members:
            continue
        tail = "" if len(names) == 1 else f"_{slug(name)}"
        data = pd.DataFrame(
            [row for o in members for row in _curves(o, mine[mine["classifier"] == o.classifier], seed)]
        )
        stable = pd.DataFrame([row for o in members for row in stability(mine, o, seed)])
        for column in MEASURES:
            table = _table(data, stable, members) if column == "correct" else None
            yield _orbits(data[data["measure"] == column], members, look, column, tail, table)
        if len(stable) and (stable["stability"] > 0).any():
            yield _stability(stable, members, look, tail)


def claims(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Claim]:
    """No claim of the table is about invariance."""
    return iter(())


def shares(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """What each image's orbits hold, of one classifier.

    Args:
        rows: of one classifier.
        column: `correct` or `agrees`.

    Returns:
        One row per family, strength and sample: `mean` over the elements of that strength, and `worst`: whether all
        elements up to that strength have it, and the clean image itself, too.
    """
    clean = rows["clean_prediction"] == rows["label"] if column == "correct" else True
    found = rows.assign(value=rows[column].astype(bool), whole=rows[column].astype(bool) & clean)
    keys = ["family", "strength", "sample"]
    table = found.groupby(keys, sort=True).agg(mean=("value", "mean"), worst=("whole", "all")).reset_index()
    table["worst"] = table.groupby(["family", "sample"], sort=False)["worst"].cummin()
    return table


def stability(rows: pd.DataFrame, outcomes: Outcomes, seed: int) -> Iterator[dict[str, Any]]:
    """Relative stability of a classifier at each strength, with its parts D and G.

    The median over images of the mean over draws of the squared change of the logits, under deformations over that
    under noise of the same norm, as Petrini et al. (NeurIPS 2021) and their code do it; D and G are the two over the
    median change from one image to another. The bootstrap draws images, with all that belongs to each.
    """
    mine = rows[(rows["classifier"] == outcomes.classifier) & (rows["family"] == DEFORMATION)]
    for strength, part in mine.groupby("strength"):
        parts = part[["change", "noise_change", "pair_change"]].astype(float).groupby(part["sample"]).mean()
        values = parts[["change", "noise_change"]].dropna().to_numpy()
        stream = statistics.stream(seed, outcomes.dataset, outcomes.classifier, KIND, "stability", f"{strength:g}")
        ratio = statistics.bootstrap(values, _ratio, seed=stream) if len(values) else NOTHING
        medians = parts.median()
        medians["pair_change"] = medians["pair_change"] or math.nan
        own = {"strength": float(str(strength)), "n": len(values), "stability": ratio.value}
        own |= {"low": ratio.low, "high": ratio.high}
        own |= {"deformation": medians["change"] / medians["pair_change"]}
        yield record(outcomes, **own, noise=medians["noise_change"] / medians["pair_change"])


def _ratio(values: statistics.Array) -> statistics.Array:
    """Median of the first over the median of the second: (..., n, 2) -> (...)."""
    medians = np.median(values, axis=-2)
    out = np.full(medians.shape[:-1], np.nan)
    return np.asarray(np.divide(medians[..., 0], medians[..., 1], out=out, where=medians[..., 1] > 0))


def _curves(outcomes: Outcomes, rows: pd.DataFrame, seed: int) -> Iterator[dict[str, Any]]:
    """Of one classifier: per measure, family, strength (0 is the clean image) and row of panels a share."""
    once = rows.drop_duplicates("sample")
    for column in MEASURES:
        table = shares(rows, column)
        clean = once["clean_prediction"] == once["label"] if column == "correct" else once["label"] == once["label"]
        for (family, strength), part in table.groupby(["family", "strength"], sort=False):
            names = (outcomes.dataset, outcomes.classifier, KIND, column, str(family), f"{strength:g}")
            values = part["mean"].to_numpy(dtype=float)
            mean = statistics.bootstrap(values, statistics.mean, seed=statistics.stream(seed, *names))
            for kind, value in (("mean", mean), ("worst", statistics.share(part["worst"]))):
                own = {"measure": column, "family": family, "strength": strength, "orbit": kind, "n": len(part)}
                yield record(outcomes, **own, **limits(value))
        for family in dict.fromkeys(table["family"]):
            for kind in ROWS:
                own = {"measure": column, "family": family, "strength": 0.0, "orbit": kind, "n": len(once)}
                yield record(outcomes, **own, **limits(statistics.share(clean)))


def _orbits(
    data: pd.DataFrame, members: Sequence[Outcomes], look: Look, column: str, tail: str, table: Table | None
) -> Chart:
    families = [family for family in UNITS if family in set(data["family"])]
    what = MEASURES[column]
    width = max(5.5, WIDTH * min(1, len(families) / 4))
    with canvas(width, 1.0 + look.room_of(width) + 4.2) as figure:
        axes = panels(figure, 2 * len(families), len(families), sharex="col", sharey=True)
        for place, axis in enumerate(axes):
            family, kind = families[place % len(families)], list(ROWS)[place // len(families)]
            part = data[(data["family"] == family) & (data["orbit"] == kind)]
            for outcomes in members:
                mine = part[part["classifier"] == outcomes.classifier].sort_values("strength")
                _curve(axis, mine, look(outcomes), veil(len(members)))
            axis.set_title(family if kind == "mean" else "")
            axis.set_xlabel(UNITS[family] if kind == "worst" else "", fontsize=8)
            axis.tick_params(labelbottom=kind == "worst")
            if family == families[0]:
                axis.set_ylabel(f"{what} [%],\n{ROWS[kind]}")
        axes[0].set_ylim(max(-2, 10 * np.floor(10 * data["low"].min()) - 2), 102)
        look.legend(figure, markersize=4)
        png, vector = render(figure)
    meaning = (
        "the transformed images classified correctly"
        if column == "correct"
        else "the transformed images that keep the prediction of the clean one, right or wrong"
    )
    caption = (
        f"{what.capitalize()} along orbits on {members[0].dataset}, {count(data['n'].tolist())}. Above: share of "
        f"{meaning}, mean over the elements of one strength. Below: share of images of which all elements up to that "
        "strength are"
        + (", the clean image among them" if column == "correct" else "")
        + ". Strength 0 is the clean image; shifts and typical displacements are in shares of the side, changes of "
        "scale and colour in s. Bands: 95 % intervals, bootstrap over images above, Wilson below. "
        f"{CODING} The vertical axis need not start at 0."
    )
    last = data[(data["orbit"] == "worst") & (data["strength"] > 0)]
    last = last[last["strength"] == last.groupby("family")["strength"].transform("max")]
    alt = f"Line charts of {what} against strength, {len(families)} families of transforms. " + " ".join(
        extremes(last[last["family"] == family], f"Worst in the orbit, {family}") for family in families
    )
    title = f"{what.capitalize()} along orbits"
    return Chart(f"invariance_{what}{tail}", title, caption, alt, png, vector, data, SECTION, table)


def _curve(axis: Axes, data: pd.DataFrame, style: dict[str, Any], opacity: float) -> None:
    axis.plot(data["strength"], 100 * data["share"], markersize=3.5, **style)
    band = 100 * data["low"], 100 * data["high"]
    axis.fill_between(data["strength"], *band, color=style["color"], alpha=opacity, linewidth=0)


def _stability(data: pd.DataFrame, members: Sequence[Outcomes], look: Look, tail: str) -> Chart:
    strengths = sorted(set(data["strength"]))
    with canvas(6.5, 1.0 + look.room_of(6.5) + 3.0) as figure:
        (axis,) = panels(figure, 1, 1)
        for place, outcomes in enumerate(members):
            mine = data[data["classifier"] == outcomes.classifier].sort_values("strength")
            mine = mine[mine["stability"] > 0]
            style = look(outcomes)
            shift = 1.012 ** (2 * place - len(members) + 1)
            arms = [mine["stability"] - mine["low"], mine["high"] - mine["stability"]]
            axis.errorbar(shift * mine["strength"], mine["stability"], yerr=arms, capsize=2, elinewidth=1.1, **style)
        axis.axhline(1, color="#777777", linewidth=1, linestyle=(0, (2, 2)))
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(strengths, [f"{strength:g}" for strength in strengths])
        axis.xaxis.set_minor_locator(NullLocator())
        scales.ticks(axis.yaxis, *axis.get_ylim())
        axis.set_xlabel("typical displacement [share of the side]")
        axis.set_ylabel("relative stability R")
        look.legend(figure)
        png, vector = render(figure)
    caption = (
        f"Relative stability to smooth deformations on {members[0].dataset}, {count(data['n'].tolist())}: median "
        "squared change of the logits under deformations over that under Gaussian noise of the same norm. The lower, "
        "the less a classifier sees of a deformation; at the dashed line it sees as much as of noise. Bars: 95 % "
        "intervals, bootstrap over images; points are spread sideways for legibility. Both axes are logarithmic. After "
        f"Petrini et al. (NeurIPS 2021), but for noise that has the norm of its own image's deformation. {CODING}"
    )
    named = data.rename(columns={"stability": "share"})
    largest = named[named["strength"] == max(strengths)].sort_values("share", kind="stable").to_dict("records")
    alt = f"Line chart with intervals, {len(members)} classifiers. At {max(strengths):g} of the side: " + "; ".join(
        f"{row['classifier']} {row['share']:.2g}" for row in largest
    )
    return Chart(
        f"invariance_stability{tail}", "Relative stability to deformations", caption, alt, png, vector, data, SECTION
    )


def _table(data: pd.DataFrame, stable: pd.DataFrame, members: Sequence[Outcomes]) -> Table:
    """Per classifier: accuracy of the clean images, worst accuracy of each family, relative stability."""
    families = [family for family in UNITS if family in set(data["family"])]
    accuracy = data[(data["measure"] == "correct") & (data["orbit"] == "worst")]
    largest = accuracy.groupby("family")["strength"].max()
    strengths = sorted(set(stable["strength"])) if len(stable) else []
    headers = ["Classifier", "n", "Clean accuracy [%]"]
    headers += [f"Worst in the orbit, {family} up to {largest[family]:g} [%]" for family in families]
    headers += [f"R at {strength:g} of the side" for strength in strengths]
    lines = []
    for outcomes in members:
        mine = accuracy[accuracy["classifier"] == outcomes.classifier]
        cells = [*words(outcomes.classifier), whole(int(mine["n"].max())), _cell(mine[mine["strength"] == 0], "share")]
        for family in families:
            cells.append(_cell(mine[(mine["family"] == family) & (mine["strength"] == largest[family])], "share"))
        for strength in strengths:
            here = stable[(stable["classifier"] == outcomes.classifier) & (stable["strength"] == strength)]
            cells.append(_cell(here, "stability"))
        lines.append(cells)
    return Table(headers, lines)


def _cell(data: pd.DataFrame, name: str) -> Cell:
    """The number of the first row, if there is one."""
    first = data[[name, "low", "high"]].to_numpy(dtype=float)[:1].tolist()
    value = Interval(*first[0]) if first else NOTHING
    return estimate(value) if name == "share" else estimate(value, NUMBER)
