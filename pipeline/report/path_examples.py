"""Along a few paths between points of one class: the margin of the class, and the images."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.report.claims import Claim
from pipeline.report.classes import Named, shortened
from pipeline.report.leaderboard import slug
from pipeline.report.outcomes import Outcomes
from pipeline.report.regions import SECTION as REGIONS
from pipeline.report.regions import by_measurement, members, of, style_of
from pipeline.report.style import LEGEND_ROW, Chart, Look, canvas, record, render

KIND = "path_examples"
SECTION = REGIONS
TEXT = (
    "Examples show what lies along such paths: where the segment between two points leaves their class, another class "
    "is predicted for the images on it, while those along the path found keep theirs."
)
STRAIGHT, FOUND = "straight", "found"
ROWS, COLUMNS = 6, 3  # classifiers and pairs shown
# Inches: the names, the axis of a panel, the images of a strip, the curves, the heading of a cell, the predictions
# above a strip, and what is left between rows, above them all and below.
NAMES, AXIS, STRIP, CURVES, HEADING, LABELS, GAP, TOP, FOOT = 0.85, 0.52, 2.3, 0.75, 0.18, 0.16, 0.18, 0.05, 0.1
SMALL = 7.0  # points, of the letters in a cell
LETTER, LETTERS = 0.07, 11  # inches of a bold one, and those of a class's name for which a heading has room
ENTRIES = 3  # of the legend
GREY, ALERT, SHADE = "#777777", "#B02A00", "#F6E3DC"


def draw(rows: pd.DataFrame, classifiers: Sequence[Outcomes], look: Look, seed: int) -> Iterator[Chart]:
    """Per measurement, view and kind of pairs: a few pairs (columns) for the classifiers (rows)."""
    for _, name, part in by_measurement(rows, KIND):
        groups = sorted(set(part[["view", "kind"]].itertuples(index=False, name=None)), key=_place)
        for view, kind in groups:
            own = part[(part["view"] == view) & (part["kind"] == kind) & (part["pair"] < COLUMNS)]
            title = str(kind) if view == "clean" else str(view)
            everyone = members(own, classifiers)
            yield _chart(own, _chosen(everyone), len(everyone), look, title, f"{name}_{slug(title)}")


def claims(rows: pd.DataFrame, classifiers: Sequence[Outcomes], seed: int) -> Iterator[Claim]:
    """None: examples prove nothing."""
    return iter(())


def _place(group: tuple[str, str]) -> tuple[bool, str, str]:
    view, kind = group
    return view != "clean", view, kind


def _chosen(everyone: Sequence[Outcomes]) -> list[Outcomes]:
    """The classifiers shown: the first of each architecture and training, as far as there is room."""
    return list({outcomes.style: outcomes for outcomes in reversed(everyone)}.values())[::-1][:ROWS]


def _chart(rows: pd.DataFrame, shown: Sequence[Outcomes], total: int, look: Look, group: str, name: str) -> Chart:
    rows = pd.concat([of(rows, outcomes) for outcomes in shown])
    pairs = sorted(set(rows["pair"]))
    there = rows[rows["converged"].astype(bool)]
    pictures = max(len(row) for row in there["pictured"])
    tall = STRIP / pictures * float((there["height"] / there["width"]).max())
    cell = HEADING + CURVES + 2 * (LABELS + tall) + GAP
    width = NAMES + len(pairs) * (AXIS + STRIP) + 0.1
    entries = ENTRIES if len(pairs) == COLUMNS else 1  # of the legend beside each other
    foot = FOOT + LEGEND_ROW * ENTRIES / entries
    height = TOP + len(shown) * cell + foot
    with canvas(width, height, layout=None) as figure:
        for line, outcomes in enumerate(shown):
            own = of(rows, outcomes)
            top = height - TOP - line * cell
            words = "\n".join(textwrap.fill(part, 13) for part in outcomes.classifier.split("--"))
            figure.text(0.08 / width, (top - cell / 2) / height, words, ha="left", va="center", fontsize=8)
            limits = _limits(own)
            for column, pair in enumerate(pairs):
                paths = {row["path"]: row for row in _records(own[own["pair"] == pair])}
                if paths:
                    left = NAMES + column * (AXIS + STRIP) + AXIS
                    style = style_of(look, outcomes)
                    _cell(figure, paths, style, look.named, limits, left, top, tall, first=column == 0)
        _legend(figure, entries)
        png, vector = render(figure)
    data = pd.concat([_numbers(row, outcomes) for outcomes in shown for row in _records(of(there, outcomes))])
    caption = _caption(rows, shown, total, group)
    title = "Along paths between two images" if group == "image" else "Along paths to perturbed images"
    title += "" if group in ("image", "perturbed") else f", {group}"
    return Chart(name, title, caption, _alt(rows, data, shown), png, vector, data.reset_index(drop=True), SECTION)


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _limits(own: pd.DataFrame) -> tuple[float, float]:
    """Limits of the margins of one classifier, all pairs alike."""
    values = np.concatenate([_margins(row) for row in _records(own) if row["converged"]])
    values = values[np.isfinite(values)]
    low, high = min([0.0, *values]), max([0.0, *values])
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _margins(row: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if value is None else value for value in row["margin"]], dtype=float)


def _cell(
    figure: Figure,
    paths: Mapping[str, Any],
    style: Mapping[str, Any],
    named: Named,
    limits: tuple[float, float],
    left: float,
    top: float,
    tall: float,
    first: bool,
) -> None:
    """One pair: its margins, and below them the images at the same places; lengths in inches."""
    straight, found = paths[STRAIGHT], paths[FOUND]
    width, height = figure.get_size_inches()
    half = 0.5 / max(len(straight["pictured"]) - 1, 1)  # an image is as wide as the distance between two

    def axes(upper: float, extent: float) -> Axes:
        return figure.add_axes((left / width, (upper - extent) / height, STRIP / width, extent / height))

    figure.text(
        (left + STRIP / 2) / width, (top - HEADING / 2) / height, _heading(straight, named), ha="center", va="center"
    )
    figure.texts[-1].set_fontsize(SMALL + 0.5)
    axis = axes(top - HEADING, CURVES)
    axis.set(xlim=(-half, 1 + half), ylim=limits, xticks=[])
    axis.axhspan(limits[0], 0, color=SHADE, zorder=0)
    axis.axhline(0, color="black", linewidth=0.7)
    axis.plot(straight["share"], _margins(straight), color=GREY, linestyle=(0, (3, 1.5)), linewidth=1.1)
    if found["converged"]:
        axis.plot(found["share"], _margins(found), color=style["color"], linewidth=1.3)
    axis.tick_params(labelsize=SMALL, length=2, pad=1.5)
    axis.locator_params(axis="y", nbins=4)
    if first:
        axis.set_ylabel("margin [logits]", fontsize=SMALL + 0.5, labelpad=2)
    upper = top - HEADING - CURVES - LABELS
    same = found["converged"] and found["anchors"] == 0
    for row, note in ((straight, STRAIGHT), (found, "found:\nsame" if same else FOUND)):
        _strip(axes(upper, tall), row, half, note, named)
        upper -= tall + LABELS


def _heading(row: Mapping[str, Any], named: Named) -> str:
    own, other = (shortened(named(row[name]), LETTERS) for name in ("class", "partner_class"))
    if row["kind"] == "image":
        return f"two images of class {own}"
    article = "a " if other.isdecimal() else ""
    return f"class {own}, and {article}{other} perturbed into it"


def _strip(axis: Axes, row: Mapping[str, Any], half: float, note: str, named: Named) -> None:
    """Images along a path, each below the class predicted for it."""
    axis.set(xlim=(-half, 1 + half), ylim=(0, 1), xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.text(-half - 0.03, 0.5, note, ha="right", va="center", fontsize=SMALL, color="#444444")
    if not row["converged"]:
        axis.text(0.5, 0.5, "no path found", ha="center", va="center", fontsize=SMALL + 1, color=ALERT)
        return
    letters = max(3, int(STRIP / len(row["pictured"]) / LETTER))
    for image, place in zip(_images(row), row["pictured"], strict=True):
        share, prediction = row["share"][place], row["prediction"][place]
        extent = (share - 0.96 * half, share + 0.96 * half, 0, 1)
        pixels = np.clip(image[..., 0] if image.shape[-1] == 1 else image, 0, 1)
        axis.imshow(pixels, extent=extent, aspect="auto", interpolation="nearest", cmap="gray", vmin=0, vmax=1)
        other = prediction != row["class"]
        weight, colour = ("bold", ALERT) if other else ("normal", "black")
        look: Any = {"fontsize": SMALL, "color": colour, "weight": weight}
        axis.text(share, 1.04, shortened(named(prediction), letters), ha="center", va="bottom", **look)
    axis.set(xlim=(-half, 1 + half), ylim=(0, 1))


def _images(row: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(k, h, w, c)."""
    shape = (len(row["pictured"]), row["channels"], row["height"], row["width"])
    return np.frombuffer(row["images"], dtype="<f4").reshape(shape).transpose(0, 2, 3, 1)


def _legend(figure: Figure, entries: int) -> None:
    handles = [
        Line2D([], [], color=GREY, linestyle=(0, (3, 1.5)), linewidth=1.1),
        Line2D([], [], color="#000000", linewidth=1.3),
        Line2D([], [], color=SHADE, linewidth=8),
    ]
    words = (
        "straight segment",
        "path found inside the class (colour: training)",
        "another class leads (bold red)",
    )
    figure.legend(handles, words, loc="lower center", ncols=entries)


def _numbers(row: Mapping[str, Any], outcomes: Outcomes) -> pd.DataFrame:
    names = ("view", "kind", "pair", "path", "sample", "partner", "class", "length", "anchors", "verified")
    own = record(outcomes, **{name: row[name] for name in names})
    along = pd.DataFrame({"share": row["share"], "margin": _margins(row), "prediction": row["prediction"]})
    return pd.DataFrame({name: [value] * len(along) for name, value in own.items()}).join(along)


def _caption(rows: pd.DataFrame, shown: Sequence[Outcomes], total: int, group: str) -> str:
    ends = {
        "image": "two images for which the same class is predicted",
        "perturbed": "an image and one of another class that was pushed into its class",
    }.get(group, f"an image and one of another class that {group} perturbed into its class")
    found = rows[rows["path"] == FOUND]
    missing = int((~found["converged"].astype(bool)).sum())
    broken = int((found["converged"].astype(bool) & ~found["verified"].eq(True)).sum())
    most = int(found.groupby("classifier").size().max())
    each = f" each of {len(shown)} of {total} classifiers" if len(shown) < total else " a classifier"
    text = (
        f"Along paths between {ends}, on {shown[0].dataset}, n = {most} pair{'s' * (most > 1)}{each}: examples, not a "
        "sample, since pairs whose segment leaves the class are shown first. Curves: the logit of the class minus the "
        "largest other one, against the share of the path's length, on one scale for each classifier; single paths, so "
        "without intervals. Images: those at the places below which they stand, each under the class predicted for it."
    )
    text += f" No path was found for {missing} of {len(found)} pairs; one may still exist." * (missing > 0)
    text += f" {broken} of the paths found leave the class when sampled ten times as densely." * (broken > 0)
    return f"{text} After Fawzi et al., CVPR 2018."


def _alt(rows: pd.DataFrame, data: pd.DataFrame, shown: Sequence[Outcomes]) -> str:
    straight = rows[rows["path"] == STRAIGHT]
    leaving = int((~straight["verified"].eq(True)).sum())
    text = (
        f"Curves and film strips for {len(straight)} pairs of {len(shown)} classifiers. The straight segment leaves "
        f"the class for {leaving} of them"
    )
    lowest = data.dropna(subset=["margin"]).sort_values("margin", kind="stable").to_dict("records")
    if leaving and lowest:
        text += f", at worst with a margin of {lowest[0]['margin']:.3g} ({lowest[0]['classifier']})"
    return text + "."
